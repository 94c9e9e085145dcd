"""CPU kernels in plain vector code that LLVM compiles for any CPU; the last rules of x86 and arm.

Channels are the vector lanes, 16 at a time; a ragged last block computes 16 and stores what exists. Convolution weights
are stored [group][block][kh][kw][ci][16 channels].
"""

import numpy as np
from tvm.tirx.script import builder as T

from compile.graph import Add, AvgPool, Conv, MaxPool, Rescale, Shortcut
from targets.kernel import Entry, Exit, Kernel, Step
from targets.vector import (
    LANES,
    NO_WEIGHTS,
    OFFSETS,
    blocks,
    conv_table,
    fill_border,
    finish_conv,
    finish_ratio,
    load,
    over_blocks,
    padded,
    ratio_table,
    registers,
    splat,
    store,
)


def conv(step: Step) -> Kernel | None:
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
    table, row = conv_table(node, step.reads, groups), groups * nb * LANES

    def block(reads, write, weights, scales, y, x0, g, b, lanes):
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
            channel = g * per_group + b * LANES
            value = finish_conv(
                step, acc[T.ramp(p * LANES, 1, LANES)], scales, row, (g * nb + b) * LANES, reads[-1], y, x0 + p, channel
            )
            store(write, step.write.at(y, x0 + p, channel), value, lanes)

    def emit(reads, write, weights, scales):
        tail = per_group - (nb - 1) * LANES
        with T.grid(oh, -(-ow // tile), groups) as (y, t, g):
            x0 = T.min(t * tile, ow - tile)  # the last tile of a row overlaps the one before instead of being short
            if nb > 1:
                with T.serial(nb - 1) as b:
                    block(reads, write, weights, scales, y, x0, g, b, LANES)
            block(reads, write, weights, scales, y, x0, g, nb - 1, tail)
        fill_border(step.write, write)

    return Kernel("portable conv", weight.reshape(-1), node.w_bits, table, emit)


def depthwise(step: Step) -> Kernel | None:
    """One filter a channel: lanes are channels of the input as well."""
    node = step.node
    if (
        not isinstance(node, Conv)
        or node.groups == 1
        or node.weight.shape[3] != 1
        or node.weight.shape[0] != node.groups
    ):
        return None
    channels, kh, kw, _ = node.weight.shape
    row = blocks(channels) * LANES
    weight = np.stack([padded(w) for w in node.weight.reshape(channels, kh * kw).T]).astype(np.int8)  # [kh * kw, row]

    def compute(reads, weights, scales, y, x, c):
        acc = registers(1)
        T.buffer_store(acc, splat(0), [T.ramp(0, 1, LANES)])
        with T.grid(kh, kw) as (dy, dx):
            at = step.reads[0].at(y * node.stride + dy - node.padding[0], x * node.stride + dx - node.padding[1], c)
            product = load(reads[0], at) * load(weights, (dy * kw + dx) * row + c)
            T.buffer_store(acc, acc[T.ramp(0, 1, LANES)] + product, [T.ramp(0, 1, LANES)])
        return finish_conv(step, acc[T.ramp(0, 1, LANES)], scales, row, c, reads[-1], y, x, c)

    table = conv_table(node, step.reads)
    return Kernel("portable depthwise", weight.reshape(-1), node.w_bits, table, over_blocks(step, compute))


def add(step: Step) -> Kernel | None:
    node = step.node
    if not isinstance(node, Add):
        return None
    a, b = step.reads
    offsets = -(a.tensor.zero_points() * node.multipliers[0] + b.tensor.zero_points() * node.multipliers[1])

    def compute(reads, _, table, y, x, c):
        acc = load(reads[0], a.at(y, x, c)) * splat(table[4]) + load(reads[1], b.at(y, x, c)) * splat(table[5])
        return finish_ratio(step, acc + load(table, OFFSETS + c), table)

    table = ratio_table(node.requant, offsets, *node.multipliers)
    return Kernel("portable add", NO_WEIGHTS, 8, table, over_blocks(step, compute))


def average_pool(step: Step) -> Kernel | None:
    node = step.node
    if not isinstance(node, AvgPool):
        return None
    (x_layout,), (kh, kw) = step.reads, node.kernel

    def compute(reads, _, table, y, x, c):
        acc = registers(1)
        T.buffer_store(acc, load(table, OFFSETS + c), [T.ramp(0, 1, LANES)])
        with T.grid(kh, kw) as (dy, dx):
            code = load(reads[0], x_layout.at(y * node.stride + dy, x * node.stride + dx, c))
            T.buffer_store(acc, acc[T.ramp(0, 1, LANES)] + code, [T.ramp(0, 1, LANES)])
        return finish_ratio(step, acc[T.ramp(0, 1, LANES)], table)

    table = ratio_table(node.requant, -kh * kw * x_layout.tensor.zero_points())
    return Kernel("portable average pool", NO_WEIGHTS, 8, table, over_blocks(step, compute))


def max_pool(step: Step) -> Kernel | None:
    """Coordinates are clipped to the map: the nearest edge pixel lies in every window that reaches over the edge."""
    node = step.node
    if not isinstance(node, MaxPool):
        return None
    (x_layout,), (kh, kw) = step.reads, node.kernel
    h, w, _ = x_layout.tensor.shape

    def compute(reads, _, table, y, x, c):
        code = None
        for dy in range(kh):
            for dx in range(kw):
                yy = T.max(T.min(y * node.stride + dy - node.padding[0], h - 1), 0)
                xx = T.max(T.min(x * node.stride + dx - node.padding[1], w - 1), 0)
                value = reads[0][T.ramp(x_layout.at(yy, xx, c), 1, LANES)]
                code = value if code is None else T.max(code, value)
        return code

    return Kernel("portable max pool", NO_WEIGHTS, 8, np.zeros(0, np.int32), over_blocks(step, compute))


def rescale(step: Step) -> Kernel | None:
    node = step.node
    if not isinstance(node, Rescale):
        return None
    (x_layout,) = step.reads

    def compute(reads, _, table, y, x, c):
        return finish_ratio(step, load(reads[0], x_layout.at(y, x, c)) + load(table, OFFSETS + c), table)

    table = ratio_table(node.requant, -x_layout.tensor.zero_points())
    return Kernel("portable rescale", NO_WEIGHTS, 8, table, over_blocks(step, compute))


def move(step: Step) -> Kernel | None:
    """Copies of codes: the picture into its bordered place, and strided shortcuts with channels of the zero point."""
    if not isinstance(step.node, (Entry, Shortcut)):
        return None
    (x_layout,), (h, w, channels) = step.reads, step.write.tensor.shape
    stride, before = (step.node.stride, step.node.before) if isinstance(step.node, Shortcut) else (1, 0)
    copied = x_layout.tensor.shape[2]

    def emit(reads, write, weights, table):
        with T.grid(h, w) as (y, x):
            for first, count in ((0, before), (before + copied, channels - before - copied)):
                if count:
                    with T.serial(count) as c:
                        zero = T.uint8(step.write.tensor.zero_point[0])
                        T.buffer_store(write, zero, [step.write.at(y, x, first + c)])
            with T.serial(copied) as c:
                T.buffer_store(
                    write, reads[0][x_layout.at(y * stride, x * stride, c)], [step.write.at(y, x, before + c)]
                )
        fill_border(step.write, write)

    return Kernel("portable move", NO_WEIGHTS, 8, np.zeros(0, np.int32), emit)


def logits(step: Step) -> Kernel | None:
    if not isinstance(step.node, Exit):
        return None
    (x_layout,) = step.reads

    def compute(reads, _, table, y, x, c):
        return load(reads[0], x_layout.at(y, x, c)) + load(table, c)

    table = padded(-x_layout.tensor.zero_points())
    return Kernel("portable logits", NO_WEIGHTS, 8, table, over_blocks(step, compute))


RULES = [depthwise, conv, add, average_pool, max_pool, rescale, move, logits]
