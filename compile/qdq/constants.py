"""Constants of an ONNX file: how they are read, and what operators make of them (quantized weights, foremost)."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compile.qdq.node import FileNode
from compile.qdq.values import Constant, OnnxError, Weights, along_axis, describe, refusal, require

# Integer types a tensor of codes can have -> (bits, signed).
INTEGERS: dict[int, tuple[int, bool]] = {
    TensorProto.UINT2: (2, False),
    TensorProto.INT2: (2, True),
    TensorProto.UINT4: (4, False),
    TensorProto.INT4: (4, True),
    TensorProto.UINT8: (8, False),
    TensorProto.INT8: (8, True),
    TensorProto.UINT16: (16, False),
    TensorProto.INT16: (16, True),
    TensorProto.INT32: (32, True),
}


def read_tensor(tensor: onnx.TensorProto) -> Constant:
    """Returns the constant that an initializer holds; codes become int64, floats stay what they are."""
    array = numpy_helper.to_array(tensor)
    if tensor.data_type in INTEGERS:
        bits, signed = INTEGERS[tensor.data_type]
        return Constant(array.astype(np.int64), bits, signed)
    return Constant(array)


def code_limits(bits: int, signed: bool) -> tuple[int, int]:
    """Returns the smallest and largest code of an integer type."""
    low = -(1 << (bits - 1)) if signed else 0
    return low, low + (1 << bits) - 1


def fold(node: FileNode) -> Constant | Weights:
    """Returns the constant that an operator makes of constants; covers how exporters write their weights.

    Raises OnnxError for an operator that is not in the table.
    """
    first = node.inputs[0]
    if isinstance(first, Weights):
        return _fold_weights(node, first)
    if not isinstance(first, Constant):
        raise refusal(node.where, "a constant", describe(first))
    if node.kind not in FOLDS:
        raise OnnxError(
            f"{node.where}: expected no {node.kind} on constants; fold it before quantizing (onnxruntime's basic "
            "optimization does)"
        )
    return FOLDS[node.kind](node, first)


def _fold_weights(node: FileNode, weights: Weights) -> Weights:
    if node.kind == "Identity":
        return weights
    require(node.kind == "Transpose", node.where, "weights that go straight into their operator", node.kind)
    reversed_order = list(range(weights.codes.ndim))[::-1]
    return weights.transposed(node.attributes.get("perm", reversed_order))


def _fold_identity(_: FileNode, value: Constant) -> Constant:
    return value


def _fold_transpose(node: FileNode, value: Constant) -> Constant:
    return Constant(value.array.transpose(node.attributes.get("perm")), value.bits, value.signed)


def _fold_reshape(node: FileNode, value: Constant) -> Constant:
    (shape,) = node.constants("a constant shape")[:1]
    require(shape is not None, node.where, "a constant shape", "none")
    return Constant(value.array.reshape(np.asarray(shape).astype(np.int64)), value.bits, value.signed)


def _fold_cast(node: FileNode, value: Constant) -> Constant:
    kind = node.attributes["to"]
    if kind in INTEGERS:
        bits, signed = INTEGERS[kind]
        return Constant(value.array.astype(np.int64), bits, signed)
    expected = "a cast to an integer code or float32"
    require(kind == TensorProto.FLOAT, node.where, expected, helper.tensor_dtype_to_string(kind))
    return Constant(value.array.astype(np.float32))


def _fold_clip(node: FileNode, value: Constant) -> Constant:
    """Codes that are clipped on both sides have the width of the range that is left."""
    low, high = [*node.constants("constant limits"), None, None][:2]
    array = np.clip(value.array, low, high)
    if value.bits is None or low is None or high is None:
        return Constant(array, value.bits, value.signed)
    reach = max(int(high), -int(low) - 1)
    bits = reach.bit_length() + (1 if value.signed else 0)
    return Constant(array, min(value.bits, max(2, bits)), value.signed)


def _scale_and_zero_point(node: FileNode) -> tuple[np.ndarray, Constant | None]:
    scale = node.optional_input(1)
    zero_point = node.optional_input(2)
    if not isinstance(scale, Constant) or not (zero_point is None or isinstance(zero_point, Constant)):
        raise refusal(node.where, "a constant scale and zero point", describe(scale))
    return scale.array, zero_point


def _fold_quantize(node: FileNode, value: Constant) -> Constant:
    scale, zero_point = _scale_and_zero_point(node)
    if zero_point is None:
        zero_point = Constant(np.asarray(0), 8, False)
    if zero_point.bits is None:
        raise refusal(node.where, "an integer zero point", f"type {zero_point.array.dtype}")
    axis = node.attributes.get("axis", 1)
    ndim = max(1, value.array.ndim)
    codes = np.rint(value.array / along_axis(scale, axis, ndim)) + along_axis(zero_point.array, axis, ndim)
    limits = code_limits(zero_point.bits, zero_point.signed)
    return Constant(np.clip(codes, *limits).astype(np.int64), zero_point.bits, zero_point.signed)


def _fold_dequantize(node: FileNode, value: Constant) -> Weights:
    if value.bits is None:
        raise refusal(node.where, "integer constants", f"type {value.array.dtype}")
    block_size = node.attributes.get("block_size")
    require(not block_size, node.where, "a scale per tensor or channel", "scales per block")
    scale, zero_point = _scale_and_zero_point(node)
    scale = np.asarray(scale, np.float32)
    positive = bool(np.isfinite(scale).all() and (scale >= 0).all())
    require(positive, node.where, "positive scales", scale.min(initial=0))
    axis = node.attributes.get("axis", 1)
    ndim = max(1, value.array.ndim)
    require(scale.size == 1 or -ndim <= axis < ndim, node.where, f"an axis of {ndim} dimensions", axis)
    codes = value.array
    if zero_point is not None:
        codes = codes - along_axis(zero_point.array, axis, ndim)
    elif not value.signed:
        fits = value.bits < 8 or codes.max(initial=0) < 128
        require(bool(fits), node.where, "signed weight codes", "uint8 without zero point")
    scale = _without_zeros(node, scale, codes, axis % ndim)
    return Weights(codes, scale, axis % ndim, _signed_bits(codes, value.bits))


def _without_zeros(node: FileNode, scale: np.ndarray, codes: np.ndarray, axis: int) -> np.ndarray:
    """float32 [n] scales; a channel of zeros may have the scale 0, in whose place any other one will do."""
    if (scale > 0).all():
        return scale
    real = codes * along_axis(scale > 0, axis, max(1, codes.ndim))
    require(np.array_equal(real, codes), node.where, "positive scales of channels that are not all zeros", 0.0)
    return np.where(scale > 0, scale, scale.max() or np.float32(1)).astype(np.float32)


def _signed_bits(codes: np.ndarray, bits: int) -> int:
    """The width that was declared, or the one that the codes need where they do not fit it."""
    half = 1 << (bits - 1)
    if bits > 8 or -half <= codes.min(initial=0) <= codes.max(initial=0) < half:
        return bits
    return max(int(codes.max()), -int(codes.min()) - 1).bit_length() + 1


FOLDS: dict[str, Callable[[FileNode, Constant], Constant | Weights]] = {
    "Identity": _fold_identity,
    "Transpose": _fold_transpose,
    "Reshape": _fold_reshape,
    "Cast": _fold_cast,
    "Clip": _fold_clip,
    "QuantizeLinear": _fold_quantize,
    "DequantizeLinear": _fold_dequantize,
}
