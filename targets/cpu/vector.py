"""What CPU kernels share: vectors of 16 channels, requantization, borders, and loops over pixels and blocks."""

import numpy as np
from tvm.tirx.script import builder as T

from targets.kernel import Layout, Step
from targets.reference.nodes import Conv

LANES = 16
WIDEST = 64  # bytes moved at once
NO_WEIGHTS = np.zeros(0, np.int8)
NO_TABLE = np.zeros(0, np.int32)


def load(buffer, index, lanes: int = LANES):
    """Elements of a flat buffer, widened to int32."""
    return T.cast(buffer[T.ramp(index, 1, lanes)], f"int32x{lanes}")


def store(buffer, index, value, count: int, lanes: int = LANES) -> None:
    """The first `count` lanes of a vector."""
    if count == lanes:
        T.buffer_store(buffer, value, [T.ramp(index, 1, lanes)])
        return
    value = T.bind(value)
    for first, size in _powers_of_two(count):
        part = T.Shuffle([value], list(range(first, first + size)))
        T.buffer_store(buffer, part, [_span(index + first, size)])


def copy(out, to, source, start, count: int) -> None:
    """`count` bytes, which may not overlap."""
    _runs(count, lambda at, size: T.buffer_store(out, source[_span(start + at, size)], [_span(to + at, size)]))


def fill(out, to, value: int, count: int) -> None:
    """`count` times the same byte."""
    _runs(
        count,
        lambda at, size: T.buffer_store(
            out, T.broadcast(T.uint8(value), size) if size > 1 else T.uint8(value), [_span(to + at, size)]
        ),
    )


def _runs(count: int, emit) -> None:
    """emit(first, size) for `count` bytes: vectors of 64, then ever smaller ones."""
    whole, rest = divmod(count, WIDEST)
    if whole:
        with T.serial(whole) as i:
            emit(i * WIDEST, WIDEST)
    for first, size in _powers_of_two(rest):
        emit(whole * WIDEST + first, size)


def _powers_of_two(count: int) -> list[tuple[int, int]]:
    """(first, size) of the fewest runs of 1, 2, 4 ... that make up `count`, the largest first."""
    sizes = [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]
    return [(sum(sizes[:i]), size) for i, size in enumerate(sizes)]


def _span(first, size: int):
    return T.ramp(first, 1, size) if size > 1 else first


def splat(value, lanes: int = LANES, dtype: str = "int32"):
    return T.broadcast(T.cast(value, dtype), lanes)


def registers(count: int):
    """`count` int32 vectors that LLVM keeps in registers."""
    return local(count, f"int32x{LANES}")


def local(count: int, dtype: str):
    """Elements of `count` vectors of a type, which LLVM keeps in registers."""
    element, lanes = dtype.split("x")
    return T.alloc_buffer((count * int(lanes),), element, scope="local", annotations={"disable_lower_builtin": True})


def requantize(acc, multiplier, half, shift, node, zero_point: int, lanes: int = LANES):
    """int32 codes of an int32 vector (targets/reference/interpreter.py: requantize); multiplier, half and shift are
    vectors."""
    product = T.cast(acc, f"int64x{lanes}") * T.cast(multiplier, f"int64x{lanes}")
    high = T.cast(T.shift_right(product, splat(31, lanes, "int64")), f"int32x{lanes}")
    code = T.shift_right(high + half, shift) + splat(zero_point, lanes)
    return T.max(T.min(code, splat(node.qmax, lanes)), splat(node.qmin, lanes))


def fill_border(write: Layout, out) -> None:
    """The zero point in every border pixel of a tensor: runs of memory before, between and after its rows."""
    top, left, bottom, right = write.border
    h, w, channels = write.tensor.shape
    zeros = write.tensor.zero_points().tolist()

    def run(start, pixels: int):
        if pixels and len(set(zeros)) == 1:
            fill(out, start, zeros[0], pixels * channels)
        elif pixels:
            with T.serial(pixels) as i:
                for c, zero in enumerate(zeros):
                    T.buffer_store(out, T.uint8(zero), [start + i * channels + c])

    columns = left + w + right
    run(0, top * columns + left)
    if h > 1 and left + right:
        with T.serial(h - 1) as y:
            run(write.at(y, w), right + left)
    run(write.at(h - 1, w), right + bottom * columns)


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


def over_blocks(step: Step, block, lanes: int = LANES):
    """emit() for block(reads, writes, weights, table, y, x, c, count), every pixel and block of channels. Units are
    rows; of a single pixel they are blocks of channels."""
    _, w, channels = step.write.tensor.shape
    whole, tail = divmod(channels, lanes)

    def row(reads, writes, weights, table, y):
        with T.serial(w) as x:
            if whole:
                with T.serial(whole) as b:
                    block(reads, writes, weights, table, y, x, b * lanes, lanes)
            if tail:
                block(reads, writes, weights, table, y, x, whole * lanes, tail)

    def pixel(reads, writes, weights, table, units):
        first, end = units
        with T.serial(first, T.min(end, whole)) as b:
            block(reads, writes, weights, table, 0, 0, b * lanes, lanes)
        if tail:
            with T.If(end > whole), T.Then():
                block(reads, writes, weights, table, 0, 0, whole * lanes, tail)
        fill_borders(step, writes, first)

    return pixel if _is_pixel(step) else over_rows(step, row)


def units(step: Step, lanes: int = LANES) -> int:
    """How many units `over_blocks` has."""
    h, _, channels = step.write.tensor.shape
    return -(-channels // lanes) if _is_pixel(step) else h


def _is_pixel(step: Step) -> bool:
    return step.write.tensor.shape[:2] == (1, 1)


def fill_borders(step: Step, writes, first) -> None:
    """The borders of all that a step writes, by whoever has unit 0."""
    if any(any(layout.border) for layout in step.writes):
        with T.If(first == 0), T.Then():
            for layout, buffer in zip(step.writes, writes, strict=True):
                fill_border(layout, buffer)
