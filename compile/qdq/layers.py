"""Reads layers and what follows them: Conv, Gemm, MatMul, BatchNormalization, Concat, Relu, Clip."""

from dataclasses import replace

import numpy as np

from compile.qdq.functions import function_of
from compile.qdq.moves import places_of
from compile.qdq.node import FileNode
from compile.qdq.patterns import padded_source, scaled_sums
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Codes,
    Pending,
    PendingConcat,
    PendingConv,
    PendingMove,
    PendingPicture,
    PendingRescale,
    PendingScaled,
    Real,
    Value,
    describe,
    layout_of,
    padded_size,
    refusal,
    require,
)
from targets.reference.nodes import Tensor


def read_conv(reader: Reader, node: FileNode) -> PendingConv:
    """Reads a convolution over two dimensions, dense or grouped, with a Pad before it; raises OnnxError."""
    weights = node.weights(4, "a convolution over two dimensions")
    groups = int(node.attributes.get("group", 1))
    x, w_scale = _with_shares_in_weights(node.inputs[0], groups, weights.channel_scale(0, node.where))
    source, around = padded_source(reader, x, node.where)
    size = padded_size(source.shape[:2], around)
    outputs, _, *kernel = weights.codes.shape
    window = node.window((kernel[0], kernel[1]), size)
    top, left, bottom, right = (own + pad for own, pad in zip(window.padding, around, strict=True))
    return PendingConv(
        name=reader.take_name(node.proto),
        shape=(*window.output_size(size), outputs),
        source=source.name,
        codes=weights.codes.transpose(0, 2, 3, 1),
        w_scale=w_scale,
        w_bits=weights.bits,
        bias=node.bias(),
        stride=window.stride,
        dilation=window.dilation,
        padding=(top, left, bottom, right),
        groups=groups,
    )


def _with_shares_in_weights(value: Value | None, groups: int, w_scale: np.ndarray) -> tuple[Value | None, np.ndarray]:
    """What a convolution reads and its scales float32 [O]: a depthwise one takes scales of channels into its own."""
    if not isinstance(value, PendingScaled) or value.clamped or groups != len(value.shares):
        return value, w_scale
    shares = value.shares.repeat(len(w_scale) // groups)
    return Real(value.source, value.layout), (w_scale * shares).astype(np.float32)


def read_gemm(reader: Reader, node: FileNode) -> PendingConv:
    """Reads a Gemm or MatMul as a convolution whose kernel is the whole map; raises OnnxError."""
    weights = node.weights(2, "a matrix of weights")
    ones = [node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0), node.attributes.get("transA", 0)]
    require(ones == [1.0, 1.0, 0], node.where, "alpha 1, beta 1, transA 0", ones)
    weights = weights if node.attributes.get("transB", 0) else weights.transposed([1, 0])
    outputs, values = weights.codes.shape
    places = places_of(reader, node.inputs[0], node.where)
    is_vector = places.size == max(places.shape, default=0)
    require(is_vector, node.where, "a flattened input", f"an input {list(places.shape)}")
    require(values == places.size, node.where, f"{places.size} weights per output", list(weights.codes.shape))
    source = _source_of_places(reader, node)
    codes = np.zeros((outputs, *source.shape), np.int64)
    kept, order = places.reshape(-1) >= 0, places.reshape(-1)
    once = len(set(order[kept].tolist())) == int(kept.sum())
    require(once, node.where, "each value of the map once", "values that are repeated")
    codes.reshape(outputs, -1)[:, order[kept]] = weights.codes[:, kept]
    return PendingConv(
        name=reader.take_name(node.proto),
        shape=(1, 1, outputs),
        layout="flat",
        source=source.name,
        codes=codes,
        w_scale=weights.channel_scale(0, node.where),
        w_bits=weights.bits,
        bias=node.bias(),
    )


