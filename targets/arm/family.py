"""What the compiler uses of the ARM family."""

from targets.arm import kernels, look, toolchain
from targets.arm.cycles import LlvmModel
from targets.family import Family
from targets.library.module import assemble

FAMILY = Family(
    rules=kernels.rules,
    assemble=assemble,
    fuses_rescales=True,
    batches=False,
    linker=toolchain.linker,
    build=toolchain.build,
    runner=toolchain.runner,
    emulated=True,
    vectors=look.vectors,
    build_look=toolchain.build,
    open_look=toolchain.open_look,
    cycles=LlvmModel(),
)
