"""What the compiler uses of the CUDA family."""

from targets.cpu.look.vectors import Vectors
from targets.cuda import host, kernels, toolchain
from targets.family import Family

FAMILY = Family(
    rules=kernels.rules,
    assemble=kernels.assemble,
    fuses_rescales=True,
    batches=True,
    linker=toolchain.linker,
    build=toolchain.build,
    runner=toolchain.runner,
    emulated=True,
    vectors=lambda target: Vectors(1),  # noqa: ARG005  (C for whatever compiler the board has)
    build_look=host.build,
    open_look=host.open_look,
)
