"""Turns a float result, once the scale it is quantized with is known, into nodes of the integer graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compile.qdq.values import (
    NO_PADDING,
    Constant,
    Pending,
    PendingAdd,
    PendingAvgPool,
    PendingConv,
    PendingMaxPool,
    PendingRescale,
    PendingShortcut,
    Weights,
    refusal,
    require,
)
from targets.reference.checks import ACC_BITS
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Node, Rescale, Shortcut, Tensor
from targets.reference.scales import add_integers, conv_requant, logit_scale, rescale_requant, skip_multiplier

UNIT = 64  # the code of weight 1 in convolutions that only scale and shift
MOST_ADD_RATIO = 256  # one step of an operand passes all codes; multipliers of 20 bits are exact to 1 / 16 of a code
MOST_LEFT = 30  # bits that a convolution's sum can be shifted left by before it is requantized

Tensors = Mapping[str, Tensor]
Emitted = list[tuple[Node, Tensor]]  # nodes in running order, each with the tensor that it computes


@dataclass(frozen=True)
class Output:
    """The tensor that a float result becomes, its smallest and largest code, and where the file says so."""

    tensor: Tensor
    low: int
    high: int
    where: str


def emit(tensors: Tensors, pending: Pending, output: Output) -> Emitted:
    """Returns the nodes that compute `output` of a pending result and clamp it; raises OnnxError."""
    low = max(output.low, _clamp_code(pending.low, output.tensor, 0))
    high = min(output.high, _clamp_code(pending.high, output.tensor, output.tensor.qmax))
    require(low <= high, output.where, "clamps that leave a code", (pending.low, pending.high))
    if type(pending) not in EMITTERS:
        raise refusal(output.where, "a result that can be quantized", pending.name)
    return EMITTERS[type(pending)](tensors, pending, replace(output, low=low, high=high))


def emit_logits(tensors: Tensors, pending: Pending, name: str, where: str) -> tuple[Node, Tensor]:
    """Returns the node and the tensor [1, 1, classes] of a final layer whose sums are the result; raises OnnxError."""
    advice = (
        "quantize the model's output too (QuantizeLinear, DequantizeLinear), or use one weight scale for the last layer"
    )
    if not isinstance(pending, PendingConv) or pending.skip is not None or pending.clamped:
        raise refusal(where, "a QuantizeLinear before the output, or a bare Conv, Gemm or MatMul", pending.name)
    scales = pending.w_scale
    alike = bool((scales == scales[0]).all())
    require(alike, where, "one scale for all logits", f"{len(set(scales.tolist()))} scales", advice)
    out = Tensor(name, pending.shape, 32, logit_scale(tensors[pending.source].scale, scales[0]))
    return _conv(tensors, pending, Output(out, 0, 255, where)), out


def emit_moved(pending: PendingMaxPool | PendingShortcut, out: Tensor, where: str) -> MaxPool | Shortcut:
    """Returns the node of a tensor [H, W, C] that keeps the scale and width of its input; raises OnnxError."""
    if isinstance(pending, PendingMaxPool):
        window = pending.window
        return MaxPool(
            pending.name, pending.source, out.name, window.kernel, window.stride, window.padding, window.dilation
        )
    advice = "put the zeros into the pads of the next Conv before quantizing"
    require(pending.pads == NO_PADDING, where, "padded pixels only in front of a Conv", pending.pads, advice)
    return Shortcut(pending.name, pending.source, out.name, pending.stride, pending.before)


def _clamp_code(real: float, out: Tensor, fallback: int) -> int:
    """The code of a clamp's limit; `fallback` for one that is infinite."""
    if np.isinf(real):
        return fallback
    return int(np.clip(np.rint(real / np.float64(out.scale)) + out.zero_point[0], 0, out.qmax))


def _emit_conv(tensors: Tensors, pending: PendingConv, output: Output) -> Emitted:
    return [(_conv(tensors, pending, output), output.tensor)]


def _emit_add(tensors: Tensors, pending: PendingAdd, output: Output) -> Emitted:
    out = output.tensor
    ratio = max(tensors[pending.a].scale, tensors[pending.b].scale) / out.scale
    expected = f"operands of an Add whose scales are at most {MOST_ADD_RATIO} times its result's"
    require(ratio <= MOST_ADD_RATIO, output.where, expected, f"{ratio:g} times", "calibrate the quantizers again")
    multipliers, requant = add_integers(tensors[pending.a].scale, tensors[pending.b].scale, out.scale)
    node = Add(pending.name, pending.a, pending.b, out.name, multipliers, requant, output.low, output.high)
    return [(node, out)]


