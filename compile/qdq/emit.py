"""Turns a float result and the scale it is quantized with into a node of the integer graph."""

from dataclasses import replace

import numpy as np

from compile.qdq.values import Const, Pending, Weights, require
from targets.reference.checks import ACC_BITS
from targets.reference.interpreter import requantize
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Rescale, Shortcut, Tensor, skip_multiplier
from targets.reference.scales import add_integers, conv_requant, float32, logit_scale, rescale_requant

UNIT = 64  # the code of weight 1 in layers that only scale and shift


def quantized(tensors: dict, pending: Pending, out: Tensor, qmin: int, qmax: int, where: str) -> list:
    """Nodes that compute tensor `out` of a pending result, clamped to codes qmin..qmax; new inner tensors are added."""
    limits = (_code(pending.low, out, 0), _code(pending.high, out, out.qmax))
    qmin, qmax = max(qmin, limits[0]), min(qmax, limits[1])
    require(qmin <= qmax, where, "clamps that leave a code", (pending.low, pending.high))
    x, common = tensors[pending.inputs[0]], dict(name=pending.name, output=out.name, qmin=qmin, qmax=qmax)
    if pending.kind == "conv":
        return [_conv(tensors, pending, out, common, where)]
    if pending.kind == "add":
        a, b = pending.inputs
        multipliers, requant = add_integers(x.scale, tensors[b].scale, out.scale)
        return [Add(a=a, b=b, multipliers=multipliers, requant=requant, **common)]
    if pending.kind == "avg_pool":
        requant = rescale_requant(x.scale, out.scale, int(np.prod(pending.parts["kernel"])))
        return [AvgPool(input=x.name, requant=requant, **common, **pending.parts)]
    if pending.kind == "rescale":
        return [Rescale(input=x.name, requant=rescale_requant(x.scale, out.scale), **common)]
    if (x.scale, x.zero_point, x.bits, qmin, qmax) == (out.scale, out.zero_point, out.bits, 0, out.qmax):
        return [moved(pending, out, where)]
    inner = replace(x, name=f"{pending.name}/codes", shape=pending.shape)
    tensors[inner.name] = inner
    requant = rescale_requant(x.scale, out.scale)
    return [
        moved(pending, inner, where),
        Rescale(input=inner.name, requant=requant, **{**common, "name": f"{pending.name}/rescale"}),
    ]


def moved(pending: Pending, out: Tensor, where: str):
    """MaxPool or Shortcut, which keep scale and width."""
    common = dict(name=pending.name, input=pending.inputs[0], output=out.name)
    if pending.kind == "max_pool":
        return MaxPool(**common, **pending.parts)
    require(not any(pending.parts["pads"]), where, "padded pixels only in front of a Conv", pending.parts["pads"])
    return Shortcut(**common, stride=pending.parts["stride"], before=pending.parts["before"])


def logits(tensors: dict, pending: Pending, name: str, where: str):
    """(node, tensor) of a final Conv, Gemm or MatMul whose sums are the result."""
    advice = (
        "quantize the model's output too (QuantizeLinear, DequantizeLinear), or use one weight scale for the last layer"
    )
    require(
        pending.kind == "conv" and pending.parts["skip"] is None and not pending.clamped,
        where,
        "a QuantizeLinear before the output, or a bare Conv, Gemm or MatMul",
        pending.kind,
    )
    scales, x = pending.parts["w_scale"], tensors[pending.inputs[0]]
    require(
        bool((scales == scales[0]).all()),
        where,
        "one scale for all logits",
        f"{len(set(scales.tolist()))} scales",
        advice,
    )
    out = Tensor(name, pending.shape, 32, logit_scale(x.scale, scales[0]))
    return _conv(tensors, pending, out, dict(name=pending.name, output=name), where), out


def _code(real: float, out: Tensor, fallback: int) -> int:
    if np.isinf(real):
        return fallback
    return int(np.clip(np.rint(real / np.float64(out.scale)) + out.zero_point[0], 0, out.qmax))


