"""Loads compiled libraries and calls them through tvm_ffi, which only this file imports, when a library is loaded."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Protocol

from runtime.fields import COPY, BundleError

_TENSOR, _INTEGER = 70, 1  # TVMFFITypeIndex


class Tensor(Protocol):
    """A flat tensor as compiled functions take it, a tvm_ffi.Tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    def __chandle__(self) -> int: ...


class Function(Protocol):
    """A function of a compiled library, a tvm_ffi.Function."""

    def __call__(self, *arguments: object) -> object:
        """Calls the function with tensors and integers."""

    def __chandle__(self) -> int: ...


def import_ffi() -> ModuleType:
    """Returns the module tvm_ffi. Raises BundleError where it is not installed."""
    try:
        import tvm_ffi  # here, because it takes 0.15 s and most of what this package does needs none
    except ImportError as error:
        raise BundleError(
            f"expected the package apache-tvm-ffi, which loads compiled libraries, got: {error}; "
            "install it with `pip install apache-tvm-ffi==0.1.14.post1`"
        ) from error
    return tvm_ffi


def open_library(path: Path) -> Callable[[str], Function]:
    """Opens a library and returns what finds its functions by name. Both raise BundleError where that fails.

    It is opened by a temporary name: under a name that it has seen, the dynamic linker would return the library that it
    loaded then, even when a new build has replaced the file since.
    """
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / path.name
        link.symlink_to(path)
        try:
            module = import_ffi().load_module(str(link), keep_module_alive=False)
        except (RuntimeError, OSError) as error:
            raise BundleError(f"{path}: expected a library, cannot load it ({error}); {COPY}") from error

    def find_function(name: str) -> Function:
        try:
            function: Function = module[name]
        except AttributeError as error:
            raise BundleError(f"{path}: expected a library with a function {name}, got {error}; {COPY}") from error
        return function

    return find_function


def wrap_memory(memory: object) -> Tensor:
    """Returns a tensor [n] over the memory of an object that speaks DLPack, as a numpy array does; copies nothing."""
    tensor: Tensor = import_ffi().from_dlpack(memory)
    return tensor


def on_stream(stream: int) -> AbstractContextManager[object]:
    """Returns a context in which kernels are launched on that CUDA stream of GPU 0."""
    ffi = import_ffi()
    context: AbstractContextManager[object] = ffi.use_raw_stream(ffi.device("cuda", 0), stream)
    return context


def pack_arguments(tensors: Sequence[Tensor], integers: Sequence[int]) -> list[int]:
    """Returns a call's arguments, tensors [n] first, as the C interface takes them: two words each, type and value."""
    words = []
    for tensor in tensors:
        words += [_TENSOR, tensor.__chandle__()]
    for integer in integers:
        words += [_INTEGER, integer]
    return words
