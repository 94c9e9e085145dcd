"""What CPU kernels share: vectors of 16 channels, requantization, borders, and loops over pixels and blocks."""

import numpy as np
from tvm.tirx.script import builder as T

from compile.graph import Conv
from targets.kernel import Layout, Step

LANES = 16
NO_WEIGHTS = np.zeros(0, np.int8)
NO_TABLE = np.zeros(0, np.int32)


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
    """int32 codes of an int32 vector (compile/reference.py: requantize); multiplier, half and shift are vectors."""
    product = T.cast(acc, f"int64x{lanes}") * T.cast(multiplier, f"int64x{lanes}")
    high = T.cast(T.shift_right(product, splat(31, lanes, "int64")), f"int32x{lanes}")
    code = T.shift_right(high + half, shift) + splat(zero_point, lanes)
    return T.max(T.min(code, splat(node.qmax, lanes)), splat(node.qmin, lanes))


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


def over_rows(step: Step, row):
    """emit() whose units are rows of the output: row(reads, writes, weights, table, y) computes one; borders too."""

    def emit(reads, writes, weights, table, units):
        first, end = units
        with T.serial(first, end) as y:
            row(reads, writes, weights, table, y)
        fill_borders(step, writes, first)

    return emit


def over_blocks(step: Step, block):
    """emit() by rows: block(reads, writes, weights, table, y, x, c, count) for every pixel and block of channels."""
    _, w, channels = step.write.tensor.shape
    whole, tail = divmod(channels, LANES)

    def row(reads, writes, weights, table, y):
        with T.serial(w) as x:
            if whole:
                with T.serial(whole) as b:
                    block(reads, writes, weights, table, y, x, b * LANES, LANES)
            if tail:
                block(reads, writes, weights, table, y, x, whole * LANES, tail)

    return over_rows(step, row)


def fill_borders(step: Step, writes, first) -> None:
    """The borders of all that a step writes, by whoever has unit 0."""
    if any(any(layout.border) for layout in step.writes):
        with T.If(first == 0), T.Then():
            for layout, buffer in zip(step.writes, writes, strict=True):
                fill_border(layout, buffer)
