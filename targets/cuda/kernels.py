"""CUDA kernels in plain C: one thread an output element, border included; the rules of last resort on every GPU.

Neighbouring threads are neighbouring channels, so that a warp reads its weights [kh][kw][ci][channel] side by side and
shares each input code. The table holds rows of one value a channel: bias, left, multiplier, half, shift and, with a
residual operand, its multiplier; or one ratio for all channels. Zero points of inputs are folded into the bias.
"""

import numpy as np
import tvm
from tvm.tirx.script import builder as T

from compile.graph import Add, AvgPool, Conv, MaxPool, Rescale, Shortcut
from targets import Target, module
from targets.epilogue import OFFSETS, ratio_table
from targets.kernel import Call, Entry, Exit, Kernel, Layout, Rule, Sizes, Step
from targets.vector import NO_WEIGHTS, folded_bias

WRITES_ALSO = False  # one output a kernel
THREADS = 128  # of a block; small feature maps still spread over many blocks


def assemble(calls: list[Call], sizes: Sizes) -> tvm.IRModule:
    """main on the host; a function whose target has no host of its own is a kernel, which main launches."""
    return module.assemble(calls, sizes, tvm.target.Target({"kind": "cuda", "arch": "sm_80"}))


def each_element(step: Step, compute, border=None):
    """emit() with a thread for every element of the output: compute(reads, weights, table, y, x, c) inside, the zero
    point (or border(table, c)) around it."""
    write = step.write
    (top, left, _, _), (h, w, channels) = write.border, write.tensor.shape

    def emit(reads, writes, weights, table, _):
        (out,) = writes
        count = -(-write.size // THREADS)
        with T.launch_thread("blockIdx.x", count) as block, T.launch_thread("threadIdx.x", THREADS) as thread:
            i = block * THREADS + thread
            with T.If(i < write.size), T.Then():
                y, x = i // write.row_stride - top, i % write.row_stride // channels - left
                c = i % channels
                if write.size == h * w * channels:
                    T.buffer_store(out, compute(reads, weights, table, y, x, c), [i])
                    return
                with T.If(T.And(T.And(y >= 0, y < h), T.And(x >= 0, x < w))):
                    with T.Then():
                        T.buffer_store(out, compute(reads, weights, table, y, x, c), [i])
                    with T.Else():
                        zero = T.int32(write.tensor.zero_point[0]) if border is None else border(table, c)
                        T.buffer_store(out, T.cast(zero, "uint8"), [i])

    return emit


def sums(*loops: int, start, term):
    """int32: start plus term(indices) over nested loops."""
    acc = T.alloc_buffer((1,), "int32", scope="local")
    T.buffer_store(acc, start, [0])
    with T.grid(*loops) as indices:
        T.buffer_store(acc, acc[0] + term(*indices), [0])
    return acc[0]


def code(buffer, layout: Layout, y, x, c):
    return T.cast(buffer[layout.at(y, x, c)], "int32")


def requantize(step: Step, acc, multiplier, half, shift):
    """uint8 (compile/reference.py: requantize)."""
    high = T.cast(T.shift_right(T.cast(acc, "int64") * T.cast(multiplier, "int64"), T.int64(31)), "int32")
    value = T.shift_right(high + half, shift) + T.int32(step.write.tensor.zero_point[0])
    return T.cast(T.max(T.min(value, T.int32(step.node.qmax)), T.int32(step.node.qmin)), "uint8")


def finish_ratio(step: Step, acc, table):
    return requantize(step, T.shift_left(acc, table[0]), table[1], table[2], table[3])


def conv(step: Step) -> Kernel | None:
    """Dense, grouped and depthwise convolution, and the classifier."""
    node = step.node
    if not isinstance(node, Conv):
        return None
    o, kh, kw, i = node.weight.shape
    per_group = o // node.groups
    rows = [folded_bias(node, step.reads)]
    if node.requant is not None:
        r = node.requant
        rows += [r.left, r.multiplier, 1 << (r.shift - 1), r.shift]
    if node.skip is not None:
        rows.append(node.skip_multiplier)

    def compute(reads, weights, table, y, x, c):
        def product(dy, dx, ci):
            yy, xx = y * node.stride + dy - node.padding[0], x * node.stride + dx - node.padding[1]
            weight = T.cast(weights[((dy * kw + dx) * i + ci) * o + c], "int32")
            return code(reads[0], step.reads[0], yy, xx, c // per_group * i + ci) * weight

        acc = sums(kh, kw, i, start=T.int32(0), term=product)
        if node.requant is None:
            return acc + table[c]
        acc = T.shift_left(acc, table[o + c]) + table[c]
        if node.skip is not None:
            acc = acc + code(reads[1], step.reads[1], y, x, c) * table[5 * o + c]
        return requantize(step, acc, table[2 * o + c], table[3 * o + c], table[4 * o + c])

    weights = np.ascontiguousarray(node.weight.transpose(1, 2, 3, 0)).reshape(-1)
    table = np.concatenate(rows).astype(np.int32)
    return Kernel("portable conv", weights, node.w_bits, table, each_element(step, compute))


def add(step: Step) -> Kernel | None:
    node = step.node
    if not isinstance(node, Add):
        return None
    a, b = step.reads
    offsets = -(a.tensor.zero_points() * node.multipliers[0] + b.tensor.zero_points() * node.multipliers[1])

    def compute(reads, _, table, y, x, c):
        acc = code(reads[0], a, y, x, c) * table[4] + code(reads[1], b, y, x, c) * table[5]
        acc = acc + table[OFFSETS + c]
        return finish_ratio(step, acc, table)

    table = ratio_table(node.requant, offsets, *node.multipliers)
    return Kernel("portable add", NO_WEIGHTS, 8, table, each_element(step, compute))


def average_pool(step: Step) -> Kernel | None:
    node = step.node
    if not isinstance(node, AvgPool):
        return None
    (layout,), (kh, kw), stride = step.reads, node.kernel, node.stride

    def compute(reads, _, table, y, x, c):
        def term(dy, dx):
            return code(reads[0], layout, y * stride + dy, x * stride + dx, c)

        return finish_ratio(step, sums(kh, kw, start=table[OFFSETS + c], term=term), table)

    table = ratio_table(node.requant, -kh * kw * layout.tensor.zero_points())
    return Kernel("portable average pool", NO_WEIGHTS, 8, table, each_element(step, compute))


def max_pool(step: Step) -> Kernel | None:
    """Coordinates are clipped to the map: the nearest edge pixel lies in every window that reaches over the edge."""
    node = step.node
    if not isinstance(node, MaxPool):
        return None
    (layout,), (kh, kw) = step.reads, node.kernel
    h, w, _ = layout.tensor.shape

    def compute(reads, _, __, y, x, c):
        best = T.alloc_buffer((1,), "int32", scope="local")
        T.buffer_store(best, T.int32(0), [0])
        with T.grid(kh, kw) as (dy, dx):
            yy = T.max(T.min(y * node.stride + dy - node.padding[0], h - 1), 0)
            xx = T.max(T.min(x * node.stride + dx - node.padding[1], w - 1), 0)
            T.buffer_store(best, T.max(best[0], code(reads[0], layout, yy, xx, c)), [0])
        return T.cast(best[0], "uint8")

    return Kernel("portable max pool", NO_WEIGHTS, 8, np.zeros(0, np.int32), each_element(step, compute))


def rescale(step: Step) -> Kernel | None:
    node = step.node
    if not isinstance(node, Rescale):
        return None
    (layout,) = step.reads

    def compute(reads, _, table, y, x, c):
        return finish_ratio(step, code(reads[0], layout, y, x, c) + table[OFFSETS + c], table)

    table = ratio_table(node.requant, -layout.tensor.zero_points())
    return Kernel("portable rescale", NO_WEIGHTS, 8, table, each_element(step, compute))


def picture(step: Step) -> Kernel | None:
    """The picture into its bordered place; the table holds its zero points, one a channel."""
    if not isinstance(step.node, Entry):
        return None
    (layout,) = step.reads

    def compute(reads, _, __, y, x, c):
        return reads[0][layout.at(y, x, c)]

    table = step.write.tensor.zero_points().astype(np.int32)
    return Kernel("portable picture", NO_WEIGHTS, 8, table, each_element(step, compute, lambda table, c: table[c]))


def shortcut(step: Step) -> Kernel | None:
    node = step.node
    if not isinstance(node, Shortcut):
        return None
    (layout,), zero = step.reads, step.write.tensor.zero_point[0]
    copied = layout.tensor.shape[2]

    def compute(reads, _, __, y, x, c):
        inside = T.And(c >= node.before, c < node.before + copied)
        value = reads[0][layout.at(y * node.stride, x * node.stride, c - node.before)]
        return T.if_then_else(inside, value, T.uint8(zero))

    return Kernel("portable shortcut", NO_WEIGHTS, 8, np.zeros(0, np.int32), each_element(step, compute))


def logits(step: Step) -> Kernel | None:
    if not isinstance(step.node, Exit):
        return None
    (layout,) = step.reads

    def compute(reads, _, table, y, x, c):
        return code(reads[0], layout, y, x, c) + table[c]

    table = (-layout.tensor.zero_points()).astype(np.int32)
    return Kernel("portable logits", NO_WEIGHTS, 8, table, each_element(step, compute))


def rules(target: Target) -> list[Rule]:
    """First that applies; the same for every GPU."""
    return [conv, add, average_pool, max_pool, rescale, picture, shortcut, logits]
