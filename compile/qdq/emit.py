"""Turns a float result, once the scale it is quantized with is known, into nodes of the integer graph."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compile.qdq.emit_conv import Output, Tensors, conv_node
from compile.qdq.places import as_shortcut, split_places
from compile.qdq.values import (
    Pending,
    PendingAdd,
    PendingAvgPool,
    PendingConcat,
    PendingConv,
    PendingFunction,
    PendingMaxPool,
    PendingMove,
    PendingMul,
    PendingRescale,
    PendingScaled,
    refusal,
    require,
)
from targets.reference.nodes import (
    Add,
    AvgPool,
    Concat,
    Gather,
    Lookup,
    MaxPool,
    Mul,
    Node,
    Requant,
    Rescale,
    Shortcut,
    Tensor,
)
from targets.reference.pools import window_areas
from targets.reference.scales import add_integers, requant_from_ratio, rescale_requant

MOST_ADD_ERROR = 1 / 16  # codes

Emitted = list[tuple[Node, Tensor]]  # nodes in running order, each with the tensor that it computes


def emit(tensors: Tensors, pending: Pending, output: Output) -> Emitted:
    """Returns the nodes that compute `output` of a pending result and clamp it; raises OnnxError."""
    low = max(output.low, _clamp_code(pending.low, output.tensor, 0))
    high = min(output.high, _clamp_code(pending.high, output.tensor, output.tensor.qmax))
    require(low <= high, output.where, "clamps that leave a code", (pending.low, pending.high))
    if type(pending) not in EMITTERS:
        raise refusal(output.where, "a result that can be quantized", pending.name)
    return EMITTERS[type(pending)](tensors, pending, replace(output, low=low, high=high))


def emit_moved(pending: PendingMaxPool | PendingMove, source: str, out: Tensor, where: str) -> Node:
    """Returns the node of a tensor [H, W, C] that keeps the scale and width of its source; raises OnnxError."""
    if isinstance(pending, PendingMaxPool):
        window = pending.window
        return MaxPool(pending.name, source, out.name, window.kernel, window.stride, window.padding, window.dilation)
    places = split_places(pending)
    if places is None:
        advice = "rewrite it as Slices, or put it before a Gemm, which takes any order"
        raise refusal(where, "rows, columns and channels that move as wholes", "values in another order", advice)
    shortcut = as_shortcut(places, pending.source_shape)
    if shortcut is not None:
        return Shortcut(pending.name, source, out.name, *shortcut)
    return Gather(pending.name, source, out.name, places.rows, places.columns, places.channels)


def emit_concat(pending: PendingConcat, sources: Sequence[str], out: Tensor) -> Concat:
    """Returns the node of a tensor [H, W, C] whose sources share its scale and width."""
    return Concat(pending.name, tuple(sources), out.name)


def function_table(pending: PendingFunction, x: Tensor) -> np.ndarray:
    """Returns float64 [1 or C, 2**bits], the real value of a function, clamped, for every code of its source.

    Raises OnnxError where it is not finite.
    """
    zero_points = x.zero_points()[:, None] if len(x.zero_point) > 1 else np.array([x.zero_point])
    values = np.float64(x.scale) * (np.arange(x.qmax + 1)[None, :] - zero_points)
    with np.errstate(all="ignore"):
        table = np.asarray(pending.function(values), np.float64)
    require(bool(np.isfinite(table).all()), pending.name, "a function that is finite for every code", "one that is not")
    return np.clip(table, pending.low, pending.high)


def _clamp_code(real: float, out: Tensor, fallback: int) -> int:
    """The code of a clamp's limit; `fallback` for one that is infinite."""
    if np.isinf(real):
        return fallback
    return int(np.clip(np.rint(real / np.float64(out.scale)) + out.zero_point[0], 0, out.qmax))


def _emit_conv(tensors: Tensors, pending: PendingConv, output: Output) -> Emitted:
    return [(conv_node(tensors, pending, output), output.tensor)]


