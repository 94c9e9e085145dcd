"""What CPU kernels share: vectors of 16 channels, requantization, borders, and the table of biases and ratios.

The table of a convolution holds rows of 16-channel blocks: bias, left, multiplier, half, shift and, with a residual
operand, its multiplier. Zero points of inputs are folded into the bias, which is exact because the physical border
holds the zero point.
"""

import numpy as np
from tvm.tirx.script import builder as T

from compile.graph import Conv, Requant
from targets.kernel import Layout, Step

LANES = 16
OFFSETS = 16  # where the channels of a ratio table begin
NO_WEIGHTS = np.zeros(0, np.int8)


def load(buffer, index, lanes: int = LANES):
    """Elements of a flat buffer, widened to int32."""
    return T.cast(buffer[T.ramp(index, 1, lanes)], f"int32x{lanes}")


def store(buffer, index, value, count: int, lanes: int = LANES) -> None:
    """The first `count` lanes of a vector."""
    if count == lanes:
        T.buffer_store(buffer, value, [T.ramp(index, 1, lanes)])
    else:
        for i in range(count):
            T.buffer_store(buffer, T.Shuffle([value], [i]), [index + i])


def splat(value, lanes: int = LANES, dtype: str = "int32"):
    return T.broadcast(T.cast(value, dtype), lanes)


def registers(count: int):
    """`count` int32 vectors that LLVM keeps in registers."""
    return T.alloc_buffer((count * LANES,), "int32", scope="local", annotations={"disable_lower_builtin": True})


def requantize(acc, multiplier, half, shift, node, zero_point: int, lanes: int = LANES):
    """uint8 vector of an int32 vector (compile/reference.py: requantize); multiplier, half and shift are vectors."""
    product = T.cast(acc, f"int64x{lanes}") * T.cast(multiplier, f"int64x{lanes}")
    high = T.cast(T.shift_right(product, splat(31, lanes, "int64")), f"int32x{lanes}")
    code = T.shift_right(high + half, shift) + splat(zero_point, lanes)
    return T.cast(T.max(T.min(code, splat(node.qmax, lanes)), splat(node.qmin, lanes)), f"uint8x{lanes}")


def fill_border(write: Layout, out) -> None:
    """The zero point in every border pixel of a tensor."""
    top, left, bottom, right = write.border
    h, w, channels = write.tensor.shape
    zeros = write.tensor.zero_points()
    regions = (
        (-top, top, -left, left + w + right),
        (h, bottom, -left, left + w + right),
        (0, h, -left, left),
        (0, h, w, right),
    )
    for y0, rows, x0, columns in regions:
        if rows and columns:
            with T.grid(rows, columns) as (y, x):
                if len(set(zeros.tolist())) == 1:
                    with T.serial(channels) as c:
                        T.buffer_store(out, T.uint8(int(zeros[0])), [write.at(y0 + y, x0 + x, c)])
                else:
                    for c in range(channels):
                        T.buffer_store(out, T.uint8(int(zeros[c])), [write.at(y0 + y, x0 + x, c)])


def blocks(channels: int) -> int:
    return -(-channels // LANES)


def padded(values: np.ndarray, groups: int = 1) -> np.ndarray:
    """int32, each group's channels padded with zeros to whole blocks."""
    per_group = values.reshape(groups, -1)
    short = blocks(per_group.shape[1]) * LANES - per_group.shape[1]
    return np.pad(per_group, ((0, 0), (0, short))).astype(np.int32).reshape(-1)


def folded_bias(node: Conv, reads: tuple[Layout, ...], offset: int = 0) -> np.ndarray:
    """int64 [O]: the bias for sums of raw codes less `offset`, so that kernels never subtract a zero point."""
    zero = (
        (reads[0].tensor.zero_points() - offset).reshape(node.groups, -1).repeat(node.weight.shape[0] // node.groups, 0)
    )
    raw = (node.weight.astype(np.int64) * zero[:, None, None, :]).sum((1, 2, 3))
    bias = node.bias - (raw << (0 if node.requant is None else node.requant.left))
    if node.skip is not None:
        bias = bias - node.skip_multiplier * reads[1].tensor.zero_points()
    return bias


def conv_table(node: Conv, reads: tuple[Layout, ...], groups: int = 1, offset: int = 0) -> np.ndarray:
    """int32 rows of whole blocks: bias[, left, multiplier, half, shift[, skip multiplier]]."""
    rows = [folded_bias(node, reads, offset)]
    if node.requant is not None:
        r = node.requant
        rows += [r.left, r.multiplier, 1 << (r.shift - 1), r.shift]
    if node.skip is not None:
        rows.append(node.skip_multiplier)
    return np.concatenate([padded(row, groups) for row in rows])


def finish_conv(
    step: Step, acc, table, row: int, column, skip, y, x, channel, lanes: int = LANES, requantize=requantize
):
    """Output codes (or logits) of one block: shift, bias, residual operand, requantization."""
    node = step.node
    entry = lambda k: load(table, k * row + column, lanes)  # noqa: E731
    if node.requant is None:
        return acc + entry(0)
    acc = T.shift_left(acc, entry(1)) + entry(0)
    if node.skip is not None:
        acc = acc + load(skip, step.reads[1].at(y, x, channel), lanes) * entry(5)
    return requantize(acc, entry(2), entry(3), entry(4), node, step.write.tensor.zero_point[0], lanes)


def ratio_table(requant: Requant, offsets: np.ndarray, *values: int) -> np.ndarray:
    """int32: left, multiplier, half, shift of a ratio that all channels share, more values; from OFFSETS on, what is
    added to a sum of raw codes in each channel, int64 [C], for the zero points."""
    ratio = (requant.left, requant.multiplier, 1 << (requant.shift - 1), requant.shift)
    head = np.array([*(int(a[0]) for a in ratio), *values], np.int64)
    return np.concatenate([np.pad(head, (0, OFFSETS - len(head))), padded(offsets)]).astype(np.int32)


def finish_ratio(step: Step, acc, table):
    acc = T.shift_left(acc, splat(table[0]))
    return requantize(
        acc, splat(table[1]), splat(table[2]), splat(table[3]), step.node, step.write.tensor.zero_point[0]
    )


def over_blocks(step: Step, compute):
    """emit() that stores compute(reads, weights, table, y, x, c) for every pixel and block of 16 channels."""
    h, w, channels = step.write.tensor.shape
    whole, tail = divmod(channels, LANES)

    def emit(reads, write, weights, table):
        with T.grid(h, w) as (y, x):
            if whole:
                with T.serial(whole) as b:
                    store(write, step.write.at(y, x, b * LANES), compute(reads, weights, table, y, x, b * LANES), LANES)
            if tail:
                c = whole * LANES
                store(write, step.write.at(y, x, c), compute(reads, weights, table, y, x, c), tail)
        fill_border(step.write, write)

    return emit