def _source_of_places(reader: Reader, node: FileNode) -> Tensor:
    """The tensor in which `places_of` the first input counts."""
    x = node.inputs[0]
    if not isinstance(x, PendingMove) or x.clamped:
        return reader.tensor_in_any_layout(x, node.where)
    if isinstance(x.source, str):
        return reader.tensors[x.source]
    return reader.tensor_in_any_layout(x.source, node.where)


def read_batch_norm(reader: Reader, node: FileNode) -> Pending:
    """Reads a BatchNormalization of a convolution's sums, or of a quantized tensor; raises OnnxError."""
    require(len(node.inputs) == 5, node.where, "a scale, a bias, a mean and a variance", f"{len(node.inputs)} inputs")
    scale, bias, mean, variance = (node.real_constant(k).reshape(-1) for k in range(1, 5))
    factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    offset = bias - mean * factor
    x = node.inputs[0]
    if isinstance(x, PendingConv):
        return scaled_sums(node, x, factor, offset)
    pending = function_of(reader, node, x)
    require(factor.size == pending.shape[2], node.where, f"{pending.shape[2]} channels", factor.size)
    before = pending.function
    name = reader.take_name(node.proto)
    columns = factor[:, None], offset[:, None]
    return replace(pending, name=name, function=lambda values: before(values) * columns[0] + columns[1])


def read_concat(reader: Reader, node: FileNode) -> PendingConcat:
    """Reads a Concat of channels, quantized or not; raises OnnxError for another axis."""
    layouts = {layout_of(value, node.where) for value in node.inputs}
    require(len(layouts) == 1, node.where, "operands in one layout", sorted(layouts))
    (layout,) = layouts
    rank = 2 if layout == "flat" else 4
    axis = node.attributes["axis"] % rank
    channel_axis = {"NCHW": 1, "NHWC": 3, "flat": 1}[layout]
    require(axis == channel_axis, node.where, f"a Concat of channels, axis {channel_axis}", axis)
    shapes = [reader.shape_of(value, node.where) for value in node.inputs]
    sizes = {shape[:2] for shape in shapes}
    require(len(sizes) == 1, node.where, "maps of one size", sorted(sizes))
    require(layout != "flat" or sizes == {(1, 1)}, node.where, "vectors of one pixel", sorted(sizes))
    sources: list[str | Pending] = []
    for value in node.inputs:
        if not isinstance(value, Real | Pending):
            raise refusal(node.where, "dequantized feature maps", describe(value))
        sources.append(value.name if isinstance(value, Real) else value)
    shape = (*shapes[0][:2], sum(shape[2] for shape in shapes))
    return PendingConcat(name=reader.take_name(node.proto), shape=shape, layout=layout, sources=tuple(sources))


def read_relu(reader: Reader, node: FileNode) -> Pending:
    """Reads a Relu as a clamp from 0 on; raises OnnxError for one on the picture or on codes."""
    return _clamped(reader, node, 0.0, np.inf)


def read_clip(reader: Reader, node: FileNode) -> Pending:
    """Reads a Clip with constant limits; raises OnnxError for others, and for one on the picture or on codes."""
    return _clamped(reader, node, *node.clip_limits())


def _clamped(reader: Reader, node: FileNode, low: float, high: float) -> Pending:
    x = node.inputs[0]
    if isinstance(x, Codes):
        expected = "a Clip of codes as the only user of a QuantizeLinear"
        raise refusal(node.where, expected, "one elsewhere")
    if not isinstance(x, Pending):
        source = reader.tensor_in_any_layout(x, node.where)
        layout = layout_of(x, node.where)
        x = PendingRescale(name=reader.take_name(node.proto), shape=source.shape, layout=layout, source=source.name)
    is_picture = isinstance(x, PendingPicture)
    require(not is_picture, node.where, "a QuantizeLinear on the picture first", node.kind)
    return replace(x, low=min(max(x.low, low), high), high=min(max(x.high, low), high), clamped=True)
