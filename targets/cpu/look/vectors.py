"""Vectors of a width that a target chooses, down to single numbers, for code that every compiler takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

Sum = Callable[[Any, int], Any]  # (vector, its lanes) -> int32 vector of sums of neighbours, of `Vectors.sums` lanes


def _words_by_halves(v: Any, lanes: int) -> Any:
    """Sums pairs of an int16 vector that is nowhere negative."""
    if lanes == 1:
        return T.cast(v, "int32")
    return _halves(v, lanes // 2, 32)


def _bytes_by_halves(v: Any, lanes: int) -> Any:
    """Sums quads of a uint8 vector."""
    if lanes == 1:
        return T.cast(v, "int32")
    return _halves(_halves(v, lanes // 2, 16), lanes // 4, 32)


def _halves(v: Any, lanes: int, bits: int) -> Any:
    """Returns the lower plus the upper half of every lane of so many bits."""
    wide = T.bind(T.reinterpret(v, dtype=f"int{bits}x{lanes}"))
    mask = splat((1 << bits // 2) - 1, f"int{bits}", lanes)
    return T.bind(
        T.bitwise_and(wide, mask) + T.bitwise_and(T.shift_right(wide, splat(bits // 2, f"int{bits}", lanes)), mask)
    )


@dataclass(frozen=True)
class Vectors:
    """What vectors a target has. size: bytes of the widest, 1 for a compiler that is given single numbers.

    sum_words: sums pairs of an int16 vector that is nowhere negative; sum_bytes: quads of a uint8 vector. For single
    numbers both just widen.
    """

    size: int
    sum_words: Sum = _words_by_halves
    sum_bytes: Sum = _bytes_by_halves

    def words(self, count: int) -> int:
        """Returns lanes of int16 for rows of so many: as few as hold them, at most the widest vector's."""
        return self._lanes(count, 2)

    def bytes(self, count: int) -> int:
        """Returns lanes of uint8 for rows of so many: as few as hold them, at most the widest vector's."""
        return self._lanes(count, 1)

    @property
    def longs(self) -> int:
        """Lanes of int64: those of the widest vector, and 8 at most."""
        return max(1, self.size // 8)

    def _lanes(self, count: int, itemsize: int) -> int:
        if self.size == 1:
            return 1
        narrowest, widest = 16 // itemsize, self.size // itemsize
        return max(narrowest, min(widest, 1 << (count - 1).bit_length()))


def splat(value: int, dtype: str, lanes: int) -> Any:
    """Returns a vector of `lanes` times a constant."""
    scalar = getattr(T, dtype)(value)
    return scalar if lanes == 1 else T.broadcast(scalar, lanes)


def spread(value: Any, lanes: int) -> Any:
    """Returns a vector of `lanes` times a number."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def vector(dtype: str, lanes: int) -> str:
    """Returns the name of a vector's type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def run(index: Any, lanes: int) -> Any:
    """Returns the indices of `lanes` neighbours."""
    return index if lanes == 1 else T.ramp(index, 1, lanes)


def load(buffer: Any, index: Any, lanes: int) -> Any:
    """Returns `lanes` elements of a flat buffer from `index` on."""
    return buffer[run(index, lanes)]


def store(buffer: Any, index: Any, value: Any, lanes: int) -> None:
    """Sets `lanes` elements of a flat buffer from `index` on."""
    T.buffer_store(buffer, value, [run(index, lanes)])


def masked(value: Any, kept: Sequence[bool], dtype: str) -> Any:
    """Returns a vector of int16 or uint8 with zeros in all lanes but those that are kept."""
    if all(kept):
        return value
    ones = {"int16": -1, "uint8": 255}[dtype]
    lanes = [splat(ones if keep else 0, dtype, 1) for keep in kept]
    return T.bitwise_and(value, T.Shuffle(lanes, list(range(len(lanes)))))


def first(value: Any, count: int, lanes: int, dtype: str) -> Any:
    """Returns a vector of int16 or uint8 whose lanes from `count` on are zero."""
    return masked(value, [i < count for i in range(lanes)], dtype)


class Registers:
    """Numbers of one type that a function keeps to itself, as a compiler keeps them in registers."""

    def __init__(self, count: int, dtype: str, lanes: int = 1):
        self.lanes = lanes
        self.count = count
        # of this scope and with this note, no target takes its memory from a runtime
        notes = {"disable_lower_builtin": True}
        self.buffer = T.alloc_buffer((count * lanes,), dtype, scope="global", annotations=notes)
        self._zero = splat(0, dtype, lanes)

    def __getitem__(self, k: Any) -> Any:
        return load(self.buffer, k * self.lanes, self.lanes)

    def __setitem__(self, k: Any, value: Any) -> None:
        store(self.buffer, k * self.lanes, value, self.lanes)

    def clear(self) -> None:
        """Sets all of them to zero."""
        for k in range(self.count):
            self[k] = self._zero

    def add(self, k: Any, value: Any) -> None:
        """Adds to one of them."""
        self[k] = self[k] + value

    def total(self, k: int) -> Any:
        """Returns the sum of a vector's lanes, int64."""
        value = T.bind(self[k])
        width = self.lanes
        while width > 1:  # of int32 sums, whose total fits int32
            width //= 2
            low = T.Shuffle([value], list(range(width)))
            value = T.bind(low + T.Shuffle([value], list(range(width, 2 * width))))
        return T.cast(value, "int64")
