"""CPU kernels that move codes as they are, and those that look them up in a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import copy, fill, over_rows
from targets.kernel import Buffers, Entry, Kernel, Step, is_step_of
from targets.reference.nodes import Concat, Gather, Lookup, Shortcut
from targets.tables import NO_TABLE, NO_WEIGHTS

MOST_RUNS = 16  # runs of channels that are copied one by one; more are moved channel by channel

Run = tuple[int, int, int]  # first output channel, first input channel or -1 for the zero point, channels


def move(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (codes stay as they are)
    """Copies of codes: the picture into its bordered place, and strided shortcuts with channels of the zero point."""
    if not isinstance(step.node, (Entry, Shortcut)):
        return None
    (layout,), (_, w, channels) = step.reads, step.write.tensor.shape
    stride, before = (step.node.stride, step.node.before) if isinstance(step.node, Shortcut) else ((1, 1), 0)
    copied = layout.tensor.shape[2]

    def row(buffers: Buffers, y: Any) -> None:
        read, write, zero = buffers.reads[0], buffers.writes[0], step.write.tensor.zero_point[0]
        if stride == (1, 1) and copied == channels:
            copy(write, step.write.at(y, 0), read, layout.at(y, 0), w * channels)
            return
        with T.serial(w) as x:
            fill(write, step.write.at(y, x), zero, before)
            copy(write, step.write.at(y, x, before), read, layout.at(y * stride[0], x * stride[1]), copied)
            fill(write, step.write.at(y, x, before + copied), zero, channels - before - copied)

    return Kernel("portable move", NO_WEIGHTS, 8, NO_TABLE, over_rows(step, row), step.write.tensor.shape[0])


def runs(channels: Sequence[int]) -> list[Run]:
    """Returns the runs of neighbouring channels that make up a list of channels, -1 standing for the zero point."""
    parts: list[Run] = []
    for out, source in enumerate(channels):
        if parts:
            first, start, count = parts[-1]
            if source == (-1 if start < 0 else start + count):
                parts[-1] = (first, start, count + 1)
                continue
        parts.append((out, source, 1))
    return parts


def interleaved(channels: Sequence[int]) -> int:
    """Returns g where channel i * g + k is channel k * n / g + i of all n, as g shuffled groups have it; or 1."""
    n = len(channels)
    for groups in (2, 3, 4, 8):
        if n % groups == 0 and list(channels) == np.arange(n).reshape(groups, -1).T.reshape(-1).tolist():
            return groups
    return 1


def gather(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (codes stay as they are)
    """Rows and columns by an index in the table; channels in runs, interleaved, or one by one."""
    if not is_step_of(step, Gather):
        return None
    node, layout, zero = step.node, step.reads[0], step.write.tensor.zero_point[0]
    h, w, channels = step.write.tensor.shape
    table = np.array([*node.rows, *node.columns, *node.channels], np.int32)

    def pixel(buffers: Buffers, to: Any, source: Any) -> None:
        read, write = buffers.reads[0], buffers.writes[0]
        groups, parts = interleaved(node.channels), runs(node.channels)
        if groups > 1:
            with T.serial(channels // groups) as i:
                for k in range(groups):
                    T.buffer_store(write, read[source + k * (channels // groups) + i], [to + i * groups + k])
        elif len(parts) <= MOST_RUNS:
            for first, start, count in parts:
                if start < 0:
                    fill(write, to + first, zero, count)
                else:
                    copy(write, to + first, read, source + start, count)
        else:
            with T.serial(channels) as c:
                channel = T.bind(buffers.table[h + w + c])
                code = T.if_then_else(channel < 0, T.uint8(zero), read[source + T.max(channel, 0)])
                T.buffer_store(write, code, [to + c])

    def row(buffers: Buffers, y: Any) -> None:
        from_row = T.bind(buffers.table[y])
        with T.serial(w) as x:
            from_column = T.bind(buffers.table[h + x])
            with T.If(T.And(from_row >= 0, from_column >= 0)):
                with T.Then():
                    pixel(buffers, T.bind(step.write.at(y, x)), T.bind(layout.at(from_row, from_column)))
                with T.Else():
                    fill(buffers.writes[0], step.write.at(y, x), zero, channels)

    return Kernel("portable gather", NO_WEIGHTS, 8, table, over_rows(step, row), h)


def concat(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (codes stay as they are)
    """The channels of every input in turn."""
    if not is_step_of(step, Concat):
        return None
    h, w, _ = step.write.tensor.shape

    def row(buffers: Buffers, y: Any) -> None:
        with T.serial(w) as x:
            first = 0
            for read, layout in zip(buffers.reads, step.reads, strict=True):
                count = layout.tensor.shape[2]
                copy(buffers.writes[0], step.write.at(y, x, first), read, layout.at(y, x), count)
                first += count

    return Kernel("portable concat", NO_WEIGHTS, 8, NO_TABLE, over_rows(step, row), h)


def lookup(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (the table has the codes)
    """Code by code from a table: any function of one value."""
    if not is_step_of(step, Lookup):
        return None
    (layout,), (h, w, channels) = step.reads, step.write.tensor.shape
    entries: npt.NDArray[np.int32] = step.node.table.astype(np.int32)

    def row(buffers: Buffers, y: Any) -> None:
        with T.grid(w, channels) as (x, c):
            code = T.cast(buffers.reads[0][layout.at(y, x, c)], "int32")
            at = code if len(entries) == 1 else c * entries.shape[1] + code
            T.buffer_store(buffers.writes[0], T.cast(buffers.table[at], "uint8"), [step.write.at(y, x, c)])

    return Kernel("portable lookup", NO_WEIGHTS, 8, entries.reshape(-1), over_rows(step, row), h)