def _emit_add(tensors: Tensors, pending: PendingAdd, output: Output) -> Emitted:
    out = output.tensor
    operands = tensors[pending.a], tensors[pending.b]
    scales = _within_reach(*operands, out, -1 if pending.subtracts else 1)
    (left, right), requant = add_integers(*scales, out.scale)
    _require_exact_products(operands, scales, (left, right), requant, output)
    multipliers = (left, -right if pending.subtracts else right)
    node = Add(pending.name, pending.a, pending.b, out.name, multipliers, requant, output.low, output.high)
    return [(node, out)]


def _within_reach(a: Tensor, b: Tensor, out: Tensor, sign: int) -> tuple[float, float]:
    """Scales of the operands of a + sign * b, the larger one cut where that changes no code.

    A step of an operand that takes every result past all codes, whatever the other one adds, may be smaller as long as
    it still does. Quantizers give such a scale to values that were always zero.
    """
    a_reach, b_reach = ((-t.zero_points().max(), t.qmax - t.zero_points().min()) for t in (a, b))
    b_reach = b_reach if sign > 0 else (-b_reach[1], -b_reach[0])
    if a.scale >= b.scale:
        return min(a.scale, _least_step_past(a_reach, b_reach, b.scale, out)), b.scale
    return a.scale, min(b.scale, _least_step_past(b_reach, a_reach, a.scale, out))


def _require_exact_products(
    operands: tuple[Tensor, Tensor],
    scales: tuple[float, float],
    multipliers: tuple[int, int],
    requant: Requant,
    output: Output,
) -> None:
    """Refuses multipliers whose rounding moves an operand's largest product by more than MOST_ADD_ERROR codes.

    That of an operand whose scale was cut moves nothing: every step of it passes all codes.
    """
    unit = np.ldexp(np.float64(requant.multiplier[0]), int(requant.left[0]) - 31 - int(requant.shift[0]))
    for x, scale, multiplier in zip(operands, scales, multipliers, strict=True):
        reach = max(x.qmax - x.zero_points().min(), x.zero_points().max())
        error = 0.0 if scale < x.scale else reach * abs(multiplier * unit - scale / output.tensor.scale)
        expected = f"operands of an Add whose scales allow products exact to {MOST_ADD_ERROR:g} of a code"
        ratios = (
            f"scales {scales[0] / output.tensor.scale:g} and {scales[1] / output.tensor.scale:g} times the result's"
        )
        require(error <= MOST_ADD_ERROR, output.where, expected, ratios, "calibrate the quantizers again")


def _least_step_past(steps: Sequence[int], others: Sequence[int], scale: float, out: Tensor) -> float:
    """The least scale with which one step up or down passes all codes; steps, others: (least, most) of each operand."""
    zero_point = out.zero_point[0]
    up = (out.qmax - zero_point) * out.scale - others[0] * scale if steps[1] > 0 else 0.0
    down = zero_point * out.scale + others[1] * scale if steps[0] < 0 else 0.0
    return float(max(up, down, out.scale))


def _emit_avg_pool(tensors: Tensors, pending: PendingAvgPool, output: Output) -> Emitted:
    out, x, window = output.tensor, tensors[pending.source], pending.window
    areas = np.unique(window_areas(x.shape[:2], window.kernel, window.stride, window.padding, pending.counted))
    is_even = areas.tolist() == [window.kernel[0] * window.kernel[1]]
    node = AvgPool(
        name=pending.name,
        input=pending.source,
        output=out.name,
        kernel=window.kernel,
        stride=window.stride,
        requant=rescale_requant(x.scale, out.scale, areas.astype(np.float64)),
        qmin=output.low,
        qmax=output.high,
        padding=window.padding,
        counted=pending.counted,
        areas=() if is_even else tuple(areas.tolist()),
    )
    return [(node, out)]


