"""QuantizeLinear and DequantizeLinear on feature maps: where float results become codes, and codes real values."""

from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from compile.qdq.channel_scales import channel_scales, with_channel_scales, with_one_scale
from compile.qdq.emit import Output, emit
from compile.qdq.node import FileNode
from compile.qdq.patterns import as_quantized_node, code_range, keeps_codes
from compile.qdq.picture import quantize_picture
from compile.qdq.places import split_places
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Codes,
    Constant,
    Pending,
    PendingMove,
    PendingPicture,
    PendingRescale,
    Real,
    describe,
    refusal,
    require,
)
from targets.reference.nodes import Tensor
from targets.reference.scales import float32


@dataclass(frozen=True, eq=False)
class QuantizerParameters:
    """Constant parameters of a quantizer: scale float32 [n], zero points int64 [n or 1], width and sign of a code."""

    scale: np.ndarray
    zero_point: np.ndarray
    bits: int
    signed: bool


def read_quantize(reader: Reader, node: FileNode) -> Codes:
    """Reads a QuantizeLinear, which emits the nodes of a pending result; a Clip of the codes narrows their width.

    Raises OnnxError for a scale that is no constant, or more than one.
    """
    value = node.inputs[0]
    if not isinstance(value, Pending | Real):
        raise refusal(node.where, "a real value", describe(value))
    quantizer = _quantizer(node)
    zero_points = set(quantizer.zero_point.reshape(-1).tolist())
    require(len(zero_points) == 1, node.where, "one zero point for activations", sorted(zero_points))
    shape = reader.shape_of(value, node.where)
    scales = channel_scales(node, quantizer.scale, value.layout, shape[2])
    if scales is not None:
        value = with_one_scale(reader, node, value, scales)
    codes = code_range(reader, node.proto, quantizer.bits, quantizer.signed)
    offset = -codes.low if quantizer.signed else 0  # makes the codes unsigned
    low, high = codes.low + offset, codes.high + offset
    zero_point = int(quantizer.zero_point.reshape(-1)[0]) + offset
    scale = float32(quantizer.scale.max())
    out = Tensor(codes.name, shape, max(2, high.bit_length()), scale, (zero_point,))
    output = Output(out, low, high, node.where)
    move = None
    if isinstance(value, PendingPicture):
        tensor_name = quantize_picture(reader, value, output)
    elif isinstance(value, PendingMove) and split_places(value) is None:
        tensor_name, move = _quantize_before_move(reader, value, output)
    elif isinstance(value, Real) and keeps_codes(reader, value.name, out, low, high):
        tensor_name = value.name
    else:
        reader.append(emit(reader.tensors, as_quantized_node(reader, node.proto, value), output))
        tensor_name = codes.name
    result = Codes(tensor_name, offset, value.layout, move, scales)
    reader.values[codes.name] = result
    return result


def read_dequantize(reader: Reader, node: FileNode) -> Real | Pending:
    """Reads a DequantizeLinear; raises OnnxError unless its scale is that of the QuantizeLinear before it."""
    codes = node.inputs[0]
    if not isinstance(codes, Codes):
        raise refusal(node.where, "integer codes", describe(codes))
    quantizer = _quantizer(node)
    scales = channel_scales(node, quantizer.scale, codes.layout, reader.shape_of(codes, node.where)[2])
    scale = float32(quantizer.scale.max())
    zero_point = tuple(int(z) + codes.offset for z in quantizer.zero_point.reshape(-1))
    zero_point = zero_point[:1] if scales is not None and len(set(zero_point)) == 1 else zero_point
    if codes.name == reader.unscaled_picture:
        _scale_picture(reader, node, codes, scale, zero_point)
    tensor = reader.tensors[codes.name]
    require(
        (tensor.scale, tensor.zero_point) == (scale, zero_point),
        node.where,
        f"scale and zero point of its QuantizeLinear, {tensor.scale} and {tensor.zero_point}",
        (scale, zero_point),
    )
    own, expected = (np.zeros(0) if array is None else array for array in (scales, codes.scales))
    require(np.array_equal(own, expected), node.where, "the scales of its QuantizeLinear", own[:4].tolist())
    if scales is not None:
        return with_channel_scales(codes, node, scales, reader)
    return Real(codes.name, codes.layout) if codes.move is None else codes.move


def _quantize_before_move(reader: Reader, move: PendingMove, output: Output) -> tuple[str, PendingMove]:
    """Quantizes what a move to a shape that is no map moves; returns its tensor [H, W, C], and the move of that."""
    out = replace(output.tensor, shape=move.source_shape)
    output, source = replace(output, tensor=out), move.source
    if isinstance(source, str) and keeps_codes(reader, source, out, output.low, output.high):
        return source, move
    if isinstance(source, str):
        name = f"{move.name}/rescale"
        source = PendingRescale(name=name, shape=move.source_shape, source=source, low=move.low, high=move.high)
    reader.append(emit(reader.tensors, source, output))
    return out.name, replace(move, source=out.name)


def _scale_picture(reader: Reader, node: FileNode, codes: Codes, scale: float, zero_point: tuple[int, ...]) -> None:
    """The first DequantizeLinear of a uint8 picture tells its scale and zero points."""
    channel_axis = 1 if codes.layout == "NCHW" else 3
    axis = node.attributes.get("axis", 1)
    fits = len(zero_point) == 1 or axis % 4 == channel_axis
    require(fits, node.where, f"zero points along axis {channel_axis}", axis)
    tensor = reader.tensors[codes.name]
    reader.tensors[codes.name] = Tensor(tensor.name, tensor.shape, 8, scale, zero_point)
    reader.unscaled_picture = None


def _quantizer(node: FileNode) -> QuantizerParameters:
    """The parameters of a node, which must be constants."""
    scale = node.optional_input(1)
    zero_point = node.optional_input(2)
    if not isinstance(scale, Constant) or not (zero_point is None or isinstance(zero_point, Constant)):
        advice = "dynamic quantization is not taken; use static quantization"
        raise refusal(node.where, "a constant scale and zero point", "computed ones", advice)
    positive = scale.array.size >= 1 and bool((np.isfinite(scale.array) & (scale.array > 0)).all())
    require(positive, node.where, "positive scales", scale.array)
    require(not node.attributes.get("block_size"), node.where, "one scale", "scales per block")
    if zero_point is None:
        uint8 = node.attributes.get("output_dtype", 0) in (0, TensorProto.UINT8)
        require(uint8, node.where, "a zero point that tells the type", "none")
        zero_point = Constant(np.asarray(0), 8, False)
    bits = zero_point.bits
    if bits is None or bits > 8 or zero_point.array.size not in (1, scale.array.size):
        advice = "quantize activations to 8 bits (onnxruntime: activation_type=QuantType.QUInt8)"
        what = "a zero point without a width" if bits is None else f"{bits} bits, {zero_point.array.size} zero points"
        raise refusal(node.where, "activations of 8 bits at most", what, advice)
    return QuantizerParameters(scale.array, zero_point.array, bits, zero_point.signed)
