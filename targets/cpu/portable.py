"""CPU kernels in plain vector code that LLVM compiles for any CPU; the last rules of x86 and arm.

A rule takes a step and the family's epilogues; `rules` binds the latter.

Channels are the vector lanes, 16 at a time; a ragged last block computes 16 and stores what exists. Convolution weights
are stored [group][block][kh][kw][ci][16 channels].
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues, bound
from targets.cpu.vector import LANES, copy, fill, load, local, over_blocks, over_rows, registers, splat, store, units
from targets.kernel import Buffers, Entry, Exit, Kernel, Rule, Span, Step, is_step_of
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Rescale, Shortcut
from targets.tables import NO_TABLE, NO_WEIGHTS, blocks, padded


def rules(epilogues: Epilogues) -> list[Rule]:
    """Returns all of them, each for every step of its kind."""
    every = (conv, add, average_pool, max_pool, rescale, move, logits)
    return [bound(rule, epilogues) for rule in every]


def conv(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense and grouped convolution: a tile of up to four pixels by 16 channels, one multiply per code and lane."""
    if not is_step_of(step, Conv):
        return None
    node, x = step.node, step.reads[0]
    o, kh, kw, i = node.weight.shape
    per_group, groups = o // node.groups, node.groups
    oh, ow, _ = step.write.tensor.shape
    nb = blocks(per_group)
    tile = min(4, ow)
    epilogue, tail = epilogues.conv(step, groups), per_group - (nb - 1) * LANES

    def block(buffers: Buffers, y: Any, x0: Any, g: Any, b: Any, count: int) -> None:
        acc = registers(tile)
        for p in range(tile):
            T.buffer_store(acc, splat(0), [T.ramp(p * LANES, 1, LANES)])
        with T.grid(kh, kw, i) as (dy, dx, ci):
            w = load(buffers.weights, ((((g * nb + b) * kh + dy) * kw + dx) * i + ci) * LANES)
            for p in range(tile):
                row, column = y * node.stride + dy - node.padding[0], (x0 + p) * node.stride + dx - node.padding[1]
                code = buffers.reads[0][x.at(row, column, g * i + ci)]
                at = T.ramp(p * LANES, 1, LANES)
                T.buffer_store(acc, acc[at] + w * splat(code), [at])
        for p in range(tile):
            span = Span(y, x0 + p, g * per_group + b * LANES, count, LANES, column=(g * nb + b) * LANES)
            epilogue.put(acc[T.ramp(p * LANES, 1, LANES)], buffers, span)

    def row(buffers: Buffers, y: Any) -> None:
        with T.grid(-(-ow // tile), groups) as (t, g):
            x0 = T.min(t * tile, ow - tile)  # the last tile of a row overlaps the one before instead of being short
            if nb > 1:
                with T.serial(nb - 1) as b:
                    block(buffers, y, x0, g, b, LANES)
            block(buffers, y, x0, g, nb - 1, tail)

    return Kernel("portable conv", _blocked(node, nb), node.w_bits, epilogue.table, over_rows(step, row), oh)


def _blocked(node: Conv, nb: int) -> npt.NDArray[np.int8]:
    """int8 [n]: the weights as [group][block][kh][kw][ci][16 channels], zeros in what a last block lacks."""
    o, kh, kw, i = node.weight.shape
    per_group, groups = o // node.groups, node.groups
    weight = np.zeros((groups, nb * LANES, kh, kw, i), np.int8)
    weight[:, :per_group] = node.weight.reshape(groups, per_group, kh, kw, i)
    return weight.reshape(groups, nb, LANES, kh, kw, i).transpose(0, 1, 3, 4, 5, 2).reshape(-1)


def add(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Two codes times their multipliers."""
    if not is_step_of(step, Add):
        return None
    node, (a, b) = step.node, step.reads
    offsets = -(a.tensor.zero_points() * node.multipliers[0] + b.tensor.zero_points() * node.multipliers[1])
    epilogue: Any = epilogues.ratio(step, offsets, *node.multipliers)

    def block(buffers: Buffers, span: Span) -> None:
        multipliers = [splat(epilogue.value(buffers, k)) for k in range(2)]
        place = (span.y, span.x, span.channel)
        acc = (
            load(buffers.reads[0], a.at(*place)) * multipliers[0]
            + load(buffers.reads[1], b.at(*place)) * multipliers[1]
        )
        epilogue.put(acc, buffers, span)

    return _by_blocks("add", step, block, epilogue.table)


def average_pool(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Sums in int16 where all codes of a window together fit it."""
    if not is_step_of(step, AvgPool):
        return None
    node, (x_layout,), (kh, kw) = step.node, step.reads, step.node.kernel
    dtype = f"int16x{LANES}" if kh * kw * x_layout.tensor.qmax < 1 << 15 else f"int32x{LANES}"
    epilogue = epilogues.ratio(step, -kh * kw * x_layout.tensor.zero_points())

    def block(buffers: Buffers, span: Span) -> None:
        acc, all_lanes = local(1, dtype), T.ramp(0, 1, LANES)
        T.buffer_store(acc, T.cast(splat(0), dtype), [all_lanes])
        with T.grid(kh, kw) as (dy, dx):
            at = x_layout.at(span.y * node.stride + dy, span.x * node.stride + dx, span.channel)
            code = buffers.reads[0][T.ramp(at, 1, LANES)]
            T.buffer_store(acc, acc[all_lanes] + T.cast(code, dtype), [all_lanes])
        epilogue.put(T.cast(acc[all_lanes], f"int32x{LANES}"), buffers, span)

    return _by_blocks("average pool", step, block, epilogue.table)


def max_pool(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (codes stay as they are)
    """Coordinates are clipped to the map: the nearest edge pixel lies in every window that reaches over the edge."""
    if not is_step_of(step, MaxPool):
        return None
    node, (x_layout,), (kh, kw) = step.node, step.reads, step.node.kernel
    h, w, channels = x_layout.tensor.shape
    lanes = max(n for n in (16, 32, 64) if n <= max(channels, LANES))

    def block(buffers: Buffers, span: Span) -> None:
        code = None
        for dy in range(kh):
            for dx in range(kw):
                yy = T.max(T.min(span.y * node.stride + dy - node.padding[0], h - 1), 0)
                xx = T.max(T.min(span.x * node.stride + dx - node.padding[1], w - 1), 0)
                value = buffers.reads[0][T.ramp(x_layout.at(yy, xx, span.channel), 1, lanes)]
                code = value if code is None else T.max(code, value)
        store(buffers.writes[0], step.write.at(span.y, span.x, span.channel), code, span.count, lanes)

    return _by_blocks("max pool", step, block, lanes=lanes)


def rescale(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """The same values in another scale or width."""
    if not is_step_of(step, Rescale):
        return None
    (x_layout,) = step.reads
    epilogue = epilogues.ratio(step, -x_layout.tensor.zero_points())

    def block(buffers: Buffers, span: Span) -> None:
        epilogue.put(load(buffers.reads[0], x_layout.at(span.y, span.x, span.channel)), buffers, span)

    return _by_blocks("rescale", step, block, epilogue.table)


def move(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (codes stay as they are)
    """Copies of codes: the picture into its bordered place, and strided shortcuts with channels of the zero point."""
    if not isinstance(step.node, (Entry, Shortcut)):
        return None
    (x_layout,), (_, w, channels) = step.reads, step.write.tensor.shape
    stride, before = (step.node.stride, step.node.before) if isinstance(step.node, Shortcut) else (1, 0)
    copied = x_layout.tensor.shape[2]

    def row(buffers: Buffers, y: Any) -> None:
        read, write, zero = buffers.reads[0], buffers.writes[0], step.write.tensor.zero_point[0]
        if stride == 1 and copied == channels:
            copy(write, step.write.at(y, 0), read, x_layout.at(y, 0), w * channels)
            return
        with T.serial(w) as x:
            fill(write, step.write.at(y, x), zero, before)
            copy(write, step.write.at(y, x, before), read, x_layout.at(y * stride, x * stride), copied)
            fill(write, step.write.at(y, x, before + copied), zero, channels - before - copied)

    return Kernel("portable move", NO_WEIGHTS, 8, NO_TABLE, over_rows(step, row), step.write.tensor.shape[0])


def logits(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (nothing is requantized)
    """Codes less their zero points, as int32."""
    if not is_step_of(step, Exit):
        return None
    (x_layout,) = step.reads

    def block(buffers: Buffers, span: Span) -> None:
        codes = load(buffers.reads[0], x_layout.at(span.y, span.x, span.channel))
        value = codes + load(buffers.table, span.channel)
        store(buffers.writes[0], step.write.at(span.y, span.x, span.channel), value, span.count)

    return _by_blocks("logits", step, block, padded(-x_layout.tensor.zero_points()))


def _by_blocks(
    name: str,
    step: Step[Any],
    block: Callable[[Buffers, Span], None],
    table: npt.NDArray[np.int32] = NO_TABLE,
    lanes: int = LANES,
) -> Kernel:
    return Kernel(f"portable {name}", NO_WEIGHTS, 8, table, over_blocks(step, block, lanes), units(step, lanes))