def _emit_mul(tensors: Tensors, pending: PendingMul, output: Output) -> Emitted:
    ratio = np.float64(tensors[pending.a].scale) * tensors[pending.b].scale / output.tensor.scale
    requant = requant_from_ratio(ratio)
    node = Mul(pending.name, pending.a, pending.b, output.tensor.name, requant, output.low, output.high)
    return [(node, output.tensor)]


def _emit_function(tensors: Tensors, pending: PendingFunction, output: Output) -> Emitted:
    out = output.tensor
    codes = np.rint(function_table(pending, tensors[pending.source]) / np.float64(out.scale)) + out.zero_point[0]
    table = np.clip(codes, output.low, output.high).astype(np.uint8)
    return [(Lookup(pending.name, pending.source, out.name, table), out)]


def _emit_concat(tensors: Tensors, pending: PendingConcat, output: Output) -> Emitted:
    """Every source gets the scale, width and clamps of the result first."""
    out, names = output.tensor, []
    emitted: Emitted = []
    for number, source in enumerate(pending.sources):
        if isinstance(source, str) and _keeps_codes(tensors[source], output):
            names.append(source)
            continue
        shape = tensors[source].shape if isinstance(source, str) else source.shape
        part = replace(output, tensor=replace(out, name=f"{pending.name}/{number}", shape=shape))
        if isinstance(source, str):
            emitted.append((_rescale(f"{pending.name}/rescale{number}", tensors[source], part), part.tensor))
        else:
            emitted += emit(tensors, source, part)
        names.append(part.tensor.name)
    return [*emitted, (emit_concat(pending, names, out), out)]


def _emit_rescale(tensors: Tensors, pending: PendingRescale, output: Output) -> Emitted:
    return [(_rescale(pending.name, tensors[pending.source], output), output.tensor)]


def _emit_moved(tensors: Tensors, pending: PendingMaxPool | PendingMove, output: Output) -> Emitted:
    """A pool or move keeps its input's scale; where the result has another one, a Rescale follows it.

    A float result is quantized before it moves, with the quantizer of what it becomes.
    """
    out, source = output.tensor, pending.source
    if not isinstance(source, str):
        shape = pending.source_shape if isinstance(pending, PendingMove) else source.shape
        inner = replace(out, name=f"{pending.name}/codes", shape=shape)
        moved = emit_moved(pending, inner.name, out, output.where)
        return [*emit(tensors, source, replace(output, tensor=inner)), (moved, out)]
    x = tensors[source]
    if _keeps_codes(x, output):
        return [(emit_moved(pending, source, out, output.where), out)]
    inner = replace(x, name=f"{pending.name}/codes", shape=pending.shape)
    moved = emit_moved(pending, source, inner, output.where)
    return [(moved, inner), (_rescale(f"{pending.name}/rescale", inner, output), out)]


def _keeps_codes(x: Tensor, output: Output) -> bool:
    """Whether quantizing a tensor's values into the output gives the very same codes."""
    out = output.tensor
    same_scale = (x.scale, x.zero_point, x.bits) == (out.scale, out.zero_point, out.bits)
    return same_scale and (output.low, output.high) == (0, out.qmax)


def _rescale(name: str, x: Tensor, output: Output) -> Rescale:
    requant = rescale_requant(x.scale, output.tensor.scale)
    return Rescale(name, x.name, output.tensor.name, requant, output.low, output.high)


EMITTERS: dict[type[Pending], Callable[[Tensors, Any, Output], Emitted]] = {
    PendingConv: _emit_conv,
    PendingAdd: _emit_add,
    PendingAvgPool: _emit_avg_pool,
    PendingMul: _emit_mul,
    PendingFunction: _emit_function,
    PendingScaled: _emit_function,
    PendingConcat: _emit_concat,
    PendingMaxPool: _emit_moved,
    PendingMove: _emit_moved,
    PendingRescale: _emit_rescale,
}
