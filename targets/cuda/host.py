"""The look of a CUDA bundle: plain C for the processor beside the GPU, compiled wherever its kernels are."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm_ffi import libinfo

from targets import Target, TargetError
from targets.cuda import toolchain
from targets.library import elf, llvm
from targets.library.caller import Caller, open_caller

_COMPILERS = ("gcc", "cc", "clang")
# of TVM's compiler, which nobody has where the source is compiled; all it takes from them is the name of an attribute
_HEADERS = '#include "tvm/runtime/base.h"\n#include "tvm/runtime/c_backend_api.h"\n'
_ATTRIBUTE = '#include "tvm/ffi/c_api.h"\n'


def source(module: tvm.IRModule) -> str:
    """Returns a module's functions in C. Raises TargetError where TVM writes it in another way than is known here."""
    with tvm.transform.PassContext(config=llvm.PASSES):
        text = str(tvm.compile(module, target=tvm.target.Target("c")).mod.inspect_source())
    if _HEADERS not in text or _ATTRIBUTE not in text:
        raise TargetError(f"expected C that begins with the headers of TVM, got:\n{text[:500]}")
    return text.replace(_HEADERS, "").replace(_ATTRIBUTE, f"{_ATTRIBUTE}#define TVM_DLL TVM_FFI_DLL_EXPORT\n")


def build(
    modules: Sequence[tvm.IRModule],
    target: Target,
    library: Path,
    workdir: Path | None = None,  # noqa: ARG001  (nothing is left between the source and the library)
    source_only: bool = False,
) -> dict[str, Any]:
    """Writes `library` and its source, which rebuild.sh compiles as it does kernels; returns facts for the manifest.

    Raises TargetError where a compiler is missing or fails.
    """
    text = library.with_suffix(".cu")
    (module,) = modules
    text.write_text(source(module))
    facts: dict[str, Any] = {"source": text.name}
    if source_only:
        return facts
    partial = library.with_name(f".{library.name}.partial")
    with tempfile.TemporaryDirectory() as scratch:
        toolchain.compile_source(text, partial, target, Path(scratch))
    linked = elf.read(partial)
    if linked.machine != target.machine:
        raise TargetError(f"{library.name}: expected a library for {target.machine}, got one for {linked.machine}")
    partial.replace(library)
    return facts


def open_look(library: Path, target: Target) -> Caller:  # noqa: ARG001  (the source is the same for all)
    """Returns what calls the functions of the source beside a library, compiled for this machine.

    Raises TargetError where nothing here compiles it.
    """
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise TargetError(f"expected a C compiler ({', '.join(_COMPILERS)}), found none; apt install gcc")
    with tempfile.TemporaryDirectory() as folder:
        native = Path(folder) / library.name
        include = f"-I{libinfo.find_include_path()}"
        text = str(library.with_suffix(".cu"))
        llvm.run([compiler, "-x", "c", "-O2", "-shared", "-fPIC", include, "-o", str(native), text])
        return open_caller(native)
