"""Makes a bundle's variants ready to run: their libraries, and the memory that these work in."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Protocol

import numpy as np

from runtime.abi import STOP, aligned_buffer
from runtime.bundle.manifest import Build, Parallel, Variant
from runtime.bundle.opened import Bundle
from runtime.bundle.segments import Segment
from runtime.execution.ffi import Function, Tensor, on_stream, open_library, pack_arguments, wrap_memory
from runtime.execution.threads import Helpers, Pace, make_control_block
from runtime.fields import COPY, BundleError, abbreviate
from runtime.machine.cuda import DeviceBuffer, wrap_address

Libraries = Mapping[str, Callable[[str], Function]]  # path in the bundle -> what finds functions by name
MOST_THREADS = 64  # beyond, waiting for each other takes longer than the work on one picture


class Buffer(Protocol):
    """[count] values of one dtype in memory that a family's libraries work in, zero at first."""

    def tensor(self, count: int | None = None) -> object:
        """Returns the first `count` values, None for all, as an object that speaks DLPack."""

    def write(self, values: np.ndarray) -> None:
        """Sets the values [count]."""

    def read(self) -> np.ndarray:
        """Returns a copy of the values [count], once every kernel launched before has ended."""


class HostBuffer:
    """[count] values of dtype in this machine's memory, zero at first; aligned, since kernels do not check."""

    def __init__(self, count: int, dtype: "np.typing.DTypeLike") -> None:
        self._array = aligned_buffer(count, dtype)

    @property
    def array(self) -> np.ndarray:
        """The values [count] themselves."""
        return self._array

    def tensor(self, count: int | None = None) -> np.ndarray:
        """Returns the first `count` values, [count], None for all; nothing is copied."""
        return self._array[:count]

    def write(self, values: np.ndarray) -> None:
        """Sets the values [count]."""
        np.copyto(self._array, values)

    def read(self) -> np.ndarray:
        """Returns a copy of the values [count]."""
        values: np.ndarray = self._array.copy()
        return values


# family -> where its libraries work; families that are not named work in this machine's memory
_MEMORY: dict[str, type[HostBuffer] | type[DeviceBuffer]] = {"cuda": DeviceBuffer}


@dataclass(frozen=True)
class Call:
    """One call of a variant's `main` over its buffers, in the order of runtime.abi.BUFFERS."""

    function: Function
    tensors: tuple[Tensor, ...]

    def __call__(self) -> None:
        """Runs the code once."""
        self.function(*self.tensors)


