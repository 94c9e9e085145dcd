"""CUDA kernels that move codes as they are or look them up in a table; a thread takes four channels of a pixel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.cuda.memory import QUAD, Place, load, split, words
from targets.cuda.quads import corner, plain
from targets.kernel import Buffers, Entry, Kernel, Step, is_step_of
from targets.reference.nodes import Concat, Gather, Lookup, Shortcut
from targets.tables import NO_TABLE, NO_WEIGHTS


def picture(step: Step[Any]) -> Kernel | None:
    """The picture into its bordered place; the table holds its zero points, one a channel."""
    if not is_step_of(step, Entry):
        return None
    (layout,) = step.reads
    table = step.write.tensor.zero_points().astype(np.int32)

    def values(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        return load(buffers.reads[0], layout, place.at(layout, channel), channel)

    return Kernel("picture", NO_WEIGHTS, 8, table, plain(step, values, zeros=True))


def shortcut(step: Step[Any]) -> Kernel | None:
    """Every stride-th pixel, with channels of the zero point before and behind."""
    if not is_step_of(step, Shortcut):
        return None
    node = step.node
    (layout,), zero = step.reads, step.write.tensor.zero_point[0]
    copied = layout.tensor.shape[2]

    def values(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        from_channel = channel - node.before
        at = corner(place, node.stride).at(layout, from_channel)
        if node.before % QUAD == copied % QUAD == 0:
            inside = T.And(from_channel >= 0, from_channel < copied)
            word = T.if_then_else(inside, words(buffers.reads[0])[at // QUAD], _zeros(zero))
            return split(T.bind(word))
        return [
            T.if_then_else(
                T.And(from_channel + i >= 0, from_channel + i < copied),
                T.cast(buffers.reads[0][at + i], "int32"),
                T.int32(zero),
            )
            for i in range(QUAD)
        ]

    return Kernel("shortcut", NO_WEIGHTS, 8, NO_TABLE, plain(step, values))


def _zeros(zero: int) -> Any:
    """A word of four times the zero point."""
    return T.int32(int.from_bytes(bytes([zero] * QUAD), "little", signed=True))


def gather(step: Step[Any]) -> Kernel | None:
    """Rows, columns and channels by an index in the table; channels that move in whole words are moved so."""
    if not is_step_of(step, Gather):
        return None
    node, layout, zero = step.node, step.reads[0], step.write.tensor.zero_point[0]
    h, w, channels = step.write.tensor.shape
    sources = _word_sources(node.channels) if layout.tensor.shape[2] % QUAD == 0 else None
    index = np.pad(node.channels, (0, -channels % QUAD), constant_values=-1) if sources is None else sources
    table = np.array([*node.rows, *node.columns, *index], np.int32)

    def values(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        row, column = T.bind(buffers.table[place.y]), T.bind(buffers.table[h + place.x])
        is_pixel = T.And(row >= 0, column >= 0)
        at = T.bind(Place(place.picture, row, column).at(layout, 0))
        if sources is not None:
            source = T.bind(buffers.table[h + w + channel // QUAD])
            word = words(buffers.reads[0])[at // QUAD + source]
            return split(T.bind(T.if_then_else(T.And(is_pixel, source >= 0), word, _zeros(zero))))
        codes = []
        for i in range(QUAD):
            source = T.bind(buffers.table[h + w + channel + i])
            code = T.cast(buffers.reads[0][at + source], "int32")
            codes.append(T.bind(T.if_then_else(T.And(is_pixel, source >= 0), code, T.int32(zero))))
        return codes

    return Kernel("gather", NO_WEIGHTS, 8, table, plain(step, values))


def _word_sources(channels: Sequence[int]) -> list[int] | None:
    """The word of input channels for each word of output channels, -1 for zero points; None unless all are words."""
    if len(channels) % QUAD:
        return None
    sources = []
    for first in range(0, len(channels), QUAD):
        quad, start = list(channels[first : first + QUAD]), channels[first]
        if quad == [-1] * QUAD:
            sources.append(-1)
        elif start % QUAD == 0 and quad == list(range(start, start + QUAD)):
            sources.append(start // QUAD)
        else:
            return None
    return sources


def concat(step: Step[Any]) -> Kernel | None:
    """The channels of every input in turn."""
    if not is_step_of(step, Concat):
        return None
    counts = [layout.tensor.shape[2] for layout in step.reads]
    firsts = [sum(counts[:k]) for k in range(len(counts))]
    in_words = all(count % QUAD == 0 for count in counts)

    def of_input(buffers: Buffers, place: Place, channel: Any, unit: int) -> Any:
        """The code, or the word of four, at a channel of the output."""
        value = None
        for read, layout, first, count in zip(buffers.reads, step.reads, firsts, counts, strict=True):
            at = place.at(layout, channel - first)
            code = words(read)[at // QUAD] if unit == QUAD else T.cast(read[at], "int32")
            if value is None:
                value = T.if_then_else(channel < count, code, T.int32(0))
            else:
                value = T.if_then_else(T.And(channel >= first, channel < first + count), code, value)
        return T.bind(value)

    def values(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        if in_words:
            return split(of_input(buffers, place, channel, QUAD))
        return [of_input(buffers, place, channel + i, 1) for i in range(QUAD)]

    return Kernel("concat", NO_WEIGHTS, 8, NO_TABLE, plain(step, values))


def lookup(step: Step[Any]) -> Kernel | None:
    """Code by code from a table: any function of one value."""
    if not is_step_of(step, Lookup):
        return None
    (layout,), entries = step.reads, step.node.table.astype(np.int32)
    last = layout.tensor.shape[2] - 1

    def values(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        codes = load(buffers.reads[0], layout, place.at(layout, channel), channel)
        if len(entries) > 1:
            codes = [T.min(channel + i, last) * entries.shape[1] + code for i, code in enumerate(codes)]
        return [T.bind(buffers.table[code]) for code in codes]

    return Kernel("lookup", NO_WEIGHTS, 8, entries.reshape(-1), plain(step, values))
