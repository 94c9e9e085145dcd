"""One node of an ONNX file as the functions that read operators see it, with checked access to what it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from compile.qdq.values import Constant, MapSize, SlidingWindow, Value, Weights, describe, padded_size, refusal, require
from targets.reference.nodes import NO_PADDING, Padding, Pair, reach


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
        """Returns input 1, weights of 8 signed bits at most; raises OnnxError for others, or other `dimensions`."""
        weights = self.optional_input(1)
        if not isinstance(weights, Weights):
            advice = (
                "quantize this node too (onnxruntime.quantization.quantize_static), or build from the float file with "
                "--calibrate PICTURES"
            )
            raise refusal(self.where, "weights that are a DequantizeLinear of constants", describe(weights), advice)
        require(
            weights.bits <= 8,
            self.where,
            "weights that fit 8 signed bits once their zero point is subtracted",
            f"{weights.codes.min()}..{weights.codes.max()}",
            "quantize weights symmetrically (onnxruntime: extra_options={'WeightSymmetric': True})",
        )
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

    def require_whole_windows(self, window: SlidingWindow, size: MapSize) -> None:
        """Raises OnnxError where ceil_mode would add windows that reach beyond the edge."""
        padded = padded_size(size, window.padding)
        rest = [(n - k) % s for n, k, s in zip(padded, window.reach, window.stride, strict=True)]
        ceil_mode = self.attributes.get("ceil_mode", 0)
        require(not ceil_mode or not any(rest), self.where, "ceil_mode 0", "windows beyond the edge")


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
