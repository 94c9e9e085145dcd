"""Makes a bundle's look ready: compiled code that resizes a picture, chooses a variant for it, and ranks logits."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from runtime.abi import CHOOSE, PRICE_WORDS, RANK, aligned_buffer, filter_words, price_words
from runtime.bundle.manifest import Level
from runtime.bundle.opened import Bundle
from runtime.choice.quality import D
from runtime.execution.ffi import Function, Tensor, open_library, wrap_memory
from runtime.fields import COPY, BundleError

_SIZES = 8  # of pictures, whose filters are kept


@dataclass(frozen=True, eq=False)
class _Filters:
    """What resizing pictures of one size needs beside them; row: memory that it works in."""

    size: Tensor
    filters: Tensor
    row: Tensor


class Look:
    """A bundle's look over the memory that its variants read and write; one call may be under way at a time.

    picture: uint8 [H, W, C], set by `take`; logits: int32 [classes], which `rank` reads. lam: the price of cost that
    `choose` works at, accuracy per unit; None where nothing is chosen. Raises BundleError where the library cannot be
    loaded.
    """

    def __init__(
        self, bundle: Bundle, level: Level, picture: np.ndarray, logits: np.ndarray, lam: float | None = None
    ) -> None:
        build = bundle.look_build(level)
        find_function = open_library(bundle.manifest.look.library, bundle.look_library())
        if build.resize:
            self._plan = find_function(build.plan)
            self._resize: Function = find_function(build.resize)
        self._picture = picture
        self._shape = picture.shape
        self._flat_picture = wrap_memory(picture.reshape(-1))
        self._filters: OrderedDict[tuple[int, int], _Filters] = OrderedDict()
        self._rank_answer = aligned_buffer(2, np.int64)
        self._rank = _bind(find_function(build.rank), RANK, {"logits": logits, "answer": self._rank_answer})
        self._choice = aligned_buffer(1 + D, np.int64)
        if lam is not None:
            table = bundle.look_table()
            table[:PRICE_WORDS] = 0
            table[:2] = price_words(lam)
            workspace = _workspace(bundle, build.workspace)
            buffers = {"picture": picture, "table": table, "workspace": workspace, "answer": self._choice}
            self._choose = _bind(find_function(build.choose), CHOOSE, buffers)
            _require_fit(bundle, self._choose)
        _require_fit(bundle, self._rank)

    def take(self, picture: np.ndarray) -> None:
        """Puts a picture uint8 [h, w, 3], C-contiguous, where variants read it, resized where it has another size.

        A grey one is [H, W, 1] of the input's size.
        """
        if picture.shape == self._shape:
            self._picture[...] = picture
            return
        filters = self._filters_for(picture.shape[0], picture.shape[1])
        source = wrap_memory(picture.reshape(-1) if picture.flags.writeable else picture.reshape(-1).copy())
        self._resize(source, filters.size, filters.filters, filters.row, self._flat_picture)

    def choose(self) -> tuple[int, list[int]]:
        """Returns the index of the variant for the picture taken, and the picture's features."""
        self._choose()
        features: list[int] = self._choice.tolist()
        return features.pop(0), features

    def rank(self) -> tuple[int, int]:
        """Returns the index of the first largest logit, and its distance to the second largest."""
        self._rank()
        index, margin = self._rank_answer.tolist()
        return index, margin

    def _filters_for(self, height: int, width: int) -> _Filters:
        """Returns the filters of pictures of a size, made where that is not among the last few."""
        key = (height, width)
        if key in self._filters:
            self._filters.move_to_end(key)
            return self._filters[key]
        shape = self._shape
        words = shape[0] * filter_words(height, shape[0]) + shape[1] * filter_words(width, shape[1])
        size = aligned_buffer(2, np.int32)
        size[:] = key
        arrays = (size, aligned_buffer(words, np.int32), aligned_buffer(3 * width + 1, np.int32))
        filters = _Filters(*map(wrap_memory, arrays))
        self._plan(filters.size, filters.filters)
        self._filters[key] = filters
        if len(self._filters) > _SIZES:
            self._filters.popitem(last=False)
        return filters


def _workspace(bundle: Bundle, size: int) -> np.ndarray:
    """Returns uint8 [size]; raises BundleError where the machine has no room for it."""
    try:
        return aligned_buffer(size, np.uint8)
    except MemoryError as error:
        raise BundleError(
            f"{bundle.folder}: expected a look that fits into memory, this one does not ({error}); {COPY}"
        ) from error


def _require_fit(bundle: Bundle, call: Callable[[], object]) -> None:
    """Raises BundleError where code does not take its buffers; any picture and any logits will do."""
    try:
        call()
    except (RuntimeError, ValueError, TypeError) as error:
        raise BundleError(
            f"{bundle.folder}: expected code of the look that takes the buffers of this bundle, got: {error}; {COPY}"
        ) from error


def _bind(function: Function, order: dict[str, str], buffers: dict[str, np.ndarray]) -> "partial[object]":
    """Returns a call of a function over buffers in the order of its parameters."""
    return partial(function, *(wrap_memory(buffers[name].reshape(-1)) for name in order))
