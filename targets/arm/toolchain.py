"""ARM libraries: cross-compiled by TVM's LLVM; a linker is all they need, neither a compiler nor a sysroot."""

import platform
from collections.abc import Sequence
from pathlib import Path

import tvm

from targets import Target
from targets.arm.emulation import processor
from targets.library import llvm

EMULATED = True  # runner needs no processor of the target's kind

# LLVM intrinsic's prefix -> feature; the first that fits counts
FEATURES = {
    "llvm.aarch64.neon.sdot": "dotprod",
    "llvm.aarch64.neon.udot": "dotprod",
    "llvm.aarch64.neon.usdot": "i8mm",
    "llvm.aarch64.neon.smmla": "i8mm",
    "llvm.aarch64.neon.ummla": "i8mm",
    "llvm.aarch64.neon.usmmla": "i8mm",
    "llvm.aarch64.neon.bf": "bf16",
    "llvm.aarch64.neon.": "neon",
}


def linker() -> list[str]:
    """Program and options of the first linker found; raises TargetError where there is none."""
    # no -z max-page-size: the linker's 64 KiB suits kernels with pages of 4, 16 (Raspberry Pi 5) and 64 KiB
    choices = [
        ("aarch64-linux-gnu-ld", llvm.LINK),
        ("aarch64-linux-gnu-gcc", llvm.COMPILE),
        ("ld.lld", llvm.LINK),
        ("ziglang", llvm.LINK),
    ]
    if platform.machine() == "aarch64":
        choices += [("cc", llvm.COMPILE), ("ld", llvm.LINK)]
    return llvm.find_linker(
        choices,
        "expected a linker for aarch64 (aarch64-linux-gnu-ld, aarch64-linux-gnu-gcc or "
        "ld.lld), found none; install one: apt install binutils-aarch64-linux-gnu, "
        "or pip install ziglang",
    )


def build(
    module: tvm.IRModule, target: Target, library: Path, workdir: Path | None = None, source_only: bool = False
) -> dict:
    """Writes the shared library `library`; returns {"command"}; raises TargetError (see targets/library/llvm.py)."""
    return build_levels([module], target, library, workdir, source_only)


def build_levels(
    modules: Sequence[tvm.IRModule],
    target: Target,
    library: Path,
    workdir: Path | None = None,
    source_only: bool = False,
) -> dict:
    """The same with a module of each of `target.compiled_for`, all in one library."""
    if source_only:
        llvm.refuse_source_only(target)
    return llvm.build(modules, target, library, workdir, FEATURES, linker())


def runner(library: Path, target: Target, function: str = "main") -> processor.Runner:
    """Runs the library's `function` on the target's processor, emulated."""
    return processor.Runner(library, target.cpu, function=function)
