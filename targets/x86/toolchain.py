"""x86 libraries: compiled by TVM's LLVM, linked by whatever linker is at hand."""

import platform
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tvm_ffi

from runtime.abi import aligned_copy
from targets import Target, TargetError
from targets.library import llvm
from targets.library.caller import Caller, open_caller

# LLVM intrinsic's prefix -> features any of which suffices; the first prefix that fits counts
FEATURES = {
    "llvm.x86.sse": "sse4.2",
    "llvm.x86.ssse3": "ssse3",
    "llvm.x86.avx2": "avx2",
    "llvm.x86.avx.": "avx",
    "llvm.x86.fma": "fma",
    "llvm.x86.avx512.vpdpbusd.512": "avx512vnni",
    "llvm.x86.avx512.vpdp": "avxvnni avx512vnni",
    "llvm.x86.avx512": "avx512bw",
}


def linker() -> list[str]:
    """Program and options of the first linker found; raises TargetError where there is none."""
    native = platform.machine() == "x86_64"
    choices = [(name, llvm.COMPILE) for name in ("cc", "gcc", "clang") if native] + [("ld", llvm.LINK)] * native
    choices += [
        ("x86_64-linux-gnu-ld", llvm.LINK),
        ("x86_64-linux-gnu-gcc", llvm.COMPILE),
        ("ld.lld", llvm.LINK),
        ("ziglang", llvm.LINK),
    ]
    return llvm.first_linker(
        choices,
        "expected a linker for x86-64 (cc, gcc, clang, ld or ld.lld), found none; "
        "install one: apt install binutils, or pip install ziglang",
    )


build = partial(llvm.build, features=FEATURES, find_linker=linker)


def open_look(library: Path, target: Target) -> Caller:
    """Returns what calls functions of a library in this process; raises TargetError unless this is such a machine."""
    _require_machine(library, target)
    return open_caller(library)


def runner(library: Path, target: Target, function: str = "main") -> Callable[..., np.ndarray]:
    """Runs the library's `function` in this process: (x, weights, table, workspace bytes, classes) -> int32 [classes].

    Raises TargetError where this machine is not the target's.
    """
    _require_machine(library, target)
    with tempfile.TemporaryDirectory() as folder:  # a new path: dlopen would hand back an older library of this one
        copy = shutil.copy(library, Path(folder) / library.name)
        main = tvm_ffi.load_module(str(copy))[function]

    def run(x: np.ndarray, weights: np.ndarray, table: np.ndarray, workspace_bytes: int, classes: int) -> np.ndarray:
        out = aligned_copy(np.zeros(classes, np.int32))
        stale = np.full(workspace_bytes, 0xA5, np.uint8)  # a kernel must not count on zeros
        main(
            *(
                tvm_ffi.from_dlpack(a)
                for a in (aligned_copy(x), aligned_copy(weights), aligned_copy(table), aligned_copy(stale), out)
            )
        )
        return out.copy()

    return run


def _require_machine(library: Path, target: Target) -> None:
    if platform.machine() != target.machine:
        raise TargetError(
            f"expected a machine of {target.machine} to run {library.name}, got {platform.machine()}; "
            "nothing here emulates it: build on such a machine"
        )
