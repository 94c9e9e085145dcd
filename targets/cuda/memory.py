"""Feature maps as CUDA kernels read and write them: quads of channels as one word where they lie on words, borders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from targets.kernel import Layout

QUAD = 4  # channels to a 32-bit word
THREADS = 128  # of a block of those kernels in which threads don't work together


@dataclass(frozen=True)
class Place:
    """A pixel of one of the pictures that run together; integers or TIR expressions."""

    picture: Any
    y: Any
    x: Any

    @staticmethod
    def of(index: Any, shape: tuple[int, int, int]) -> "Place":
        """Returns the place of the index-th pixel of maps [H, W, C], counted through all pictures."""
        h, w, _ = shape
        return Place(index // (h * w), index % (h * w) // w, index % w)

    def at(self, layout: Layout, channel: Any) -> Any:
        """Returns the index of a code or logit in its buffer."""
        return self.picture * layout.picture_size + layout.at(self.y, self.x, channel)


def words(buffer: Any, dtype: str = "int32") -> Any:
    """Returns the same memory as 32-bit words."""
    return T.decl_buffer((int(buffer.shape[0]) // 4,), dtype, data=buffer.data)


def quads(vector: Any) -> list[Any]:
    """Returns the lanes of a vector of four."""
    vector = T.bind(vector)
    return [T.Shuffle([vector], [i]) for i in range(QUAD)]


def split(word: Any) -> list[Any]:
    """Returns the four bytes of a bound int32 word, as int32."""
    return [T.bitwise_and(T.shift_right(word, T.int32(8 * i)), T.int32(255)) for i in range(QUAD)]


def joined(codes: Sequence[Any]) -> Any:
    """Returns the word of four codes."""
    word = codes[0]
    for i in range(1, QUAD):
        word = T.bitwise_or(word, T.shift_left(codes[i], T.int32(8 * i)))
    return word


def load(buffer: Any, layout: Layout, offset: Any, channel: Any) -> list[Any]:
    """Returns int32 codes of four channels from index `offset` on; 0 past the last channel."""
    channels = layout.tensor.shape[2]
    if channels % QUAD == 0:
        return split(T.bind(words(buffer)[offset // QUAD]))
    offset = T.bind(offset)
    return [
        T.bind(T.if_then_else(channel + i < channels, T.cast(buffer[offset + i], "int32"), T.int32(0)))
        for i in range(QUAD)
    ]


def store(buffer: Any, layout: Layout, offset: Any, channel: Any, values: Sequence[Any]) -> None:
    """Stores four int32 values as codes or logits; those past the last channel are left out."""
    channels = layout.tensor.shape[2]
    if channels % QUAD == 0 and layout.dtype == "uint8":
        T.buffer_store(words(buffer), joined(values), [offset // QUAD])
        return
    for i, value in enumerate(values):
        if channels % QUAD == 0:
            T.buffer_store(buffer, T.cast(value, layout.dtype), [offset + i])
        else:
            with T.If(channel + i < channels), T.Then():
                T.buffer_store(buffer, T.cast(value, layout.dtype), [offset + i])


def fill_borders(
    layouts: Sequence[Layout], buffers: Sequence[Any], thread: Any, threads: int, zeros: Any = None
) -> None:
    """Stores the zero points around every map, by `threads` threads of which this is number `thread`.

    zeros: a buffer with one zero point a channel, where they differ.
    """
    for layout, buffer in zip(layouts, buffers, strict=True):
        if any(layout.border):
            _fill_border(layout, buffer, thread, threads, zeros)


def _fill_border(layout: Layout, out: Any, thread: Any, threads: int, zeros: Any) -> None:
    """The border is what lies before the first row's pixels, between two rows' pixels, and after the last's."""
    h, w, channels = layout.tensor.shape
    unit = QUAD if channels % QUAD == 0 and zeros is None else 1
    head, gap, row = (n // unit for n in (layout.origin, layout.row_stride - w * channels, w * channels))
    each = layout.picture_size // unit - h * row
    target = words(out) if unit == QUAD else out
    zero = layout.tensor.zero_point[0]
    with T.serial(-(-layout.pictures * each // threads)) as turn:
        i = T.bind(turn * threads + thread)
        with T.If(i < layout.pictures * each), T.Then():
            k = T.bind(i % each)
            passed = T.min((k - head) // gap + 1, h) if gap else h
            place = T.bind(i // each * (h * row + each) + k + T.if_then_else(k < head, 0, passed * row))
            if zeros is not None:
                value = T.cast(zeros[place % channels], "uint8")
            elif unit == QUAD:
                value = T.int32(int.from_bytes(bytes([zero] * QUAD), "little", signed=True))
            else:
                value = T.uint8(zero)
            T.buffer_store(target, value, [place])
