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

    level: the name of the one whose code runs; None: the best that this machine can run.

    Picture, logits and workspace are shared, so only one `run` may be under way at a time (the engine holds a lock);
    libraries and unpacked weights that variants have in common are loaded once. Libraries and memory are given back
    with the last reference. Raises BundleError.
    """

    def __init__(self, bundle: Bundle, variants: Sequence[Variant], level: str | None = None):
        self.level = bundle.level(level)
        self._memory = _MEMORY.get(bundle.manifest.target.family, HostBuffer)
        self._calls: dict[str, tuple] = {}
        classes = len(bundle.manifest.labels)
        self._picture, picture = self._buffer(int(np.prod(bundle.manifest.shape)), np.uint8)
        self._logits, logits = self._buffer(classes, np.int32)
        builds = {v: bundle.build(v, self.level) for v in variants}
        workspace, _ = self._buffer(max(b.workspace for b in builds.values()), np.uint8)
        functions, weights = {}, {}
        for v, b in builds.items():
            code = v.library, b.function
            if code not in functions:
                functions[code] = _function(bundle.library(v), b.function)
            if b.segments not in weights:
                weights[b.segments] = self._filled(bundle.weights(b))
            table = self._filled(bundle.table(b))
            arguments = (picture, weights[b.segments], table, self._tensor(workspace, b.workspace), logits)
            self._calls[v.name] = (functions[code], arguments)

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


def _function(library: Path, name: str):
    """The function of that name in a library.

    It is opened by a name of its own: under a name it has seen, the dynamic linker would hand back the library it
    loaded then, also when a new build has replaced the file since.
    """
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / library.name
        link.symlink_to(library)
        try:
            return _ffi().load_module(str(link), keep_module_alive=False)[name]
        except (RuntimeError, AttributeError, OSError) as error:
            raise BundleError(f"{library}: expected a library with a function {name}, cannot load it ({error}); "
                              f"{COPY}") from error
