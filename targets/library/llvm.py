"""TVM module -> shared library for a processor: feature check, LLVM, a linker, and a look at what the linker left."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tvm
import tvm_ffi
from tvm.target import codegen

from targets import Target, TargetError
from targets.library import elf

# what the library may take from the process that opens it: libtvm_ffi's functions, the C library's block moves, and
# what targets/library/threads.py waits with; __TVMBackend* (workspaces, threads) is absent by intent, since only the
# full TVM runtime has it
_PROVIDED = ("memcpy", "memset", "memmove", "clock_gettime", "sched_yield", "sem_post", "sem_wait")
# storage rewrite drops the annotation that keeps accumulators on the stack
PASSES = {"tirx.disable_storage_rewrite": True}

# options of a linker, and of a compiler that calls one
LINK = ("-shared", "-s", "--build-id=none")
COMPILE = ("-shared", "-s", "-nostdlib", "-Wl,--build-id=none")


def first_linker(choices: list[tuple[str, tuple[str, ...]]], missing: str) -> list[str]:
    """Program and options of the first choice (name, options) that is installed; raises TargetError(missing)."""
    for name, options in choices:
        if path := shutil.which(name):
            return [path, *options]
        if name == "ziglang" and importlib.util.find_spec(name):
            return [sys.executable, "-m", "ziglang", "ld.lld", *options]
    raise TargetError(missing)


def build(
    modules: Sequence[tvm.IRModule],
    target: Target,
    library: Path,
    workdir: Path | None = None,
    source_only: bool = False,
    *,
    features: Mapping[str, str],
    find_linker: Callable[[], list[str]],
) -> dict[str, str]:
    """Writes `library` with an object of each of `target.compiled_for`; returns {"command": that of the linker}.

    modules: in the order of `target.compiled_for`; `target.suffix(level)` is put behind the names of their public
    functions. workdir: keeps objects and assembly. features: prefix of an LLVM intrinsic's name -> LLVM features one of
    which it needs; the first prefix that fits counts. Raises TargetError for an intrinsic the processor lacks (LLVM
    would end the process), a link that fails, a library that would need more than `apache-tvm-ffi` where it runs, or
    source_only, which these processors have no use for.
    """
    if source_only:
        raise TargetError(
            f"{target.name}: source only is for CUDA, whose board can compile it; this target needs just a linker "
            "here: leave --source-only out"
        )
    linker = find_linker()
    with tempfile.TemporaryDirectory() as scratch:
        folder, objects = workdir or Path(scratch), []
        folder.mkdir(parents=True, exist_ok=True)
        for module, level in zip(modules, target.compiled_for, strict=True):
            executable = _compile(_renamed(module, target.suffix(level)), level, features)
            name = library.stem + target.suffix(level)
            if workdir:
                (folder / f"{name}.s").write_text(executable.mod.inspect_source("asm"))
            objects.append(folder / f"{name}.o")
            executable.mod.write_to_file(str(objects[-1]))
        partial = library.with_name(f".{library.name}.partial")
        run([*linker, "-o", str(partial), *map(str, objects)])
    check_library(partial, target)
    partial.replace(library)
    return {"command": " ".join([*linker, "-o", library.name, *(o.name for o in objects)])}


def _compile(module: tvm.IRModule, target: Target, features: Mapping[str, str]):
    tvm_target = tvm.target.Target(target.tvm)
    check_features(module, target, tvm_target, features)
    with tvm.transform.PassContext(config=PASSES):
        return tvm.compile(module, target=tvm_target)


def _renamed(module: tvm.IRModule, suffix: str) -> tvm.IRModule:
    """The module with its public functions under other names, which end as `suffix` says."""
    functions = dict(module.functions.items())
    for variable, function in module.functions.items():
        if "global_symbol" in function.attrs:
            name = variable.name_hint + suffix
            del functions[variable]
            functions[tvm.ir.GlobalVar(name)] = function.with_attr("global_symbol", name)
    return tvm.IRModule(functions)


def run(command: list[str]) -> str:
    """Standard output and error of a command; raises TargetError with both when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise TargetError(
            f"expected exit code 0, got {done.returncode} from: {' '.join(command)}\n{done.stdout}{done.stderr}"
        )
    return done.stdout + done.stderr


def check_features(module: tvm.IRModule, target: Target, tvm_target, features: Mapping[str, str]) -> None:
    """Raises TargetError for the first intrinsic in the module that the target's processor does not have."""
    for variable, function in module.functions.items():
        for intrinsic in sorted(_intrinsics(function)):
            feature = next((features[p] for p in features if intrinsic.startswith(p)), None)
            where = f"{variable.name_hint}: {intrinsic}"
            if feature is None:
                raise TargetError(
                    f"{where}: expected an intrinsic that begins with one of {', '.join(features)}; "
                    f"say which feature this one needs in targets/{target.family}/toolchain.py"
                )
            if not any(codegen.target_has_features(f, tvm_target) for f in feature.split()):
                needed = " or ".join(feature.split())
                raise TargetError(
                    f"{where} needs the feature {needed}, which {target.name} lacks; a kernel rule "
                    "for it must not use this intrinsic"
                )


def _intrinsics(function) -> set[str]:
    names = set()

    def visit(call) -> None:
        if getattr(call.op, "name", "").startswith("tirx.call_llvm"):
            names.add(codegen.llvm_get_intrinsic_name(int(call.args[0])))

    tvm_ffi.structural_walk(function.body, (tvm.ir.Call, visit), order="post")
    return {name for name in names if name.startswith(("llvm.aarch64", "llvm.arm", "llvm.x86"))}


def check_library(library: Path, target: Target) -> None:
    """Raises TargetError unless the library is for the target's machine and needs only libtvm_ffi in the process."""
    linked = elf.read(library)
    if linked.machine != target.machine:
        raise TargetError(f"{library.name}: expected a library for {target.machine}, got one for {linked.machine}")
    extra = sorted(s for s in linked.undefined if not s.startswith("TVMFFI") and s not in _PROVIDED)
    runtime = [s for s in linked.undefined + tuple(linked.defined) if s.startswith(("__TVMBackend", "TVMBackend"))]
    if extra or runtime:
        raise TargetError(
            f"{library.name}: expected only TVMFFI* and {', '.join(_PROVIDED)} from outside, got "
            f"{', '.join(sorted({*extra, *runtime}))}. TVMBackend* comes from T.parallel or from a "
            f"scratch buffer of scope local without disable_lower_builtin; anything else from float code"
        )
    if linked.needed:
        raise TargetError(f"{library.name}: expected no library of its own to load, got {', '.join(linked.needed)}")
