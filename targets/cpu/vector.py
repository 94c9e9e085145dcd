"""What CPU kernels share: vectors of 16 channels, requantization, borders, and loops over pixels and blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.kernel import Buffers, Kernel, Layout, Span, Step
from targets.tables import NO_TABLE, NO_WEIGHTS

LANES = 16
WIDEST = 64  # bytes moved at once

Emit = Callable[[Buffers, tuple[Any, Any]], None]


def load(buffer: Any, index: Any, lanes: int = LANES) -> Any:
    """Returns `lanes` elements of a flat buffer from `index` on, widened to int32."""
    return T.cast(buffer[T.ramp(index, 1, lanes)], f"int32x{lanes}")


def store(buffer: Any, index: Any, value: Any, count: int, lanes: int = LANES) -> None:
    """Stores the first `count` lanes of a vector."""
    if count == lanes:
        T.buffer_store(buffer, value, [T.ramp(index, 1, lanes)])
        return
    value = T.bind(value)
    for first, size in _powers_of_two(count):
        part = T.Shuffle([value], list(range(first, first + size)))
        T.buffer_store(buffer, part, [_run(index + first, size)])


def copy(out: Any, to: Any, source: Any, start: Any, count: int) -> None:
    """Copies `count` bytes, which may not overlap."""
    _by_runs(count, lambda at, size: T.buffer_store(out, source[_run(start + at, size)], [_run(to + at, size)]))


def fill(out: Any, to: Any, value: int, count: int) -> None:
    """Stores the same byte `count` times."""

    def put(at: Any, size: int) -> None:
        byte = T.uint8(value)
        T.buffer_store(out, T.broadcast(byte, size) if size > 1 else byte, [_run(to + at, size)])

    _by_runs(count, put)


def _by_runs(count: int, emit: Callable[[Any, int], None]) -> None:
    """Calls emit(first, size) for `count` bytes: vectors of WIDEST, then ever smaller ones."""
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


def _run(first: Any, size: int) -> Any:
    return T.ramp(first, 1, size) if size > 1 else first


def splat(value: Any, lanes: int = LANES, dtype: str = "int32") -> Any:
    """Returns a vector of `lanes` times the same value."""
    return T.broadcast(T.cast(value, dtype), lanes)


def registers(count: int) -> Any:
    """Returns a buffer of `count` int32 vectors that LLVM keeps in registers."""
    return local(count, f"int32x{LANES}")


def local(count: int, dtype: str) -> Any:
    """Returns a buffer of the elements of `count` vectors of a type, which LLVM keeps in registers."""
    element, lanes = dtype.split("x")
    return T.alloc_buffer((count * int(lanes),), element, scope="local", annotations={"disable_lower_builtin": True})


@dataclass(frozen=True)
class Ratio:
    """What a requantization multiplies by: int32 vectors."""

    multiplier: Any
    half: Any
    shift: Any


def requantize(acc: Any, ratio: Ratio, step: Step[Any], lanes: int = LANES) -> Any:
    """Returns int32 codes of an int32 vector by the reference's rule; int32 logits are not clamped.

    Source: `requantize` in targets/reference/interpreter.py.
    """
    node, zero_point, unclamped = step.node, step.write.tensor.zero_point[0], step.write.dtype == "int32"
    product = T.cast(acc, f"int64x{lanes}") * T.cast(ratio.multiplier, f"int64x{lanes}")
    high = T.cast(T.shift_right(product, splat(31, lanes, "int64")), f"int32x{lanes}")
    code = T.shift_right(high + ratio.half, ratio.shift) + splat(zero_point, lanes)
    return code if unclamped else T.max(T.min(code, splat(node.qmax, lanes)), splat(node.qmin, lanes))


def fill_border(write: Layout, out: Any) -> None:
    """Stores the zero point in every border pixel of a tensor: runs of memory before, between and after its rows."""
    top, left, bottom, right = write.border
    h, w, channels = write.tensor.shape
    zeros = write.tensor.zero_points().tolist()

    def run(start: Any, pixels: int) -> None:
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


def over_rows(step: Step[Any], row: Callable[[Buffers, Any], None]) -> Emit:
    """Returns a kernel's emit whose units are rows of the output: row(buffers, y) computes one; borders too."""

    def emit(buffers: Buffers, units: tuple[Any, Any]) -> None:
        first, end = units
        with T.serial(first, end) as y:
            row(buffers, y)
        fill_borders(step, buffers.writes, first)

    return emit


def over_blocks(step: Step[Any], block: Callable[[Buffers, Span], None], lanes: int = LANES) -> Emit:
    """Returns a kernel's emit for block(buffers, span), called for every pixel and block of channels.

    Units are rows; those of a single pixel are blocks of channels.
    """
    _, w, channels = step.write.tensor.shape
    whole, tail = divmod(channels, lanes)

    def row(buffers: Buffers, y: Any) -> None:
        with T.serial(w) as x:
            if whole:
                with T.serial(whole) as b:
                    block(buffers, Span(y, x, b * lanes, lanes, lanes))
            if tail:
                block(buffers, Span(y, x, whole * lanes, tail, lanes))

    def pixel(buffers: Buffers, units: tuple[Any, Any]) -> None:
        first, end = units
        with T.serial(first, T.min(end, whole)) as b:
            block(buffers, Span(0, 0, b * lanes, lanes, lanes))
        if tail:
            with T.If(end > whole), T.Then():
                block(buffers, Span(0, 0, whole * lanes, tail, lanes))
        fill_borders(step, buffers.writes, first)

    return pixel if _is_pixel(step) else over_rows(step, row)


def units(step: Step[Any], lanes: int = LANES) -> int:
    """Returns how many units `over_blocks` has."""
    h, _, channels = step.write.tensor.shape
    return -(-channels // lanes) if _is_pixel(step) else h


def by_blocks(
    name: str,
    step: Step[Any],
    block: Callable[[Buffers, Span], None],
    table: npt.NDArray[np.int32] = NO_TABLE,
    lanes: int = LANES,
) -> Kernel:
    """Returns a kernel without weights that calls block(buffers, span) for every pixel and block of channels."""
    return Kernel(f"portable {name}", NO_WEIGHTS, 8, table, over_blocks(step, block, lanes), units(step, lanes))


def _is_pixel(step: Step[Any]) -> bool:
    return step.write.tensor.shape[:2] == (1, 1)


def fill_borders(step: Step[Any], writes: Sequence[Any], first: Any) -> None:
    """Fills the borders of all that a step writes, done by whoever has unit 0."""
    if any(any(layout.border) for layout in step.writes):
        with T.If(first == 0), T.Then():
            for layout, buffer in zip(step.writes, writes, strict=True):
                fill_border(layout, buffer)
