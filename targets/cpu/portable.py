"""CPU kernels in plain vector code that LLVM compiles for any CPU; the last rules of x86 and arm.

A rule takes a step and the family's epilogues; `rules` binds the latter.

Channels are the vector lanes, 16 at a time; a ragged last block computes 16 and stores what exists. Convolution weights
are stored [group][block][kh][kw][ci][16 channels].
"""

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues, bound
from targets.cpu.vector import (
    LANES,
    NO_TABLE,
    NO_WEIGHTS,
    blocks,
    copy,
    fill,
    load,
    local,
    over_blocks,
    over_rows,
    padded,
    registers,
    splat,
    store,
    units,
)
from targets.kernel import Entry, Exit, Kernel, Rule, Step
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Rescale, Shortcut


def rules(epilogues: Epilogues) -> list[Rule]:
    """All of them, each for every step of its kind."""
    every = (conv, add, average_pool, max_pool, rescale, move, logits)
    return [bound(rule, epilogues) for rule in every]


def conv(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Dense and grouped convolution: a tile of up to four pixels by 16 channels, one multiply per code and lane."""
    node = step.node
    if not isinstance(node, Conv):
        return None
    o, kh, kw, i = node.weight.shape
    per_group, groups = o // node.groups, node.groups
    nb, (oh, ow, _) = blocks(per_group), step.write.tensor.shape
    tile = min(4, ow)
    weight = np.zeros((groups, nb * LANES, kh, kw, i), np.int8)
    weight[:, :per_group] = node.weight.reshape(groups, per_group, kh, kw, i)
    weight = weight.reshape(groups, nb, LANES, kh, kw, i).transpose(0, 1, 3, 4, 5, 2)
    epilogue, tail = epilogues.conv(step, groups), per_group - (nb - 1) * LANES

    def block(reads, writes, weights, table, y, x0, g, b, count):
        acc, x = registers(tile), step.reads[0]
        for p in range(tile):
            T.buffer_store(acc, splat(0), [T.ramp(p * LANES, 1, LANES)])
        with T.grid(kh, kw, i) as (dy, dx, ci):
            w = load(weights, ((((g * nb + b) * kh + dy) * kw + dx) * i + ci) * LANES)
            for p in range(tile):
                code = reads[0][
                    x.at(
                        y * node.stride + dy - node.padding[0],
                        (x0 + p) * node.stride + dx - node.padding[1],
                        g * i + ci,
                    )
                ]
                at = T.ramp(p * LANES, 1, LANES)
                T.buffer_store(acc, acc[at] + w * splat(code), [at])
        for p in range(tile):
            epilogue.put(
                acc[T.ramp(p * LANES, 1, LANES)],
                reads,
                writes,
                table,
                y,
                x0 + p,
                g * per_group + b * LANES,
                count,
                (g * nb + b) * LANES,
            )

    def row(reads, writes, weights, table, y):
        with T.grid(-(-ow // tile), groups) as (t, g):
            x0 = T.min(t * tile, ow - tile)  # the last tile of a row overlaps the one before instead of being short
            if nb > 1:
                with T.serial(nb - 1) as b:
                    block(reads, writes, weights, table, y, x0, g, b, LANES)
            block(reads, writes, weights, table, y, x0, g, nb - 1, tail)

    return Kernel("portable conv", weight.reshape(-1), node.w_bits, epilogue.table, over_rows(step, row), oh)


def add(step: Step, epilogues: Epilogues) -> Kernel | None:
    node = step.node
    if not isinstance(node, Add):
        return None
    a, b = step.reads
    offsets = -(a.tensor.zero_points() * node.multipliers[0] + b.tensor.zero_points() * node.multipliers[1])

    epilogue = epilogues.ratio(step, offsets, *node.multipliers)

    def block(reads, writes, _, table, y, x, c, count):
        multipliers = [splat(epilogue.value(table, k)) for k in range(2)]
        acc = load(reads[0], a.at(y, x, c)) * multipliers[0] + load(reads[1], b.at(y, x, c)) * multipliers[1]
        epilogue.put(acc, reads, writes, table, y, x, c, count)

    return _by_blocks("add", step, block, epilogue.table)


def average_pool(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Sums in int16 where all codes of a window together fit it."""
    node = step.node
    if not isinstance(node, AvgPool):
        return None
    (x_layout,), (kh, kw) = step.reads, node.kernel
    dtype = f"int16x{LANES}" if kh * kw * x_layout.tensor.qmax < 1 << 15 else f"int32x{LANES}"
    epilogue = epilogues.ratio(step, -kh * kw * x_layout.tensor.zero_points())

    def block(reads, writes, _, table, y, x, c, count):
        acc, all_lanes = local(1, dtype), T.ramp(0, 1, LANES)
        T.buffer_store(acc, T.cast(splat(0), dtype), [all_lanes])
        with T.grid(kh, kw) as (dy, dx):
            code = reads[0][T.ramp(x_layout.at(y * node.stride + dy, x * node.stride + dx, c), 1, LANES)]
            T.buffer_store(acc, acc[all_lanes] + T.cast(code, dtype), [all_lanes])
        epilogue.put(T.cast(acc[all_lanes], f"int32x{LANES}"), reads, writes, table, y, x, c, count)

    return _by_blocks("average pool", step, block, epilogue.table)


def max_pool(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Coordinates are clipped to the map: the nearest edge pixel lies in every window that reaches over the edge."""
    node = step.node
    if not isinstance(node, MaxPool):
        return None
    (x_layout,), (kh, kw) = step.reads, node.kernel
    h, w, channels = x_layout.tensor.shape
    lanes = max(n for n in (16, 32, 64) if n <= max(channels, LANES))

    def block(reads, writes, _, table, y, x, c, count):
        code = None
        for dy in range(kh):
            for dx in range(kw):
                yy = T.max(T.min(y * node.stride + dy - node.padding[0], h - 1), 0)
                xx = T.max(T.min(x * node.stride + dx - node.padding[1], w - 1), 0)
                value = reads[0][T.ramp(x_layout.at(yy, xx, c), 1, lanes)]
                code = value if code is None else T.max(code, value)
        store(writes[0], step.write.at(y, x, c), code, count, lanes)

    return _by_blocks("max pool", step, block, lanes=lanes)


def rescale(step: Step, epilogues: Epilogues) -> Kernel | None:
    node = step.node
    if not isinstance(node, Rescale):
        return None
    (x_layout,) = step.reads

    epilogue = epilogues.ratio(step, -x_layout.tensor.zero_points())

    def block(reads, writes, _, table, y, x, c, count):
        epilogue.put(load(reads[0], x_layout.at(y, x, c)), reads, writes, table, y, x, c, count)

    return _by_blocks("rescale", step, block, epilogue.table)


def move(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Copies of codes: the picture into its bordered place, and strided shortcuts with channels of the zero point."""
    if not isinstance(step.node, (Entry, Shortcut)):
        return None
    (x_layout,), (_, w, channels) = step.reads, step.write.tensor.shape
    stride, before = (step.node.stride, step.node.before) if isinstance(step.node, Shortcut) else (1, 0)
    copied = x_layout.tensor.shape[2]

    def row(reads, writes, weights, table, y):
        write, zero = writes[0], step.write.tensor.zero_point[0]
        if stride == 1 and copied == channels:
            copy(write, step.write.at(y, 0), reads[0], x_layout.at(y, 0), w * channels)
            return
        with T.serial(w) as x:
            fill(write, step.write.at(y, x), zero, before)
            copy(write, step.write.at(y, x, before), reads[0], x_layout.at(y * stride, x * stride), copied)
            fill(write, step.write.at(y, x, before + copied), zero, channels - before - copied)

    return Kernel("portable move", NO_WEIGHTS, 8, NO_TABLE, over_rows(step, row), step.write.tensor.shape[0])


def logits(step: Step, epilogues: Epilogues) -> Kernel | None:
    if not isinstance(step.node, Exit):
        return None
    (x_layout,) = step.reads

    def block(reads, writes, _, table, y, x, c, count):
        store(writes[0], step.write.at(y, x, c), load(reads[0], x_layout.at(y, x, c)) + load(table, c), count)

    return _by_blocks("logits", step, block, padded(-x_layout.tensor.zero_points()))


def _by_blocks(name: str, step: Step, block, table=NO_TABLE, lanes: int = LANES) -> Kernel:
    return Kernel(f"portable {name}", NO_WEIGHTS, 8, table, over_blocks(step, block, lanes), units(step, lanes))