def _conv(tensors: dict, pending: Pending, out: Tensor, common: dict, where: str) -> Conv:
    parts, x = pending.parts, tensors[pending.inputs[0]]
    requant = None if out.bits == 32 else conv_requant(x.scale, parts["w_scale"], out.scale)
    require(
        requant is None or int(requant.left.max()) <= 30,
        where,
        "scales of like size",
        f"a ratio of {out.scale} to its sums",
    )
    left = np.zeros(len(parts["w_scale"]), np.int64) if requant is None else requant.left
    unit = np.float64(x.scale) * parts["w_scale"].astype(np.float64) / np.exp2(left)
    skip = parts["skip"]
    if skip is not None:
        _integers(tensors[skip].scale / unit, where, "residual operand")
    units = None if skip is None else skip_multiplier(x.scale, parts["w_scale"], left, tensors[skip].scale)
    return Conv(
        input=x.name,
        weight=parts["codes"].astype(np.int8),
        w_bits=parts["w_bits"],
        bias=_bias(parts["bias"], unit, where),
        w_scale=parts["w_scale"],
        requant=requant,
        stride=parts["stride"],
        padding=parts["padding"],
        groups=parts["groups"],
        skip=skip,
        skip_multiplier=units,
        **common,
    )


def _bias(bias, unit: np.ndarray, where: str) -> np.ndarray:
    """int64 [O] in `unit`s. Codes in a unit that is a power of two times ours are taken over exactly."""
    channels = len(unit)
    if bias is None:
        return np.zeros(channels, np.int64)
    values = bias.codes if isinstance(bias, Weights) else bias.array
    require(
        values.size in (1, channels) and max(values.shape, default=1) == values.size,
        where,
        f"a bias of {channels} values",
        list(values.shape),
    )
    values = np.broadcast_to(values.reshape(-1), (channels,))
    if isinstance(bias, Const):
        return _integers(values / unit, where, "bias")
    ratio = np.broadcast_to(bias.scale.reshape(-1), (channels,)).astype(np.float64) / unit
    finer = np.rint(np.log2(ratio)).astype(np.int64)
    exact = (np.abs(ratio / np.exp2(finer) - 1) < 2.0**-22) & (finer >= 0) & (finer < 31)
    return np.where(exact, values << np.where(exact, finer, 0), _integers(values * ratio, where, "bias"))


def _integers(values: np.ndarray, where: str, what: str) -> np.ndarray:
    """int64, nearest; refused where an int32 accumulator could not hold them."""
    worst = np.abs(values).max()
    require(
        bool(worst < 1 << ACC_BITS), where, f"a {what} below 2**{ACC_BITS} units of its sum", worst, "check its scales"
    )
    return np.rint(values).astype(np.int64)


def picture(name: str, out: Tensor, mean: np.ndarray, std: np.ndarray, codes: tuple[int, int], where: str):
    """(input tensor, nodes) of a float picture (u8 / 255 - mean) / std that is quantized into `out`, within `codes`.

    mean, std float64 [C]. Where the code is the uint8 value itself (int8 codes too, once shifted), there is no node;
    anything else is a 1x1 depthwise convolution, which may differ by one code where a value lies on a tie.
    """
    u8 = np.arange(256)
    real = ((u8 / 255 - mean[:, None]) / std[:, None]).astype(np.float32)
    wanted = np.clip(np.rint(real / np.float32(out.scale)) + out.zero_point[0], *codes)  # [C, 256]
    if (wanted == u8).all():
        return replace(out, name=name), []
    source, w_scale = Tensor(name, out.shape, 8, float32(1 / 255)), (1 / (UNIT * std)).astype(np.float32)
    requant = conv_requant(source.scale, w_scale, out.scale)
    exact = -mean / std * np.exp2(requant.left) / (source.scale * w_scale.astype(np.float64))
    biases = (
        np.rint(exact).astype(np.int64) + np.arange(-4, 5)[:, None]
    )  # [9, C]: a unit up or down may meet more codes
    acc = ((u8[:, None, None] * UNIT) << requant.left) + biases  # [256, 9, C]
    apart = np.abs(requantize(acc, requant, out.zero_point[0], *codes) - wanted.T[:, None])
    best = apart.sum(0).argmin(0), np.arange(out.shape[2])
    require(
        apart.max(0)[best].max() <= 1,
        where,
        "a picture's codes within one of the float quantizer's",
        f"{apart.max(0)[best].max()} apart",
        "quantize the picture coarser",
    )
    bias = biases[best]
    weight = np.full((out.shape[2], 1, 1, 1), UNIT, np.int8)
    return source, [
        Conv(
            f"{name}/normalize",
            name,
            out.name,
            weight,
            8,
            bias,
            w_scale,
            requant,
            groups=out.shape[2],
            qmin=codes[0],
            qmax=codes[1],
        )
    ]
