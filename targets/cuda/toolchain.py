"""CUDA libraries: TVM writes one .cu file of kernels and the host function that launches them, nvcc compiles it."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm_ffi import libinfo

from targets import Target, TargetError
from targets.cuda.emulation import host as emulate
from targets.library import elf, llvm

_PLACES = ("/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc")
# never --use_fast_math; 174 and 177 are remarks on TVM's style
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-shared",
    "-Xcompiler",
    "-fPIC",
    "--threads",
    "0",
    "-diag-suppress",
    "174,177",
    "-Xptxas",
    "-v",
)
_NATIVE = ("-cudart", "static")
_SYSTEM = (
    "libtvm_ffi",
    "libstdc++",
    "libgcc_s",
    "libc.",
    "libm.",
    "libdl.",
    "librt.",
    "libpthread.",
    "ld-linux",
    "libcudart",
)

_REBUILD = """\
#!/bin/sh
# Compiles every .cu file here on the machine that will run it, and enters the libraries in ../manifest.json.
# Needs nvcc (or NVCC=path), a C++ compiler, and python3 (or PYTHON=path) with apache-tvm-ffi.
set -eu
cd "$(dirname "$0")"
PYTHON=${{PYTHON:-python3}}
FFI=$("$PYTHON" -c "import os, tvm_ffi; print(os.path.dirname(tvm_ffi.__file__))")
for source in *.cu; do
  "${{NVCC:-nvcc}}" {flags} \\
    {archs} \\
    -I"$FFI/include" -o "${{source%.cu}}.so" "$source" -L"$FFI/lib" -ltvm_ffi
