"""Reads layers and what follows them: Conv, Gemm, MatMul, Add, Relu, Clip."""

from dataclasses import replace

import numpy as np

from compile.qdq.node import FileNode
from compile.qdq.patterns import is_open_sum, padded_source, shifted_by_constant, with_bias, with_residual
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Codes,
    Constant,
    Pending,
    PendingAdd,
    PendingConv,
    PendingPicture,
    PendingRescale,
    Weights,
    layout_of,
    padded_size,
    refusal,
    require,
)


def read_conv(reader: Reader, node: FileNode) -> PendingConv:
    """Reads a convolution over two dimensions, dense or grouped, with a Pad before it; raises OnnxError."""
    weights = node.weights(4, "a convolution over two dimensions")
    source, around = padded_source(reader, node.inputs[0], node.where)
    size = padded_size(source.shape[:2], around)
    outputs, _, *kernel = weights.codes.shape
    window = node.window((kernel[0], kernel[1]), size)
    top, left, bottom, right = (own + pad for own, pad in zip(window.padding, around, strict=True))
    return PendingConv(
        name=reader.take_name(node.proto),
        shape=(*window.output_size(size), outputs),
        source=source.name,
        codes=weights.codes.transpose(0, 2, 3, 1),
        w_scale=weights.channel_scale(0, node.where),
        w_bits=weights.bits,
        bias=node.bias(),
        stride=window.stride,
        dilation=window.dilation,
        padding=(top, left, bottom, right),
        groups=int(node.attributes.get("group", 1)),
    )


def read_gemm(reader: Reader, node: FileNode) -> PendingConv:
    """Reads a Gemm or MatMul as a convolution whose kernel is the whole map; raises OnnxError."""
    weights = node.weights(2, "a matrix of weights")
    ones = [node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0), node.attributes.get("transA", 0)]
    require(ones == [1.0, 1.0, 0], node.where, "alpha 1, beta 1, transA 0", ones)
    weights = weights if node.attributes.get("transB", 0) else weights.transposed([1, 0])
    x = node.inputs[0]
    source = reader.tensor_of(x, node.where)
    h, w, c = source.shape
    is_flat = (h, w) == (1, 1) or layout_of(x, node.where) == "flat"
    require(is_flat, node.where, "a flattened input", f"a map {h}x{w}x{c}")
    outputs = len(weights.codes)
    expected = f"{h * w * c} weights per output"
    require(weights.codes.size == outputs * h * w * c, node.where, expected, list(weights.codes.shape))
    return PendingConv(
        name=reader.take_name(node.proto),
        shape=(1, 1, outputs),
        layout="flat",
        source=source.name,
        codes=weights.codes.reshape(outputs, c, h, w).transpose(0, 2, 3, 1),
        w_scale=weights.channel_scale(0, node.where),
        w_bits=weights.bits,
        bias=node.bias(),
    )


def read_add(reader: Reader, node: FileNode) -> Pending:
    """Reads an addition: of a bias, a residual operand, a constant, or two quantized tensors; raises OnnxError."""
    a, b = node.inputs
    if isinstance(a, Constant | Weights) or is_open_sum(b):
        a, b = b, a
    if isinstance(b, Constant | Weights):
        return with_bias(node, a, b) if isinstance(a, PendingConv) else shifted_by_constant(reader, node, a, b)
    if isinstance(a, PendingConv):
        return with_residual(reader, node, a, b)
    first, second = (reader.tensor_of(value, node.where) for value in (a, b))
    layout = layout_of(a, node.where)
    return PendingAdd(name=reader.take_name(node.proto), shape=first.shape, layout=layout, a=first.name, b=second.name)


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
        source = reader.tensor_of(x, node.where)
        layout = layout_of(x, node.where)
        x = PendingRescale(name=reader.take_name(node.proto), shape=source.shape, layout=layout, source=source.name)
    is_picture = isinstance(x, PendingPicture)
    require(not is_picture, node.where, "a QuantizeLinear on the picture first", node.kind)
    return replace(x, low=min(max(x.low, low), high), high=min(max(x.high, low), high), clamped=True)
