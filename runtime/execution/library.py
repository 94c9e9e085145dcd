"""Compiled libraries and the memory they work in: the one file that knows tvm_ffi, which it imports to load one."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np

from runtime.abi import aligned_buffer
from runtime.bundle.manifest import Build, Variant
from runtime.bundle.opened import Bundle
from runtime.execution.threads import Helpers, Pace, control_block
from runtime.fields import COPY, BundleError
from runtime.machine.cuda import DeviceBuffer, foreign

MOST_THREADS = 64  # that work on one picture: beyond, waiting for each other takes longer than the work
_TENSOR, _INTEGER = 70, 1  # TVMFFITypeIndex


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

    level: the name of the one whose code runs; None: the best that this machine can run. threads: how many work on a
    picture together; all but the calling one are there until `close`, or until the last reference goes.

    Picture, logits and workspace are shared, so only one `run` may be under way at a time (the engine holds a lock);
    libraries and unpacked weights that variants have in common are loaded once. Libraries and memory are given back
    with the last reference. Raises BundleError; ValueError for fewer threads than 1, or more
    than MOST_THREADS.
    """

    def __init__(self, bundle: Bundle, variants: Sequence[Variant], level: str | None = None, threads: int = 1):
        if not isinstance(threads, Integral) or not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"expected 1 to {MOST_THREADS} threads, a whole number, got {threads!r}")
        self.level = bundle.level(level)
        self._memory = _MEMORY.get(bundle.manifest.target.family, HostBuffer)
        self._calls: dict[str, Callable[[], None]] = {}
        self.pictures = bundle.manifest.pictures
        self._picture, picture = self._buffer(self.pictures * int(np.prod(bundle.manifest.shape)), np.uint8)
        self._logits, logits = self._buffer(self.pictures * len(bundle.manifest.labels), np.int32)
        builds = {v: bundle.build(v, self.level) for v in variants}
        workspace, _ = self._buffer(max(b.workspace for b in builds.values()), np.uint8)
        libraries, weights = {}, {}
        for v, b in builds.items():
            if v.library not in libraries:
                libraries[v.library] = _library(bundle.library(v))
            if b.segments not in weights:
                weights[b.segments] = self._filled(bundle.weights(b))
            table = self._filled(bundle.table(b))
            arguments = (picture, weights[b.segments], table, self._tensor(workspace, b.workspace), logits)
            self._calls[v.name] = partial(libraries[v.library](b.function), *arguments)
        self._logits.read()  # waits for all that was copied to a GPU: a launch may be on a stream that does not
        self._helpers = None
        if threads > 1:
            self._start_helpers(threads, libraries, builds)

    def run(self, name: str, picture: np.ndarray) -> np.ndarray:
        """Logits int32 [classes] of a picture uint8 [H, W, 3] of the input's size, by that variant."""
        return self.run_together(name, picture[None])[0]

    def run_together(self, name: str, pictures: np.ndarray) -> np.ndarray:
        """Logits int32 [n, classes] of pictures uint8 [n, H, W, 3], one call; n up to `self.pictures`."""
        call, count = self._calls[name], len(pictures)
        if count < self.pictures:
            pictures = np.resize(pictures, (self.pictures, *pictures.shape[1:]))
        self._picture.write(pictures.reshape(-1))
        with self._on(0):  # that of the copies, whatever stream the caller's libraries are on
            call()
        return self._logits.read().reshape(self.pictures, -1)[:count]

    def launch(self, name: str, pictures: int, logits: int, stream: int) -> None:
        """Launches a variant's kernels; see Engine.launch. Raises ValueError where libraries do not run on a GPU."""
        if self._memory is not DeviceBuffer:
            raise ValueError(
                "expected a bundle for CUDA, whose kernels can be launched on a stream; "
                "this one's run on the processor: use `infer`"
            )
        ffi, call = _ffi(), self._calls[name]
        own_x, *rest, own_y = call.args
        x = ffi.from_dlpack(foreign(pictures, own_x.shape[0], np.uint8))
        y = ffi.from_dlpack(foreign(logits, own_y.shape[0], np.int32))
        with self._on(stream):
            call.func(x, *rest, y)

    def close(self) -> None:
        """Ends the helpers; what still runs then, the calling thread does alone."""
        if self._helpers is not None:
            self._helpers.close()

    def _on(self, stream: int) -> AbstractContextManager:
        """The CUDA stream of what is launched meanwhile; elsewhere nothing."""
        if self._memory is not DeviceBuffer:
            return nullcontext()
        return _ffi().use_raw_stream(_ffi().device("cuda", 0), stream)

    def _start_helpers(self, threads: int, libraries: dict[str, Callable], builds: dict[Variant, Build]) -> None:
        if any(b.parallel is None for b in builds.values()):
            raise BundleError(
                f"expected code for several threads, that of {self.level.name} is for one; "
                "leave the number of threads out"
            )
        block, records = control_block(threads), []
        control = _ffi().from_dlpack(block)
        for v, b in builds.items():
            alone, share = self._calls[v.name], libraries[v.library](b.parallel.share)
            tensors = (*alone.args, control)
            record = np.zeros(2 * (len(tensors) + 3), np.int64)
            integers = (share.__chandle__(), record.ctypes.data)
            record[:] = _record(tensors, (*integers, 0))
            self._calls[v.name] = Pace(alone, partial(share, *tensors, *integers, 1))
            records.append(record)
        serve = partial(libraries[v.library](b.parallel.serve), control)
        self._helpers = Helpers(threads - 1, block, serve, (self._calls, records))

    def _buffer(self, count: int, dtype) -> tuple:
        buffer = self._memory(count, dtype)
        return buffer, self._tensor(buffer, count)

    def _filled(self, values: np.ndarray):
        buffer, tensor = self._buffer(values.size, values.dtype)
        buffer.write(values)
        return tensor

    def _tensor(self, buffer, count: int):
        return _ffi().from_dlpack(buffer.tensor(count))


def _record(tensors: Sequence, integers: Sequence[int]) -> list[int]:
    """A call's arguments as the C interface takes them, TVMFFIAny: two words each, type and value."""
    words = [(_TENSOR, t.__chandle__()) for t in tensors] + [(_INTEGER, i) for i in integers]
    return [word for pair in words for word in pair]


def _ffi():
    try:
        import tvm_ffi  # here, because it takes 0.15 s and most of what this package does needs none
    except ImportError as error:
        raise BundleError(
            f"expected the package apache-tvm-ffi, which loads compiled libraries, got: {error}; "
            "install it with `pip install apache-tvm-ffi==0.1.14.post1`"
        ) from error
    return tvm_ffi


def _library(library: Path) -> Callable[[str], Callable]:
    """Opens a library; name -> function.

    It is opened by a name of its own: under a name it has seen, the dynamic linker would hand back the library it
    loaded then, also when a new build has replaced the file since.
    """
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / library.name
        link.symlink_to(library)
        try:
            module = _ffi().load_module(str(link), keep_module_alive=False)
        except (RuntimeError, OSError) as error:
            raise BundleError(f"{library}: expected a library, cannot load it ({error}); {COPY}") from error

    def function(name: str) -> Callable:
        try:
            return module[name]
        except AttributeError as error:
            raise BundleError(f"{library}: expected a library with a function {name}, got {error}; {COPY}") from error

    return function
