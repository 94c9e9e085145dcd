"""CPU kernels of pools, in plain vector code that LLVM compiles for any CPU; lanes are channels."""

from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import LANES, Ratio, by_blocks, load, local, requantize, splat, store
from targets.kernel import Buffers, Kernel, Span, Step, is_step_of
from targets.reference.nodes import AvgPool, MaxPool
from targets.tables import padded
from targets.windows import VALUES, area_ratio_index, area_ratios, nearest_inside


def average_pool(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """The average of every window; pixels of the border hold the zero point, which adds nothing to a mean."""
    if not is_step_of(step, AvgPool):
        return None
    if step.node.areas:
        return _pool_of_areas(step)
    zero_points = step.reads[0].tensor.zero_points()
    epilogue = epilogues.ratio(step, -step.node.kernel[0] * step.node.kernel[1] * zero_points)

    def block(buffers: Buffers, span: Span) -> None:
        epilogue.put(_window_sum(step, buffers, span), buffers, span)

    return by_blocks("average pool", step, block, epilogue.table)


def _window_sum(step: Step[Any], buffers: Buffers, span: Span) -> Any:
    """int32 sums of codes, added in int16 where all codes of a window together fit it."""
    node, (layout,), (kh, kw) = step.node, step.reads, step.node.kernel
    dtype = f"int16x{LANES}" if kh * kw * layout.tensor.qmax < 1 << 15 else f"int32x{LANES}"
    acc, all_lanes = local(1, dtype), T.ramp(0, 1, LANES)
    y, x = span.y * node.stride[0] - node.padding[0], span.x * node.stride[1] - node.padding[1]
    T.buffer_store(acc, T.cast(splat(0), dtype), [all_lanes])
    with T.grid(kh, kw) as (dy, dx):
        code = buffers.reads[0][T.ramp(layout.at(y + dy, x + dx, span.channel), 1, LANES)]
        T.buffer_store(acc, acc[all_lanes] + T.cast(code, dtype), [all_lanes])
    return T.cast(acc[all_lanes], f"int32x{LANES}")


def _pool_of_areas(step: Step[Any]) -> Kernel:
    """Windows at the edge have areas, and so ratios, of their own.

    The table: offsets that take the zero points off a whole window, a row of channels; then the ratios.
    """
    node, layout = step.node, step.reads[0]
    offsets = padded(-node.kernel[0] * node.kernel[1] * layout.tensor.zero_points())

    def block(buffers: Buffers, span: Span) -> None:
        at = T.bind(offsets.size + area_ratio_index(node, layout, span.y, span.x))
        left, multiplier, half, shift = (splat(buffers.table[at + k]) for k in range(VALUES))
        acc = _window_sum(step, buffers, span) + load(buffers.table, span.channel)
        codes = requantize(T.shift_left(acc, left), Ratio(multiplier, half, shift), step)
        place = step.write.at(span.y, span.x, span.channel)
        store(buffers.writes[0], place, T.cast(codes, f"uint8x{LANES}"), span.count)

    return by_blocks("average pool, areas", step, block, np.concatenate([offsets, area_ratios(node)]))


def max_pool(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (codes stay as they are)
    """The largest code of every window.

    Taps outside the map are moved to the nearest tap of the window that lies inside, so they change nothing.
    """
    if not is_step_of(step, MaxPool):
        return None
    node, (layout,), (kh, kw) = step.node, step.reads, step.node.kernel
    lanes = max(n for n in (16, 32, 64) if n <= max(layout.tensor.shape[2], LANES))

    def inside(axis: int, position: Any, tap: int) -> Any:
        first = position * node.stride[axis] - node.padding[axis]
        return nearest_inside(first, tap, node.dilation[axis], layout.tensor.shape[axis])

    def block(buffers: Buffers, span: Span) -> None:
        code = None
        for dy in range(kh):
            for dx in range(kw):
                at = layout.at(inside(0, span.y, dy), inside(1, span.x, dx), span.channel)
                value = buffers.reads[0][T.ramp(at, 1, lanes)]
                code = value if code is None else T.max(code, value)
        store(buffers.writes[0], step.write.at(span.y, span.x, span.channel), code, span.count, lanes)

    return by_blocks("max pool", step, block, lanes=lanes)
