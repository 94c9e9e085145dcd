"""Loads compiled libraries and calls them through tvm_ffi, which only this file imports, when a library is loaded."""

import errno
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol

from runtime.execution.elf import require_whole
from runtime.execution.private_file import open_private
from runtime.fields import COPY, BundleError, abbreviate

_TENSOR, _INTEGER = 70, 1  # TVMFFITypeIndex
_LOADER = "ffi.Module.load_from_file.so"  # tvm_ffi.load_module without its look at the path's ending
_FORBIDDEN = "failed to map segment"  # what dynamic linkers say of code where none may run


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


def open_library(name: str, data: bytes) -> Callable[[str], Function]:
    """Opens a library of these bytes and returns what finds its functions by name.

    name: its path in the bundle, for errors. Both raise BundleError where that fails.
    """
    load = import_ffi().get_global_func(_LOADER)
    try:
        require_whole(data)
        module = open_private(data, lambda path: _load(load, path))
    except BundleError:
        raise
    except (RuntimeError, ValueError) as error:
        raise BundleError(f"{name}: expected a library, cannot load it ({abbreviate(str(error))}); {COPY}") from error

    def find_function(function_name: str) -> Function:
        try:
            function: Function = module[function_name]
        except AttributeError as error:
            raise BundleError(
                f"{name}: expected a library with a function {function_name}, got {error}; {COPY}"
            ) from error
        return function

    return find_function


def _load(load: Callable[[str, str], Any], path: str) -> Any:
    """Returns the module at a path. Raises OSError where this machine allows no code there, else RuntimeError."""
    try:
        return load(path, "so")
    except RuntimeError as error:
        if _FORBIDDEN in str(error):
            raise OSError(errno.EPERM, str(error)) from error
        raise


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
