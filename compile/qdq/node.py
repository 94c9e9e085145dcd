"""One node of an ONNX file as the functions that read operators see it, with checked access to what it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from compile.qdq.values import Constant, MapSize, SlidingWindow, Value, Weights, describe, padded_size, refusal, require
from targets.reference.nodes import NO_PADDING, SIGNED_BYTE_BITS, Padding, Pair, reach


@dataclass(frozen=True, eq=False)
class FileNode:
    """A node with its attributes by name and the values of its inputs, None where an optional one is left out."""

    proto: onnx.NodeProto
    inputs: tuple[Value | None, ...]
    attributes: dict[str, Any]

    @property
    def kind(self) -> str:
        """The type of the operator, such as "Conv"."""
        return self.proto.op_type

    @property
    def where(self) -> str:
        """How error messages name the node."""
        return place_of(self.proto)

    def optional_input(self, index: int) -> Value | None:
        """Returns the value of an input; None where the node has no such input."""
        return self.inputs[index] if index < len(self.inputs) else None

    def weights(self, dimensions: int, expected: str) -> Weights:
        """Returns input 1, weights of 8 bits, signed or less a zero point; raises OnnxError for other ones."""
        weights = self.optional_input(1)
        if not isinstance(weights, Weights):
            advice = "quantize this node too (onnxruntime.quantization.quantize_static)"
            raise refusal(self.where, "weights that are a DequantizeLinear of constants", describe(weights), advice)
        require(weights.bits <= SIGNED_BYTE_BITS, self.where, "weights of 8 bits at most", f"{weights.bits} bits")
        shape = list(weights.codes.shape)
        require(len(shape) == dimensions, self.where, expected, f"weights {shape}")
        return weights

    def bias(self) -> Constant | Weights | None:
        """Returns input 2, or None where there is none; raises OnnxError for a bias that is no constant."""
        bias = self.optional_input(2)
        if bias is None or isinstance(bias, Constant | Weights):
            return bias
        raise refusal(self.where, "a constant bias", describe(bias))

    def constants(self, expected: str) -> list[np.ndarray | None]:
        """Returns the arrays [...] of all inputs but the first, None for each left out.

        Raises OnnxError, which names what was expected, where one is computed.
        """
        values = self.inputs[1:]
        arrays = [value.array if isinstance(value, Constant) else None for value in values]
        computed = any(value is not None and array is None for value, array in zip(values, arrays, strict=True))
        require(not computed, self.where, expected, "computed ones")
        return arrays

    def constant(self, index: int) -> np.ndarray | None:
        """Returns the array [...] of an input; None where it is left out. Raises OnnxError for a computed one."""
        value = self.optional_input(index)
        require(value is None or isinstance(value, Constant), self.where, "a constant operand", describe(value))
        return value.array if isinstance(value, Constant) else None

    def real_constant(self, index: int) -> np.ndarray:
        """Returns float64 [...], an input that is a constant, quantized or not; raises OnnxError for others."""
        value = self.optional_input(index)
        if not isinstance(value, Constant | Weights):
            raise refusal(self.where, "constant parameters", describe(value))
        return np.asarray(value.real if isinstance(value, Weights) else value.array, np.float64)

    def integers(self, name: str, index: int) -> list[int] | None:
        """Returns integers that are an attribute in old files, and input `index` in new ones; None for none."""
        array = self.constant(index)
        if array is not None:
            return [int(n) for n in array.reshape(-1)]
        attribute = self.attributes.get(name)
        return None if attribute is None else [int(n) for n in attribute]

    def of_output(self, number: int) -> "FileNode":
        """Returns a node of the same inputs with one output, which names it."""
        proto = onnx.NodeProto()
        proto.CopyFrom(self.proto)
        del proto.output[:]
        proto.output.append(self.proto.output[number])
        proto.name = proto.name if number == 0 else ""
        return replace(self, proto=proto)

    def clip_limits(self) -> tuple[float, float]:
        """Returns the smallest and largest value that a Clip leaves; raises OnnxError unless they are constants."""
        low, high = float(self.attributes.get("min", -np.inf)), float(self.attributes.get("max", np.inf))
        low_input, high_input = [*self.constants("constant limits"), None, None][:2]
        low = low if low_input is None else float(low_input)
        high = high if high_input is None else float(high_input)
        require(low <= high, self.where, "min <= max", (low, high))
        return low, high

    def pool_window(self, size: MapSize) -> SlidingWindow:
        """Returns the window of a pool over a map of that size; raises OnnxError for one that no kernel computes."""
        kernel = self.attributes.get("kernel_shape", ())
        require(len(kernel) == 2, self.where, "a pool over two dimensions", kernel)
        return self.window((int(kernel[0]), int(kernel[1])), size)

    def window(self, kernel: MapSize, size: MapSize) -> SlidingWindow:
        """Returns how a window of `kernel` pixels moves over a map of that size.

        Raises OnnxError for anything but positive numbers of two dimensions.
        """
        strides = self.attributes.get("strides", [1, 1])
        dilations = self.attributes.get("dilations", [1, 1])
        two = len(strides) == len(dilations) == 2
        require(two, self.where, "strides and dilations of two dimensions", (strides, dilations))
        sizes = (*kernel, *strides, *dilations)
        require(min(sizes) >= 1, self.where, "a positive window, stride and dilation", sizes)
        stride, dilation = (int(strides[0]), int(strides[1])), (int(dilations[0]), int(dilations[1]))
        return SlidingWindow(kernel, stride, self._padding(size, reach(kernel, dilation), stride), dilation)

    def _padding(self, size: MapSize, kernel: MapSize, stride: Pair) -> Padding:
        """What pads or auto_pad say."""
        auto = self.attributes.get("auto_pad", b"NOTSET")
        if auto == b"NOTSET":
            pads = self.attributes.get("pads", NO_PADDING)
            require(len(pads) == 4, self.where, "four pads", pads)
            return int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])
        if auto == b"VALID":
            return NO_PADDING
        require(auto in (b"SAME_UPPER", b"SAME_LOWER"), self.where, "auto_pad NOTSET, VALID or SAME", auto)
        rows, columns = (max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True))
        small = (rows // 2, columns // 2)
        large = (rows - rows // 2, columns - columns // 2)
        return (*small, *large) if auto == b"SAME_UPPER" else (*large, *small)

    def with_last_windows(self, window: SlidingWindow, size: MapSize) -> SlidingWindow:
        """Returns the window with the padding behind that ceil_mode adds: its last windows reach beyond the edge.

        A window that would begin in the padding behind is left out, as ONNX does from opset 22 on and onnxruntime does.
        """
        if not self.attributes.get("ceil_mode", 0):
            return window
        top, left, bottom, right = window.padding
        padded = padded_size(size, window.padding)
        more: list[int] = []
        for n, k, s, begin in zip(padded, window.reach, window.stride, (top, left), strict=True):
            steps = -(-(n - k) // s)
            end = size[len(more)] + begin
            steps -= steps * s >= end
            more.append(max(0, steps * s + k - n))
        return replace(window, padding=(top, left, bottom + more[0], right + more[1]))


def place_of(proto: onnx.NodeProto) -> str:
    """Returns how error messages name a node."""
    return f"node {proto.name or proto.output[0]} ({proto.op_type})"


def attributes_of(proto: onnx.NodeProto) -> dict[str, Any]:
    """Returns the attributes of a node by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}


def require_quantized(protos: Sequence[onnx.NodeProto]) -> None:
    """Raises OnnxError for a network that is not quantized, or in another way than QuantizeLinear, DequantizeLinear."""
    kinds = {proto.op_type for proto in protos}
    dynamic = sorted(kinds & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
    integer = sorted(kind for kind in kinds if kind.startswith("QLinear") or kind == "QGemm")
    expected = "QuantizeLinear and DequantizeLinear around float operators (QDQ)"
    if dynamic:
        advice = "dynamic quantization is not taken; use onnxruntime.quantization.quantize_static"
        raise refusal("model", expected, ", ".join(dynamic), advice)
    if integer:
        advice = "export with quant_format=QuantFormat.QDQ"
        raise refusal("model", expected, f"the QOperator format ({', '.join(integer)})", advice)
    if not kinds & {"QuantizeLinear", "DequantizeLinear"}:
        advice = (
            "quantize it with onnxruntime.quantization.quantize_static(..., quant_format=QuantFormat.QDQ, "
            "extra_options={'WeightSymmetric': True})"
        )
        raise refusal("model", expected, "a network that is not quantized", advice)