def _emit_avg_pool(tensors: Tensors, pending: PendingAvgPool, output: Output) -> Emitted:
    out, kernel, stride = output.tensor, pending.window.kernel, pending.window.stride
    requant = rescale_requant(tensors[pending.source].scale, out.scale, kernel[0] * kernel[1])
    limits = (output.low, output.high)
    return [(AvgPool(pending.name, pending.source, out.name, kernel, stride, requant, *limits), out)]


def _emit_rescale(tensors: Tensors, pending: PendingRescale, output: Output) -> Emitted:
    return [(_rescale(pending.name, tensors[pending.source], output), output.tensor)]


def _emit_moved(tensors: Tensors, pending: PendingMaxPool | PendingShortcut, output: Output) -> Emitted:
    """A pool or shortcut keeps its input's scale; where the result has another one, a Rescale follows it."""
    x, out = tensors[pending.source], output.tensor
    same_codes = (x.scale, x.zero_point, x.bits) == (out.scale, out.zero_point, out.bits)
    if same_codes and (output.low, output.high) == (0, out.qmax):
        return [(emit_moved(pending, out, output.where), out)]
    inner = replace(x, name=f"{pending.name}/codes", shape=pending.shape)
    moved = emit_moved(pending, inner, output.where)
    return [(moved, inner), (_rescale(f"{pending.name}/rescale", inner, output), out)]


def _rescale(name: str, x: Tensor, output: Output) -> Rescale:
    requant = rescale_requant(x.scale, output.tensor.scale)
    return Rescale(name, x.name, output.tensor.name, requant, output.low, output.high)


def _conv(tensors: Tensors, pending: PendingConv, output: Output) -> Conv:
    """The convolution, which gives int32 sums where the output has 32 bits (logits)."""
    x, out, where, scales = tensors[pending.source], output.tensor, output.where, pending.w_scale
    requant = None if out.bits == 32 else conv_requant(x.scale, scales, out.scale)
    left = np.zeros(len(scales), np.int64) if requant is None else requant.left
    require(int(left.max()) <= MOST_LEFT, where, "scales of like size", f"a ratio of {out.scale} to its sums")
    unit = np.float64(x.scale) * scales.astype(np.float64) / np.exp2(left)
    skip_units = None
    if pending.skip is not None:
        skip = tensors[pending.skip]
        _whole_units(skip.scale / unit, where, "residual operand")
        skip_units = skip_multiplier(x.scale, scales, left, skip.scale)
    return Conv(
        name=pending.name,
        input=x.name,
        output=out.name,
        weight=pending.codes.astype(np.int8),
        w_bits=pending.w_bits,
        bias=_bias_units(pending.bias, unit, where),
        w_scale=scales,
        requant=requant,
        stride=pending.stride,
        padding=pending.padding,
        groups=pending.groups,
        dilation=pending.dilation,
        qmin=output.low,
        qmax=output.high,
        skip=pending.skip,
        skip_multiplier=skip_units,
    )


def _bias_units(bias: Constant | Weights | None, unit: np.ndarray, where: str) -> np.ndarray:
    """int64 [O]: a bias in `unit`s float64 [O]; codes whose unit is a power of two times it are taken over exactly."""
    channels = len(unit)
    if bias is None:
        return np.zeros(channels, np.int64)
    values = bias.codes if isinstance(bias, Weights) else bias.array
    one_dimension = values.size in (1, channels) and max(values.shape, default=1) == values.size
    require(one_dimension, where, f"a bias of {channels} values", list(values.shape))
    values = np.broadcast_to(values.reshape(-1), (channels,))
    if isinstance(bias, Constant):
        return _whole_units(values / unit, where, "bias")
    ratio = np.broadcast_to(bias.scale.reshape(-1), (channels,)).astype(np.float64) / unit
    finer = np.rint(np.log2(ratio)).astype(np.int64)
    exact = (np.abs(ratio / np.exp2(finer) - 1) < 2.0**-22) & (finer >= 0) & (finer < 31)
    return np.where(exact, values << np.where(exact, finer, 0), _whole_units(values * ratio, where, "bias"))


def _whole_units(values: np.ndarray, where: str, name: str) -> np.ndarray:
    """int64, the nearest; refused where an int32 accumulator could not hold them."""
    worst = np.abs(values).max()
    fits = bool(worst < 1 << ACC_BITS)
    require(fits, where, f"a {name} below 2**{ACC_BITS} units of its sum", worst, "check its scales")
    return np.rint(values).astype(np.int64)


EMITTERS: dict[type[Pending], Callable[[Tensors, Any, Output], Emitted]] = {
    PendingConv: _emit_conv,
    PendingAdd: _emit_add,
    PendingAvgPool: _emit_avg_pool,
    PendingMaxPool: _emit_moved,
    PendingShortcut: _emit_moved,
    PendingRescale: _emit_rescale,
}
