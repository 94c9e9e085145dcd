"""64-bit ARM boards under Linux; what tells them apart here is the int8 dot product (asimddp)."""

from targets import NO_TBAA, Target

_TVM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "cl-opt": NO_TBAA}


def _target(cpu: str, *requires: str) -> Target:
    return Target(
        name=f"arm:{cpu}",
        family="arm",
        machine="aarch64",
        requires=("asimd", *requires),
        tvm={**_TVM, "mcpu": cpu},
        cpu=cpu,
    )


_LEVELS = (
    _target("cortex-a76", "asimddp"),  # Raspberry Pi 5, and every later core
    _target("cortex-a72"),  # Raspberry Pi 4: no dot product
)

TARGETS = (
    Target(name="arm", family="arm", machine="aarch64", levels=_LEVELS),
    *_LEVELS,
    _target("cortex-a78ae", "asimddp"),  # Jetson Orin's processor
)
