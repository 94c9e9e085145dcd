"""ARM libraries: cross-compiled by TVM's LLVM; a linker is all they need, neither a compiler nor a sysroot."""

import importlib.util
import platform
import shutil
import sys
from pathlib import Path

import tvm

from targets import Target, TargetError, llvm
from targets.arm import emulate

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
# no -z max-page-size: the linker's 64 KiB suits kernels with pages of 4, 16 (Raspberry Pi 5) and 64 KiB
_LINKER = ("-shared", "-s", "--build-id=none", "-o")
_COMPILER = ("-shared", "-s", "-nostdlib", "-Wl,--build-id=none", "-o")


def linker() -> tuple[str, llvm.Linker]:
    """Name and command of the first linker found; raises TargetError where there is none."""
    choices = [("aarch64-linux-gnu-ld", _LINKER), ("aarch64-linux-gnu-gcc", _COMPILER), ("ld.lld", _LINKER)]
    for name, options in choices:
        if path := shutil.which(name):
            return name, lambda obj, out: [path, *options, str(out), str(obj)]
    if importlib.util.find_spec("ziglang"):
        return "ziglang", lambda obj, out: [sys.executable, "-m", "ziglang", "ld.lld", *_LINKER, str(out), str(obj)]
    if platform.machine() == "aarch64" and (path := shutil.which("cc") or shutil.which("ld")):
        options = _COMPILER if path.endswith("cc") else _LINKER
        return Path(path).name, lambda obj, out: [path, *options, str(out), str(obj)]
    raise TargetError("expected a linker for aarch64 (aarch64-linux-gnu-ld, aarch64-linux-gnu-gcc or ld.lld), found none; "
                      "install one: apt install binutils-aarch64-linux-gnu, or pip install ziglang")


def build(module: tvm.IRModule, target: Target, library: Path, workdir: Path, source_only: bool = False) -> dict:
    """Writes the shared library `library`; returns {"linker", "command"}; raises TargetError (see targets/llvm.py)."""
    if source_only:
        llvm.refuse_source_only(target)
    return llvm.build(module, target, library, workdir, FEATURES, *linker())


def runner(library: Path, target: Target) -> emulate.Runner:
    """Runs the library's `main` on the target's processor, emulated: runner(x, weights, table, workspace bytes, classes)."""
    return emulate.Runner(library, target.cpu)
