"""What the compiler uses of the CUDA family."""

from targets.cuda import kernels, toolchain
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
)
