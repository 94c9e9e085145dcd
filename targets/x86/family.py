"""What the compiler uses of the x86 family."""

from targets.family import Family
from targets.library.module import assemble
from targets.x86 import kernels, look, toolchain

FAMILY = Family(
    rules=kernels.rules,
    assemble=assemble,
    fuses_rescales=True,
    batches=False,
    linker=toolchain.linker,
    build=toolchain.build,
    runner=toolchain.runner,
    emulated=False,
    vectors=look.vectors,
    build_look=toolchain.build,
    open_look=toolchain.open_look,
)