done
"$PYTHON" - <<'END'
import glob, hashlib, json, os, platform
manifest = json.load(open("../manifest.json"))
manifest["target"]["machine"] = platform.machine()
for path in glob.glob("*.so"):
    data = open(path, "rb").read()
    manifest["files"]["lib/" + path] = {{"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
del manifest["sha256"]
manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
with open("../manifest.json.partial", "w") as file:
    json.dump(manifest, file, indent=1)
os.replace("../manifest.json.partial", "../manifest.json")
END
"""


def source(module: tvm.IRModule, target: Target) -> str:
    """The .cu text: every kernel, and the exported `main` that launches them."""
    return tvm.backend.cuda.export_cuda_host(tvm.compile(module, target=tvm.target.Target(target.tvm)).mod)


def build(
    modules: Sequence[tvm.IRModule],
    target: Target,
    library: Path,
    workdir: Path | None = None,  # noqa: ARG001  (nothing is left between the source and the library)
    source_only: bool = False,
) -> dict[str, Any]:
    """Writes `library`, its .cu file beside it, and rebuild.sh with the commands; returns facts for the manifest.

    Facts: {"source", "command"} and, unless source_only, {"compiler", "archs", "kernels", "registers" (the most of any
    kernel), "spilled" (bytes over all kernels), "stack" and "shared" (bytes, the most of any kernel)}. Raises
    TargetError where a compiler is missing or fails.
    """
    text = library.with_suffix(".cu")
    (module,) = modules
    text.write_text(source(module, target))
    script = library.parent / "rebuild.sh"
    script.write_text(_REBUILD.format(flags=" ".join((*_FLAGS, *_NATIVE)), archs=" ".join(_gencode(target))))
    script.chmod(0o755)
    facts = {"source": text.name, "command": " ".join(["nvcc", *_FLAGS, *_NATIVE, *_gencode(target)])}
    if source_only:
        return facts
    partial = library.with_name(f".{library.name}.partial")
    with tempfile.TemporaryDirectory() as scratch:
        log = compile_source(text, partial, target, Path(scratch))
    check_library(partial, target)
    partial.replace(library)
    return {**facts, "compiler": version(), **statistics(log)}


def compile_source(text: Path, library: Path, target: Target, scratch: Path) -> str:
    """Compiles a .cu file into a library; returns what nvcc said. Raises TargetError where it is missing or fails."""
    command = [nvcc(), *_FLAGS, *_gencode(target), f"-I{libinfo.find_include_path()}", "-o", str(library), str(text)]
    return llvm.run([*command, *_host(target, scratch)])


def linker() -> list[str]:
    """Returns nvcc, which links as well. Raises TargetError where there is none."""
    return [nvcc()]


def _host(target: Target, scratch: Path) -> list[str]:
    """nvcc's words about the machine that calls main: this one, or one whose compiler is here but not its libraries.

    Empty libraries stand for those at link time, by their names: the board has libcudart, and tvm_ffi is loaded.
    """
    if target.machine == platform.machine():
        return [*_NATIVE, f"-L{Path(libinfo.find_libtvm_ffi()).parent}", "-ltvm_ffi"]
    compiler = shutil.which(f"{target.machine}-linux-gnu-g++")
    if compiler is None:
        raise TargetError(
            f"{target.name}: expected {target.machine}-linux-gnu-g++ to build for another machine, found "
            f"none; apt install g++-{target.machine}-linux-gnu, or use --source-only and run "
            "lib/rebuild.sh on the board"
        )
    names = ["libtvm_ffi.so", f"libcudart.so.{version().partition('.')[0]}"]
    for name in names:
        llvm.run(
            [compiler, "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", str(scratch / name), "-x", "c", "/dev/null"]
        )
    plan = llvm.run([nvcc(), "--dryrun", "-c", "-x", "cu", "/dev/null", "-o", "/dev/null"])
    headers = re.search(r'INCLUDES="(-I[^"\s]+)', plan)[1]  # where it would not look for another machine
    return [
        "-ccbin",
        compiler,
        "-cudart",
        "none",
        headers,
        f"-L{scratch}",
        "-Xlinker",
        "--no-as-needed",
        *(f"-l:{name}" for name in names),
    ]


def nvcc() -> str:
    """Path of nvcc: $NVCC, PATH, then the usual places; raises TargetError where there is none."""
    path = os.environ.get("NVCC") or shutil.which("nvcc") or next((p for p in _PLACES if Path(p).exists()), None)
    if path is None:
        raise TargetError(
            "expected nvcc (CUDA 11.8 or later) in $NVCC, PATH or /usr/local/cuda/bin, found none; "
            "install the CUDA toolkit, or use --source-only and run lib/rebuild.sh on the GPU's machine"
        )
    return path


def version() -> str:
    """Returns nvcc's release, like "13.0". Raises TargetError where it tells none."""
    output = llvm.run([nvcc(), "--version"])
    match = re.search(r"release ([\d.]+)", output)
    if match is None:
        raise TargetError(f"expected a release from nvcc --version, got:\n{output[:500]}")
    return match[1]


def statistics(log: str) -> dict:
    """Returns what `ptxas -v` said: {"archs", "kernels", "registers", "spilled", "stack", "shared"}.

    Raises TargetError where the log is not as expected.
    """
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    compiled = re.findall(r"Compiling entry function '(\w+)' for '(sm_\d+\w*)'", log)
    registers = [int(r) for r in re.findall(r"Used (\d+) registers", log)]
    if not frames or len(frames) < len(compiled) or not registers:
        raise TargetError(f"expected ptxas -v to tell stack and registers of every kernel, got:\n{log[:2000]}")
    return {
        "archs": sorted({arch for _, arch in compiled}),
        "kernels": len({name for name, _ in compiled}),
        "registers": max(registers),
        "spilled": sum(int(stores) + int(loads) for _, stores, loads in frames),
        "stack": max(int(stack) for stack, _, _ in frames),
        "shared": max(map(int, re.findall(r"(\d+) bytes smem", log)), default=0),
    }


def check_library(library: Path, target: Target) -> None:
    """Raises TargetError unless the library is for the target's machine, exports main and needs nothing unexpected."""
    linked = elf.read(library)
    extra = [n for n in linked.needed if not n.startswith(_SYSTEM)]
    if linked.machine != target.machine or "__tvm_ffi_main" not in linked.defined or extra:
        raise TargetError(
            f"{library.name}: expected main for {target.machine} that needs only libtvm_ffi and the C++ "
            f"library, got machine {linked.machine}, needed {linked.needed}"
        )


def runner(library: Path, target: Target, function: str = "main") -> emulate.Runner:  # noqa: ARG001
    """Runs the source beside the library on the CPU: runner(x, weights, table, workspace bytes, classes)."""
    return emulate.Runner(library.with_suffix(".cu"))


def _gencode(target: Target) -> list[str]:
    last = target.archs[-1]
    machine_code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in target.archs]
    return [*machine_code, f"-gencode=arch=compute_{last},code=compute_{last}"]
