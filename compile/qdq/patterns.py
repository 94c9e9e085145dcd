"""Where several nodes of a file mean one thing, the one place that recognises them.

QuantizeLinear, Clip               codes of a narrower width than their type (Brevitas' QCDQ)
uint8 picture, Transpose           the picture is [N, H, W, C]
Pad, Conv                          one convolution with more padding
Conv, Add of a quantized tensor    one convolution with a residual operand
MatMul, Add of a constant          one layer with a bias
DequantizeLinear, QuantizeLinear   nothing where scale, width and range stay, else a Rescale
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx

from compile.qdq.constants import code_limits
from compile.qdq.node import FileNode, attributes_of, place_of
from compile.qdq.places import padding_of, split_places
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Constant,
    DataLayout,
    Pending,
    PendingConv,
    PendingMove,
    PendingRescale,
    Real,
    Value,
    Weights,
    refusal,
    require,
)
from targets.reference.nodes import NO_PADDING, SIGNED_BYTE_BITS, Padding, Tensor

TO_NCHW = [0, 3, 1, 2]  # permutation of a Transpose from [N, H, W, C]
BETWEEN = ("QuantizeLinear", "DequantizeLinear", "Identity", "Clip")  # what may stand before a picture's Transpose


@dataclass(frozen=True)
class CodeRange:
    """The codes that a QuantizeLinear and its Clip leave, as the file counts them, and the name of the result."""

    name: str
    low: int
    high: int


def code_range(reader: Reader, quantize: onnx.NodeProto, bits: int, signed: bool) -> CodeRange:
    """Returns the codes of a type that are left after the Clip that may follow; raises OnnxError for an empty range."""
    low, high = code_limits(bits, signed)
    users = reader.consumers[quantize.output[0]]
    if len(users) != 1 or users[0].op_type != "Clip":
        return CodeRange(quantize.output[0], low, high)
    clip = users[0]
    limits = [reader.values.get(name) for name in clip.input[1:3]]
    arrays = [limit.array for limit in limits if isinstance(limit, Constant) and limit.array.size == 1]
    require(len(arrays) == 2, place_of(clip), "two constant limits of codes", list(clip.input[1:]))
    low, high = max(low, int(arrays[0])), min(high, int(arrays[1]))
    require(low < high, place_of(clip), "a range of codes", (low, high))
    return CodeRange(clip.output[0], low, high)


def picture_layout(reader: Reader, name: str) -> DataLayout:
    """Returns "NHWC" where the first operator on the picture that is no quantizer is a Transpose to NCHW."""
    users = reader.consumers[name]
    while len(users) == 1 and users[0].op_type in BETWEEN:
        users = reader.consumers[users[0].output[0]]
    first = users[0] if users else None
    if first is not None and first.op_type == "Transpose" and list(attributes_of(first).get("perm", ())) == TO_NCHW:
        return "NHWC"
    return "NCHW"


def padded_source(reader: Reader, value: Value | None, where: str) -> tuple[Tensor, Padding]:
    """Returns the tensor [H, W, C] that a convolution reads and the zeros of a Pad before it; raises OnnxError."""
    if isinstance(value, PendingMove) and not value.clamped and isinstance(value.source, str):
        places = split_places(value)
        around = None if places is None else padding_of(places, value.source_shape)
        if around is not None:
            return reader.tensors[value.source], around
    return reader.tensor_of(value, where), NO_PADDING


def is_open_sum(value: Value | None) -> bool:
    """Whether a value is the sum of a Conv, Gemm or MatMul that nothing has quantized yet."""
    return isinstance(value, PendingConv)


def with_bias(node: FileNode, conv: PendingConv, bias: Constant | Weights) -> PendingConv:
    """Returns the layer with a constant that is added to its sums; raises OnnxError where it has another already."""
    require(
        not conv.clamped and conv.bias is None and conv.skip is None,
        node.where,
        "a constant as the bias of a Conv, Gemm or MatMul just before",
        "one more",
        "fold it into the layer before quantizing",
    )
    return replace(conv, bias=bias)


def with_residual(reader: Reader, node: FileNode, conv: PendingConv, other: Value | None) -> PendingConv:
    """Returns the convolution with a quantized tensor that is added to its sums; raises OnnxError."""
    if isinstance(other, PendingConv):
        advice = "put a QuantizeLinear and DequantizeLinear on one of them"
        raise refusal(node.where, "at most one operand that is not quantized", "two open sums", advice)
    require(
        not conv.clamped and conv.skip is None,
        node.where,
        "an addition just after its Conv",
        "an activation or another Add between",
        "quantize the convolution's output",
    )
    return replace(conv, skip=reader.tensor_of(other, node.where).name)


def scaled_by_constant(node: FileNode, conv: PendingConv, factor: Constant | Weights) -> PendingConv:
    """Returns a layer whose sums are multiplied by a constant, or by one for each channel; raises OnnxError."""
    real = np.asarray(factor.real if isinstance(factor, Weights) else factor.array, np.float64)
    channels = conv.shape[2]
    axis = -3 if conv.layout == "NCHW" else -1
    along_channels = real.ndim >= -axis and real.shape[axis] == channels and real.size == channels
    expected = f"a constant, or one for each of {channels} channels"
    require(real.size == 1 or along_channels, node.where, expected, list(real.shape))
    return scaled_sums(node, conv, np.broadcast_to(real.reshape(-1), (channels,)), np.zeros(channels))


def scaled_sums(node: FileNode, conv: PendingConv, factor: np.ndarray, offset: np.ndarray) -> PendingConv:
    """Returns a layer with float64 [O] factors on its sums and offsets behind them (batch norm); raises OnnxError.

    The factors go into the weights' scales, their signs into the codes.
    """
    plain = not conv.clamped and conv.skip is None and factor.size == offset.size == conv.shape[2]
    advice = "fold it before quantizing (torch: fuse_conv_bn_eval; onnxruntime: quant_pre_process)"
    require(plain, node.where, "a factor for each channel just behind its layer", "something between", advice)
    sign = np.where(factor < 0, -1, 1)
    codes = conv.codes * sign[:, None, None, None]
    bias = _real_bias(node, conv) * factor + offset
    scale = np.maximum(np.abs(factor) * conv.w_scale, np.finfo(np.float32).tiny).astype(np.float32)
    codes = np.where((factor == 0)[:, None, None, None], 0, codes)
    bits = SIGNED_BYTE_BITS if codes.max(initial=0) > (1 << (min(conv.w_bits, 8) - 1)) - 1 else conv.w_bits
    return replace(conv, codes=codes, w_scale=scale, bias=Constant(bias), w_bits=bits)


def _real_bias(node: FileNode, conv: PendingConv) -> np.ndarray:
    """float64 [O]."""
    if conv.bias is None:
        return np.zeros(conv.shape[2])
    values = conv.bias.real if isinstance(conv.bias, Weights) else conv.bias.array
    require(values.size in (1, conv.shape[2]), node.where, f"a bias of {conv.shape[2]} values", list(values.shape))
    return np.broadcast_to(np.asarray(values, np.float64).reshape(-1), (conv.shape[2],))


def keeps_codes(reader: Reader, name: str, out: Tensor, low: int, high: int) -> bool:
    """Whether quantizing a tensor's values into another tensor [H, W, C] gives the very same codes again."""
    source = reader.tensors[name]
    same_scale = (source.scale, source.zero_point, source.bits) == (out.scale, out.zero_point, out.bits)
    return same_scale and (low, high) == (0, source.qmax)


def as_quantized_node(reader: Reader, quantize: onnx.NodeProto, value: Real | Pending) -> Pending:
    """Returns the result to emit: a Rescale is named after its QuantizeLinear, a clamp before it is only part of it."""
    if isinstance(value, Real):
        shape = reader.tensors[value.name].shape
        name = reader.take_name(quantize)
        return PendingRescale(name=name, source=value.name, shape=shape, layout=value.layout)
    if isinstance(value, PendingRescale):
        name = reader.take_name(quantize)
        reader.free_name(value.name)
        return replace(value, name=name)
    return value
