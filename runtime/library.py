"""Compiled libraries and the memory they work in: the one file that knows tvm_ffi, which it imports to load one."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.bundle import COPY, Bundle
from runtime.cuda import DeviceBuffer
from runtime.fields import BundleError
from runtime.manifest import Variant
from runtime.weights import aligned_buffer


class HostBuffer:
    """[count] values of dtype in this machine's memory, zero at first; aligned, since kernels do not check."""

    def __init__(self, count: int, dtype):
        self._array = aligned_buffer(count, dtype)

    def tensor(self, count: int) -> np.ndarray:
        """The first `count` values."""
        return self._array[:count]

    def write(self, values: np.ndarray) -> None:
        np.copyto(self._array, values)

    def read(self) -> np.ndarray:
        """A copy of the values."""
        return self._array.copy()


# family -> where its libraries work; the families that are not named work in this machine's memory
_MEMORY = {"cuda": DeviceBuffer}


class Loaded:
    """Some of a bundle's variants, ready: `run` is one call of compiled code over buffers that are made once.

    Picture, logits and workspace are shared, so only one `run` may be under way at a time (the engine holds a lock);
    libraries and unpacked weights that variants have in common are loaded once. Libraries and memory are given back
    with the last reference. Raises BundleError.
    """

    def __init__(self, bundle: Bundle, variants: Sequence[Variant]):
        self._memory = _MEMORY.get(bundle.manifest.target.family, HostBuffer)
        self._calls: dict[str, tuple] = {}
        classes = len(bundle.manifest.labels)
        self._picture, picture = self._buffer(int(np.prod(bundle.manifest.shape)), np.uint8)
        self._logits, logits = self._buffer(classes, np.int32)
        workspace, _ = self._buffer(max(v.workspace for v in variants), np.uint8)
        libraries, weights = {}, {}
        for v in variants:
            if v.library not in libraries:
                libraries[v.library] = _main(bundle.library(v))
            if v.segments not in weights:
                weights[v.segments] = self._filled(bundle.weights(v))
            table = self._filled(bundle.table(v))
            arguments = (picture, weights[v.segments], table, self._tensor(workspace, v.workspace), logits)
            self._calls[v.name] = (libraries[v.library], arguments)

    def run(self, name: str, picture: np.ndarray) -> np.ndarray:
        """Logits int32 [classes] of a picture uint8 [H, W, 3] of the input's size, by that variant."""
        main, arguments = self._calls[name]
        self._picture.write(picture.reshape(-1))
        main(*arguments)
        return self._logits.read()

    def _buffer(self, count: int, dtype) -> tuple:
        buffer = self._memory(count, dtype)
        return buffer, self._tensor(buffer, count)

    def _filled(self, values: np.ndarray):
        buffer, tensor = self._buffer(values.size, values.dtype)
        buffer.write(values)
        return tensor

    def _tensor(self, buffer, count: int):
        return _ffi().from_dlpack(buffer.tensor(count))


def _ffi():
    try:
        import tvm_ffi  # here, because it takes 0.15 s and most of what this package does needs none
    except ImportError as error:
        raise BundleError(f"expected the package apache-tvm-ffi, which loads compiled libraries, got: {error}; "
                          "install it with `pip install apache-tvm-ffi==0.1.14.post1`") from error
    return tvm_ffi


def _main(library: Path):
    """The function `main` of a library.

    It is opened by a name of its own: under a name it has seen, the dynamic linker would hand back the library it
    loaded then, also when a new build has replaced the file since.
    """
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / library.name
        link.symlink_to(library)
        try:
            return _ffi().load_module(str(link), keep_module_alive=False)["main"]
        except (RuntimeError, AttributeError, OSError) as error:
            raise BundleError(f"{library}: expected a library with a function main, cannot load it ({error}); "
                              f"{COPY}") from error
