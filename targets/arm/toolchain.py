"""ARM libraries: cross-compiled by TVM's LLVM; a linker is all they need, neither a compiler nor a sysroot."""

import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from targets import Target
from targets.arm.emulation import processor
from targets.library import llvm
from targets.library.caller import Caller

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
    return llvm.first_linker(
        choices,
        "expected a linker for aarch64 (aarch64-linux-gnu-ld, aarch64-linux-gnu-gcc or "
        "ld.lld), found none; install one: apt install binutils-aarch64-linux-gnu, "
        "or pip install ziglang",
    )


build = partial(llvm.build, features=FEATURES, find_linker=linker)


def open_look(library: Path, target: Target) -> Caller:
    """Returns what calls functions of a library on the target's processor, emulated."""
    runners: dict[str, processor.Runner] = {}

    def call(function: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if function not in runners:
            runners[function] = processor.Runner(library, target.cpu, function=function)
        return runners[function].call(arrays)

    return call


def runner(library: Path, target: Target, function: str = "main") -> processor.Runner:
    """Runs the library's `function` on the target's processor, emulated."""
    return processor.Runner(library, target.cpu, function=function)
