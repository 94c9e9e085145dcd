"""Convolutions and fully connected layers: exact integers of their codes, and one rounding of their ratio of scales."""

from dataclasses import dataclass, replace

import numpy as np

from compile.tflite.errors import require
from compile.tflite.functions import clamp_of
from compile.tflite.reader import Reader, View
from compile.tflite.records import FileOperator, FileTensor
from compile.tflite.windows import Window, padding_of
from targets.reference.checks import ACC_BITS
from targets.reference.nodes import BITS, NO_PADDING, SIGNED_BYTE_BITS, Conv, Padding, Tensor
from targets.reference.scales import conv_ratio, requant_from_ratio

MOST_HALVINGS = 8
HALF_STEP = 0.5  # of the output: what halved codes of a channel may be away by


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights int64 [O, kH, kW, I / groups] less their zero point, their float32 scale [O], and a bias int64 [O]."""

    codes: np.ndarray
    scale: np.ndarray
    bits: int
    bias: np.ndarray
    groups: int = 1


def read_conv(reader: Reader, operator: FileOperator) -> View:
    """Reads a CONV_2D; raises TfliteError for one that cannot be computed exactly."""
    x = reader.view(operator, 0)
    layer = _layer(reader, operator, 0)
    expected = "weights [O, H, W, I] for its channels"
    channels, inputs = x.shape[-1], layer.codes.shape[-1]
    fits = layer.codes.ndim == 4 and inputs >= 1 and channels % max(1, inputs) == 0
    require(fits, operator.where, expected, (x.shape, layer.codes.shape))
    return _convolved(reader, operator, x, replace(layer, groups=channels // inputs))


def read_depthwise(reader: Reader, operator: FileOperator) -> View:
    """Reads a DEPTHWISE_CONV_2D with any multiplier; raises TfliteError for one that cannot be computed exactly."""
    x = reader.view(operator, 0)
    layer = _layer(reader, operator, 3)
    channels = x.shape[-1]
    fits = layer.codes.ndim == 4 and layer.codes.shape[0] == 1 and layer.codes.shape[3] % channels == 0
    require(fits, operator.where, f"weights [1, H, W, a multiple of {channels}]", layer.codes.shape)
    codes = layer.codes.transpose(3, 1, 2, 0)
    return _convolved(reader, operator, x, replace(layer, codes=codes, groups=channels))


def _convolved(reader: Reader, operator: FileOperator, x: View, layer: Layer) -> View:
    options = operator.options
    window = Window(
        layer.codes.shape[1:3],
        (options.StrideH(), options.StrideW()),
        (options.DilationHFactor(), options.DilationWFactor()),
    )
    window.check(operator.where)
    require(len(x.shape) == 4, operator.where, "a map [1, H, W, C]", x.shape)
    around = padding_of(options.Padding(), x.shape[1:3], window, operator.where)
    source, zeros = reader.padded_map_of(x, operator.where)
    top, left, bottom, right = (a + z for a, z in zip(around, zeros, strict=True))
    padding = (top, left, bottom, right)
    return _finished(reader, operator, _conv(operator, source, layer, window, padding), layer)


def read_fully_connected(reader: Reader, operator: FileOperator) -> View:
    """Reads a FULLY_CONNECTED over all values of a picture, or over the channels of each pixel; raises TfliteError."""
    require(operator.options.WeightsFormat() == 0, operator.where, "weights in rows", "shuffled weights")
    x = reader.view(operator, 0)
    layer = _layer(reader, operator, 0)
    expected = f"weights [O, I] for a map {list(x.shape)}"
    require(layer.codes.ndim == 2 and layer.codes.shape[1] >= 1, operator.where, expected, layer.codes.shape)
    outputs, inputs = layer.codes.shape
    if int(np.prod(x.shape)) == inputs:
        source, codes = _over_whole_map(reader, operator, x, layer.codes)
    else:
        require(x.shape[-1] == inputs, operator.where, expected, layer.codes.shape)
        source = reader.map_of(x, operator.where)
        codes = layer.codes.reshape(outputs, 1, 1, inputs)
    layer = replace(layer, codes=codes)
    return _finished(reader, operator, _conv(operator, source, layer, Window(codes.shape[1:3]), NO_PADDING), layer)


def _over_whole_map(reader: Reader, operator: FileOperator, x: View, codes: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """The tensor [H, W, C] that a layer sums up, and its weights [O, H, W, C]: in whatever order the view has them."""
    source = reader.tensors[x.tensor]
    places = reader.places(x).reshape(-1)
    taken = places >= 0
    if len(np.unique(places[taken])) < int(taken.sum()):  # a value counts twice
        source = reader.map_of(x, operator.where)
        return source, codes.reshape(len(codes), *source.shape)
    spread = np.zeros((len(codes), int(np.prod(source.shape))), np.int64)
    spread[:, places[taken]] = codes[:, taken]
    return source, spread.reshape(len(codes), *source.shape)


def _layer(reader: Reader, operator: FileOperator, axis: int) -> Layer:
    """The constants of a layer; axis: that of the output channels."""
    where, x, weights = operator.where, reader.source(operator, 0), reader.source(operator, 1)
    stored = reader.constant(operator, 1, "weights")
    kinds = ("UINT8",) if x.kind == "UINT8" else ("INT8", "INT4")
    advice = "hybrid and float layers are not taken; convert the model to full integers"
    require(weights.kind in kinds, where, f"{' or '.join(kinds)} weights for {x.kind} codes", weights.kind, advice)
    require(stored.size > 0 and stored.ndim > axis, where, "weights", list(stored.shape))
    channels = stored.shape[axis]
    scale = _channel_scales(weights, channels, axis, where)
    zero = np.unique(weights.zero_point)
    fits = len(zero) == 1 and (zero[0] == 0 or (weights.kind == "UINT8" and 0 <= zero[0] <= 255))
    require(fits, where, "weights of zero point 0, or uint8 ones with one zero point", zero.tolist())
    codes = stored.astype(np.int64) - zero[0]
    bits = 4 if weights.kind == "INT4" else BITS.stop - 1
    if codes.min() < -128 or codes.max() > 127:
        bits = SIGNED_BYTE_BITS
    return Layer(codes, scale, bits, _bias(reader, operator, channels))


def _channel_scales(weights: FileTensor, channels: int, axis: int, where: str) -> np.ndarray:
    """float32 [O]."""
    scale = weights.scale
    along = scale.size == 1 or (scale.size == channels and weights.axis == axis)
    expected = f"one weight scale, or one for each of {channels} output channels"
    require(along, where, expected, f"{scale.size} along axis {weights.axis}")
    require(bool(np.isfinite(scale).all() and (scale > 0).all()), where, "positive scales", scale.min(initial=0))
    return np.broadcast_to(scale, (channels,)).astype(np.float32)


def _bias(reader: Reader, operator: FileOperator, channels: int) -> np.ndarray:
    """int64 [O], in units of the sums: the product of the scales of input and weights, as TFLite defines them."""
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return np.zeros(channels, np.int64)
    bias = reader.constant(operator, 2, "biases")
    fits = bias.dtype == np.int32 and bias.size == channels
    require(fits, operator.where, f"{channels} int32 biases", f"{bias.dtype} {list(bias.shape)}")
    return bias.reshape(-1).astype(np.int64)


def _conv(operator: FileOperator, source: Tensor, layer: Layer, window: Window, padding: Padding) -> Conv:
    """The convolution without its end, see `_finished`."""
    dtype = np.int16 if layer.bits == SIGNED_BYTE_BITS else np.int8
    return Conv(
        name=operator.name,
        input=source.name,
        output="",
        weight=layer.codes.astype(dtype),
        w_bits=layer.bits,
        bias=layer.bias,
        w_scale=layer.scale,
        stride=window.stride,
        padding=padding,
        groups=layer.groups,
        dilation=window.dilation,
    )


def _finished(reader: Reader, operator: FileOperator, conv: Conv, layer: Layer) -> View:
    """Adds the convolution with its ratios and clamp."""
    tensor, out = reader.result(operator)
    x = reader.tensors[conv.input]
    same_kind = tensor.kind == reader.source(operator, 0).kind
    require(same_kind, operator.where, "codes of one type in and out", tensor.kind)
    halvings = _halvings(layer, x, conv_ratio(x.scale, layer.scale, out.scale))
    scale = np.ldexp(layer.scale, halvings).astype(np.float32)
    low, high = clamp_of(operator.options.FusedActivationFunction(), tensor, operator.where)
    finished = replace(
        conv,
        output=out.name,
        weight=_halved(conv.weight, halvings.reshape(-1, 1, 1, 1)),
        bias=_halved(conv.bias, halvings),
        w_scale=scale,
        requant=requant_from_ratio(conv_ratio(x.scale, scale, out.scale)),
        qmin=low,
        qmax=high,
    )
    return View(reader.append(finished, out), tensor.shape)


def _halved(codes: np.ndarray, halvings: np.ndarray) -> np.ndarray:
    """Codes over powers of two, rounded; of the same type."""
    return np.floor(np.ldexp(codes.astype(np.float64), -halvings) + 0.5 * (halvings > 0)).astype(codes.dtype)


def _halvings(layer: Layer, x: Tensor, ratio: np.ndarray) -> np.ndarray:
    """int64 [O]: how often a channel's codes are halved so that its sums fit; 0 for all but almost dead channels.

    Their bias may be near 2**31, in steps far too fine for the output to show. A channel that would be more than half a
    step away stays as it is, and is refused when the graph is made.
    """
    reach = x.qmax + int(x.zero_points().max())
    taps = layer.codes[0].size
    sums = np.abs(layer.codes).sum((1, 2, 3)) * reach + np.abs(layer.bias) + taps * reach
    halvings = np.zeros(len(sums), np.int64)
    for _ in range(MOST_HALVINGS):
        halvings += np.ldexp(sums.astype(np.float64), -halvings) >= 1 << ACC_BITS
    away = np.ldexp(ratio, halvings) * (taps * reach + 1) / 2
    return np.where(away < HALF_STEP, halvings, 0)
