"""What a value of an ONNX file can be while it is read: constants, codes, real values, and sums not yet quantized."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Integer types a tensor of codes can have -> (bits, signed).
INTEGERS = {
    TensorProto.UINT2: (2, False),
    TensorProto.INT2: (2, True),
    TensorProto.UINT4: (4, False),
    TensorProto.INT4: (4, True),
    TensorProto.UINT8: (8, False),
    TensorProto.INT8: (8, True),
    TensorProto.INT32: (32, True),
}


class OnnxError(ValueError):
    """The file cannot be taken; the message names the node, what was expected, what came and what to do.

    It is one line, whatever onnx's checker and numpy's arrays wrote into it.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def require(fits: bool, where: str, expected: str, came, advice: str = "") -> None:
    if not fits:
        raise OnnxError(f"{where}: expected {expected}, got {came}" + (f"; {advice}" if advice else ""))


@dataclass(frozen=True, eq=False)
class Const:
    """A constant; integers are int64 with the width and sign of their type, or of the Clip that narrowed them."""

    array: np.ndarray
    bits: int | None = None
    signed: bool = True


@dataclass(frozen=True, eq=False)
class Weights:
    """Dequantized constant: real = codes * scale along `axis`; codes int64 are centred (zero point subtracted).

    bits: of the signed codes; above 8 where an asymmetric zero point moved them out of int8.
    """

    codes: np.ndarray
    scale: np.ndarray
    axis: int
    bits: int

    def transposed(self, perm) -> "Weights":
        return Weights(self.codes.transpose(perm), self.scale, list(perm).index(self.axis), self.bits)

    @property
    def real(self) -> np.ndarray:
        return self.codes * _along(self.scale.astype(np.float64), self.axis, max(1, self.codes.ndim))

    def channel_scale(self, axis: int, where: str) -> np.ndarray:
        """float32 [codes.shape[axis]]."""
        channels = self.codes.shape[axis]
        require(
            self.scale.size == 1 or (self.axis == axis and self.scale.shape == (channels,)),
            where,
            f"one weight scale, or one for each of {channels} output channels",
            f"{self.scale.shape} along axis {self.axis}",
        )
        return np.broadcast_to(self.scale.reshape(-1), (channels,)).astype(np.float32)


@dataclass(frozen=True)
class Codes:
    """Integer codes of the graph's tensor `name`: the file's code = ours - offset (0, or 128 for int8)."""

    name: str
    offset: int
    layout: str


@dataclass(frozen=True)
class Real:
    """Dequantized values of the graph's tensor `name`. layout: "NCHW", "NHWC" or "flat" ([N, everything], of NCHW)."""

    name: str
    layout: str


@dataclass(frozen=True, eq=False)
class Pending:
    """Float result that waits for its QuantizeLinear.

    kind: "conv", "add", "avg_pool", "max_pool", "shortcut", "rescale" or "picture"; shape [H, W, C]; low and high are
    the clamps (Relu, Clip) met so far, `clamped` whether there were any; `parts` are the fields of the node to be.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, int, int]
    layout: str = "NCHW"
    low: float = -np.inf
    high: float = np.inf
    clamped: bool = False
    parts: dict = field(default_factory=dict)


def constant(tensor: onnx.TensorProto) -> Const:
    """An initializer, its type widened to int64 or kept as float."""
    array = numpy_helper.to_array(tensor)
    if tensor.data_type in INTEGERS:
        bits, signed = INTEGERS[tensor.data_type]
        return Const(array.astype(np.int64), bits, signed)
    return Const(array)


def fold(node: onnx.NodeProto, inputs: list, attributes: dict, where: str):
    """The constant that an operator makes of constants, or OnnxError; covers how exporters write their weights."""
    first, kind = inputs[0], node.op_type
    if kind == "Identity":
        return first
    if isinstance(first, Weights):
        require(kind == "Transpose", where, "weights that go straight into their operator", kind)
        return first.transposed(attributes.get("perm", range(first.codes.ndim)[::-1]))
    if kind == "Transpose":
        return Const(first.array.transpose(attributes.get("perm")), first.bits, first.signed)
    if kind == "Reshape":
        return Const(first.array.reshape(inputs[1].array.astype(np.int64)), first.bits, first.signed)
    if kind == "Cast":
        return _cast(first, attributes["to"], where)
    if kind == "Clip":
        return _clip(first, *((c.array if c is not None else None) for c in (inputs[1:] + [None, None])[:2]))
    if kind == "QuantizeLinear":
        return _quantize(first, inputs, attributes, where)
    if kind == "DequantizeLinear":
        return _dequantize(first, inputs, attributes, where)
    raise OnnxError(
        f"{where}: expected no {kind} on constants; fold it before quantizing (onnxruntime's basic optimization does)"
    )


def _cast(value: Const, to: int, where: str) -> Const:
    if to in INTEGERS:
        bits, signed = INTEGERS[to]
        return Const(value.array.astype(np.int64), bits, signed)
    require(to == TensorProto.FLOAT, where, "a cast to an integer code or float32", helper.tensor_dtype_to_string(to))
    return Const(value.array.astype(np.float32))


def _clip(value: Const, low, high) -> Const:
    array = np.clip(value.array, low, high)
    if value.bits is None or low is None or high is None:
        return Const(array, value.bits, value.signed)
    reach = max(int(high), -int(low) - 1)
    bits = reach.bit_length() + (1 if value.signed else 0)
    return Const(array, min(value.bits, max(2, bits)), value.signed)


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A scale or zero point, shaped to broadcast along `axis`."""
    return (
        values.reshape(()) if values.size == 1 else values.reshape([-1 if k == axis % ndim else 1 for k in range(ndim)])
    )


def _quantize(value: Const, inputs: list, attributes: dict, where: str) -> Const:
    scale, zero = (
        inputs[1].array,
        inputs[2] if len(inputs) > 2 and inputs[2] is not None else Const(np.int64(0), 8, False),
    )
    axis, ndim = attributes.get("axis", 1), max(1, value.array.ndim)
    codes = np.rint(value.array / _along(scale, axis, ndim)) + _along(zero.array, axis, ndim)
    low = -(1 << (zero.bits - 1)) if zero.signed else 0
    return Const(np.clip(codes, low, low + (1 << zero.bits) - 1).astype(np.int64), zero.bits, zero.signed)


def _dequantize(value: Const, inputs: list, attributes: dict, where: str) -> Weights:
    require(value.bits is not None, where, "integer constants", f"type {value.array.dtype}")
    require(not attributes.get("block_size"), where, "a scale per tensor or channel", "scales per block")
    scale, axis, ndim = inputs[1].array, attributes.get("axis", 1), max(1, value.array.ndim)
    require(bool(np.isfinite(scale).all() and (scale > 0).all()), where, "positive scales", scale.min(initial=0))
    require(scale.size == 1 or -ndim <= axis < ndim, where, f"an axis of {ndim} dimensions", axis)
    codes, bits = value.array, value.bits
    if len(inputs) > 2 and inputs[2] is not None:
        codes = codes - _along(inputs[2].array, axis, ndim)
    elif not value.signed:
        require(bits < 8 or codes.max(initial=0) < 128, where, "signed weight codes", "uint8 without zero point")
    if bits <= 8 and not -(1 << (bits - 1)) <= codes.min(initial=0) <= codes.max(initial=0) < 1 << (bits - 1):
        bits = max(int(codes.max()), -int(codes.min()) - 1).bit_length() + 1
    return Weights(codes, np.asarray(scale, np.float32), axis % ndim, bits)
