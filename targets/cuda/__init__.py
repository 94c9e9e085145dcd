"""NVIDIA GPUs from Ampere on, as one plain shared library, its host part for the machine that runs nvcc or for Orin."""

import platform

from targets import Target


def _target(name: str, *archs: int, machine: str = platform.machine()) -> Target:
    return Target(
        name=name,
        family="cuda",
        machine=machine,
        requires=(f"sm_{archs[0]}",),
        tvm={"kind": "cuda", "arch": f"sm_{archs[0]}", "host": {"kind": "cuda_host"}},
        archs=archs,
    )


TARGETS = (
    _target("cuda", 80, 86, 87, 89, 90),  # any of them in one file; PTX of the last one serves what comes later
    _target("cuda:sm_80", 80),  # A100
    _target("cuda:sm_86", 86),  # RTX 30xx, A10
    _target("cuda:sm_87", 87),  # Jetson Orin, built there
    _target("cuda:orin", 87, machine="aarch64"),  # Jetson Orin, built anywhere
    _target("cuda:sm_89", 89),  # RTX 40xx, L4
    _target("cuda:sm_90", 90),  # H100, H200
)
