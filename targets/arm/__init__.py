"""64-bit ARM boards under Linux; what tells them apart here is the int8 dot product (asimddp)."""

from targets import NO_TBAA, Target

_TVM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "cl-opt": NO_TBAA}

TARGETS = (
    # Raspberry Pi 4: no dot product
    Target(
        name="arm:cortex-a72",
        family="arm",
        machine="aarch64",
        requires=("asimd",),
        tvm={**_TVM, "mcpu": "cortex-a72"},
        cpu="cortex-a72",
    ),
    # Raspberry Pi 5
    Target(
        name="arm:cortex-a76",
        family="arm",
        machine="aarch64",
        requires=("asimd", "asimddp"),
        tvm={**_TVM, "mcpu": "cortex-a76"},
        cpu="cortex-a76",
    ),
    # Jetson Orin's processor
    Target(
        name="arm:cortex-a78ae",
        family="arm",
        machine="aarch64",
        requires=("asimd", "asimddp"),
        tvm={**_TVM, "mcpu": "cortex-a78ae"},
        cpu="cortex-a78ae",
    ),
)
