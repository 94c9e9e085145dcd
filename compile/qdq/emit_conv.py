"""Turns the sums of a Conv, Gemm or MatMul into a node of the integer graph, once the scale of the result is known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from compile.qdq.values import Constant, Pending, PendingConv, Weights, refusal, require
from targets.reference.checks import ACC_BITS, acc_bound
from targets.reference.nodes import BITS, Conv, Node, Tensor
from targets.reference.scales import CONV_MIN_SHIFT, conv_requant, float32, logit_scale, skip_multiplier

UNIT = 64  # the code of weight 1 in convolutions that only scale and shift
MOST_LEFT = 30  # bits that a convolution's sum can be shifted left by before it is requantized
BIAS_BITS = 28  # of a bias whose weights are made coarser so that it fits; the rest of the accumulator is theirs

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Output:
    """The tensor that a float result becomes, its smallest and largest code, and where the file says so."""

    tensor: Tensor
    low: int
    high: int
    where: str


def conv_node(tensors: Tensors, pending: PendingConv, output: Output) -> Conv:
    """Returns the convolution, whose sums are the result where the output has 32 bits and one scale fits all.

    Raises OnnxError where they do not fit an accumulator.
    """
    x, out, where = tensors[pending.source], output.tensor, output.where
    is_sum = out.bits == 32 and is_exact_sum(pending)
    if not is_sum:
        pending = _with_fitting_bias(pending, x.scale, out.scale)
    scales = pending.w_scale
    requant = None if is_sum else conv_requant(x.scale, scales, out.scale)
    left = np.zeros(len(scales), np.int64) if requant is None else requant.left
    require(int(left.max()) <= MOST_LEFT, where, "scales of like size", f"a ratio of {out.scale} to its sums")
    unit = _bias_unit(x.scale, scales, left)
    skip_units = None
    if pending.skip is not None:
        skip = tensors[pending.skip]
        _whole_units(skip.scale / unit, where, "residual operand")
        skip_units = skip_multiplier(x.scale, scales, left, skip.scale)
    return Conv(
        name=pending.name,
        input=x.name,
        output=out.name,
        weight=pending.codes.astype(np.int8 if pending.w_bits in BITS else np.int16),
        w_bits=pending.w_bits,
        bias=_bias_units(pending.bias, unit, where),
        w_scale=scales,
        requant=requant,
        stride=pending.stride,
        padding=pending.padding,
        groups=pending.groups,
        qmin=output.low,
        qmax=output.high,
        skip=pending.skip,
        skip_multiplier=skip_units,
        dilation=pending.dilation,
    )


def emit_logits(tensors: Tensors, pending: Pending, name: str, where: str) -> tuple[Node, Tensor]:
    """Returns the node and the tensor [1, 1, classes] of a final layer whose sums are the result.

    Sums whose scales differ are rounded to one scale, the finest whose int32 holds them. Raises OnnxError for others.
    """
    advice = "quantize the model's output too (QuantizeLinear, DequantizeLinear)"
    if not isinstance(pending, PendingConv) or pending.skip is not None or pending.clamped:
        raise refusal(where, "a QuantizeLinear before the output, or a bare Conv, Gemm or MatMul", pending.name, advice)
    x = tensors[pending.source]
    if is_exact_sum(pending):
        out = Tensor(name, pending.shape, 32, logit_scale(x.scale, pending.w_scale[0]))
        return conv_node(tensors, pending, Output(out, 0, 255, where)), out
    for coarser in range(CONV_MIN_SHIFT + 1):  # from there on no sum is shifted left
        scale = float32(np.float64(x.scale) * pending.w_scale.max() * 2**coarser)
        out = Tensor(name, pending.shape, 32, scale)
        node = conv_node(tensors, pending, Output(out, 0, 255, where))
        if acc_bound(tensors, node) < 1 << ACC_BITS:
            return node, out
    raise refusal(where, f"sums below 2**{ACC_BITS}", pending.name, advice)


def is_exact_sum(pending: PendingConv) -> bool:
    """Whether all sums have one scale, so that logits can be the sums themselves."""
    return bool((pending.w_scale == pending.w_scale[0]).all())


def _bias_unit(x_scale: float, scales: np.ndarray, left: np.ndarray) -> np.ndarray:
    """float64 [O]: the real value of one unit of the accumulator after its shift."""
    return np.float64(x_scale) * scales.astype(np.float64) / np.exp2(left)


def _with_fitting_bias(pending: PendingConv, x_scale: float, out_scale: float) -> PendingConv:
    """Makes weights coarser by a power of two in channels whose bias would not fit beside them.

    Such a channel is next to dead: its weights have a tiny scale, and its bias is nearly all of its value.
    """
    real = _real_bias(pending.bias, len(pending.w_scale))
    ratio = np.float64(x_scale) * pending.w_scale.astype(np.float64) / out_scale
    left = np.maximum(0, CONV_MIN_SHIFT - 1 + np.ceil(np.log2(ratio)))  # as scales.conv_requant shifts, or one more
    worst = np.abs(real) / _bias_unit(x_scale, pending.w_scale, left)
    with np.errstate(divide="ignore"):
        finer = np.ceil(np.log2(worst)) - BIAS_BITS
    tiny = -MOST_LEFT - np.floor(np.log2(ratio))  # ratios below the smallest there is
    by = np.maximum(0, np.maximum(np.where(worst >= 1 << ACC_BITS - 1, finer, 0), tiny)).astype(np.int64)
    if not by.any():
        return pending
    codes = np.rint(np.ldexp(pending.codes.astype(np.float64), -by[:, None, None, None])).astype(np.int64)
    return replace(pending, codes=codes, w_scale=np.ldexp(pending.w_scale, by).astype(np.float32))


def _real_bias(bias: Constant | Weights | None, channels: int) -> np.ndarray:
    """float64 [O]."""
    if bias is None:
        return np.zeros(channels)
    values = bias.real if isinstance(bias, Weights) else bias.array
    return np.broadcast_to(np.asarray(values, np.float64).reshape(-1), (channels,))


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