class Loaded:
    """Some of a bundle's variants, ready to run: each is one call of compiled code over buffers that are made once.

    level: the name of the one whose code runs, None for the best that this machine can run. threads: how many work on a
    picture together; all but the calling one live until `close`, or until the last reference goes.

    picture, logits: uint8 [H, W, 3] and int32 [classes] in this machine's memory, which `run_staged` reads and writes.

    Variants share picture, logits and workspace, so only one `run` may be under way at a time (the engine holds a
    lock); libraries and unpacked weights that they have in common are loaded once. Libraries and memory are given back
    with the last reference. Raises BundleError where the bundle cannot be loaded, ValueError for fewer threads than 1
    or more than MOST_THREADS.
    """

    def __init__(self, bundle: Bundle, variants: Sequence[Variant], level: str | None = None, threads: int = 1) -> None:
        _require_threads(threads)
        try:
            self._load(bundle, variants, level, threads)
        except MemoryError as error:
            raise BundleError(
                f"{bundle.folder}: expected variants that fit into memory, these do not ({error}); build fewer of them"
            ) from error

    def _load(self, bundle: Bundle, variants: Sequence[Variant], level: str | None, threads: int) -> None:
        self.level = bundle.level(level)
        self.pictures = bundle.manifest.pictures
        self._memory = _MEMORY.get(bundle.manifest.target.family, HostBuffer)
        self._picture: Buffer = self._memory(self.pictures * math.prod(bundle.manifest.shape), np.uint8)
        self._logits: Buffer = self._memory(self.pictures * bundle.manifest.outputs, np.int32)
        self.picture, self.logits = self._stage(bundle)
        builds = {variant: bundle.build(variant, self.level) for variant in variants}
        libraries = _open_libraries(bundle, variants)
        self._calls = self._make_calls(bundle, builds, libraries)
        self._try_calls()
        self._runs: dict[str, Callable[[], object]] = {
            name: partial(call.function, *call.tensors) for name, call in self._calls.items()
        }
        self._logits.read()  # waits for all that was copied to a GPU: a launch may be on a stream that does not
        self._helpers: Helpers | None = None
        if threads > 1:
            self._start_helpers(threads, builds, libraries)

    def run(self, name: str, picture: np.ndarray) -> np.ndarray:
        """Returns the logits int32 [classes] of a picture uint8 [H, W, 3] of the input's size, by that variant."""
        logits: np.ndarray = self.run_together(name, picture[None])[0]
        return logits

    def run_staged(self, name: str) -> None:
        """Sets `self.logits` to those of `self.picture` by that variant; nothing is copied where its code runs here."""
        if self._is_staged:
            self._runs[name]()
        else:
            self.logits[:] = self.run_together(name, self.picture[None])[0]

    def run_together(self, name: str, pictures: np.ndarray) -> np.ndarray:
        """Returns the logits int32 [n, classes] of pictures uint8 [n, H, W, 3] in one call; n up to `self.pictures`."""
        run = self._runs[name]
        count = len(pictures)
        if count < self.pictures:
            pictures = np.resize(pictures, (self.pictures, *pictures.shape[1:]))
        self._picture.write(pictures.reshape(-1))
        with self._on(0):  # the stream of the copies, whatever stream the caller has set
            run()
        return self._logits.read().reshape(self.pictures, -1)[:count]

    def launch(self, name: str, pictures: int, logits: int, stream: int) -> None:
        """Launches a variant's kernels; see Engine.launch. Raises ValueError where libraries do not run on a GPU."""
        if self._memory is not DeviceBuffer:
            raise ValueError(
                "expected a bundle for CUDA, whose kernels can be launched on a stream; "
                "this one's run on the processor: use `infer`"
            )
        call = self._calls[name]
        own_pictures, *between, own_logits = call.tensors
        given_pictures = wrap_memory(wrap_address(pictures, own_pictures.shape[0], np.uint8))
        given_logits = wrap_memory(wrap_address(logits, own_logits.shape[0], np.int32))
        with self._on(stream):
            call.function(given_pictures, *between, given_logits)

    def close(self) -> None:
        """Ends the helpers; the calling thread does alone what still runs then."""
        if self._helpers is not None:
            self._helpers.close()

    def _on(self, stream: int) -> AbstractContextManager[object]:
        """Returns a context whose kernels are launched on that CUDA stream; for other families it does nothing."""
        if self._memory is not DeviceBuffer:
            return nullcontext()
        return on_stream(stream)

    def _stage(self, bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
        """Returns `picture` and `logits`: the memory of `main` itself where that is one picture's, on this machine."""
        shape, classes = bundle.manifest.shape, bundle.manifest.outputs
        self._is_staged = False
        if self.pictures == 1 and isinstance(self._picture, HostBuffer) and isinstance(self._logits, HostBuffer):
            self._is_staged = True
            return self._picture.array.reshape(shape), self._logits.array
        return aligned_buffer(int(np.prod(shape)), np.uint8).reshape(shape), aligned_buffer(classes, np.int32)

    def _make_calls(self, bundle: Bundle, builds: Mapping[Variant, Build], libraries: Libraries) -> dict[str, Call]:
        picture = wrap_memory(self._picture.tensor())
        logits = wrap_memory(self._logits.tensor())
        workspace: Buffer = self._memory(max(build.workspace for build in builds.values()), np.uint8)
        weights: dict[tuple[Segment, ...], Tensor] = {}
        calls = {}
        for variant, build in builds.items():
            if build.segments not in weights:
                weights[build.segments] = self._copy(bundle.weights(build))
            table = self._copy(bundle.table(build))
            scratch = wrap_memory(workspace.tensor(build.workspace))
            function = libraries[variant.library](build.function)
            calls[variant.name] = Call(function, (picture, weights[build.segments], table, scratch, logits))
        return calls

    def _try_calls(self) -> None:
        """Runs every variant once: compiled code compares the sizes of its buffers first. Raises BundleError.

        On a GPU errors come with the first picture: nothing is launched there that nobody asked for.
        """
        if self._memory is not DeviceBuffer:
            for name, call in self._calls.items():
                _try(call, name)

    def _copy(self, values: np.ndarray) -> Tensor:
        """Returns values [n] in the memory that libraries work in."""
        buffer: Buffer = self._memory(values.size, values.dtype)
        buffer.write(values)
        return wrap_memory(buffer.tensor())

    def _start_helpers(self, threads: int, builds: Mapping[Variant, Build], libraries: Libraries) -> None:
        functions = {variant: self._require_parallel(build) for variant, build in builds.items()}
        block = make_control_block(threads)
        control = wrap_memory(block)
        records = []
        for variant, names in functions.items():
            alone = self._calls[variant.name]
            share = libraries[variant.library](names.share)
            tensors = (*alone.tensors, control)
            record = np.zeros(2 * (len(tensors) + 3), np.int64)  # what helpers call `share` with, last argument 0
            integers = (share.__chandle__(), record.ctypes.data)
            record[:] = pack_arguments(tensors, (*integers, 0))
            together = partial(share, *tensors, *integers, 1)
            _try(together, variant.name)
            self._runs[variant.name] = Pace(alone, together)
            records.append(record)
        variant, names = next(iter(functions.items()))  # `serve` is the same in every library
        serve = partial(libraries[variant.library](names.serve), control)
        block[STOP] = 1  # so that it returns at once
        _try(serve, variant.name)
        block[STOP] = 0
        self._helpers = Helpers(threads - 1, block, serve, (self._runs, records))

    def _require_parallel(self, build: Build) -> Parallel:
        """Returns the names of a build's functions for several threads. Raises BundleError where it has none."""
        if build.parallel is None:
            raise BundleError(
                f"expected code for several threads, that of {self.level.name} is for one; "
                "leave the number of threads out"
            )
        return build.parallel


def _require_threads(threads: object) -> None:
    """Raises ValueError unless this is a whole number in 1..MOST_THREADS."""
    if not isinstance(threads, Integral) or not 1 <= int(threads) <= MOST_THREADS:
        raise ValueError(f"expected 1 to {MOST_THREADS} threads, a whole number, got {threads!r}")


def _try(run: Callable[[], object], variant: str) -> None:
    """Raises BundleError where compiled code refuses its arguments."""
    try:
        run()
    except Exception as error:  # tvm_ffi raises whatever kind compiled code names
        reason = abbreviate(" ".join(str(error).split()))
        raise BundleError(
            f"variant {variant}: expected code that takes the sizes which the manifest says, it refuses them "
            f"({reason}); {COPY}"
        ) from error


def _open_libraries(bundle: Bundle, variants: Sequence[Variant]) -> Libraries:
    """Opens the library of every variant, those that several share once."""
    libraries: dict[str, Callable[[str], Function]] = {}
    for variant in variants:
        if variant.library not in libraries:
            libraries[variant.library] = open_library(variant.library, bundle.library(variant))
    return libraries
