"""The QOperator form: operators on codes become DequantizeLinear, the float operator and QuantizeLinear.

Scales, zero points and codes stay the very same; int32 biases get the scale of their sums, x * w, which QLinearConv and
its like leave unsaid. Operators that only move codes get both quantizers as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compile.forms.graph import (
    DEQUANTIZE,
    MICROSOFT,
    QUANTIZE,
    FileGraph,
    FormError,
    attributes_of,
    input_of,
    is_standard,
    place_of,
)

# operators whose results are codes of their input
MOVERS = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather")
OWN = ("fused", "channels_last", "opset")  # attributes that the float operators do not have


@dataclass(frozen=True)
class Quantizer:
    """Names of a scale and a zero point, "" where there is none, along an axis of the tensor."""

    scale: str
    zero_point: str
    axis: int | None = None


class Expansion:
    """The nodes that take the place of one operator on codes."""

    def __init__(self, graph: FileGraph, node: onnx.NodeProto):
        self.graph = graph
        self.node = node
        self.nodes: list[onnx.NodeProto] = []

    def quantizer(self, index: int, axis: int | None = None) -> Quantizer:
        """Returns the scale and zero point that stand in inputs `index` and `index` + 1."""
        scale = input_of(self.node, index)
        size = self.graph.array(scale)
        is_vector = size is not None and size.size > 1
        return Quantizer(scale, input_of(self.node, index + 1), axis if is_vector else None)

    def dequantized(self, codes: str, quantizer: Quantizer) -> str:
        """Adds a DequantizeLinear; returns the name of the real values."""
        names = [name for name in (quantizer.scale, quantizer.zero_point) if name]
        axis: dict[str, Any] = {} if quantizer.axis is None else {"axis": quantizer.axis}
        return self.add(self.graph.make(DEQUANTIZE, [codes, *names], hint=self._name(codes), **axis))

    def add(self, node: onnx.NodeProto) -> str:
        """Adds a node; returns the name of its result."""
        self.nodes.append(node)
        return node.output[0]

    def operator(self, kind: str, inputs: list[str], attributes: dict[str, Any] | None = None) -> str:
        """Adds the float operator under the name of the node that it stands for."""
        own = attributes_of(self.node) if attributes is None else attributes
        kept: dict[str, Any] = {name: value for name, value in own.items() if name not in OWN}
        result = self.graph.free_name(f"{self.node.output[0]}/real")
        return self.add(helper.make_node(kind, inputs, [result], name=self.node.name or result, **kept))

    def quantized(self, real: str, quantizer: Quantizer) -> None:
        """Adds the QuantizeLinear that computes the node's own result."""
        names = [name for name in (quantizer.scale, quantizer.zero_point) if name]
        self.add(self.graph.make(QUANTIZE, [real, *names], self.node.output[0]))

    def bias(self, codes: str, scales: list[str], factor: float = 1.0) -> str:
        """Adds the DequantizeLinear of int32 codes in units of the product of scales; returns its result's name.

        Raises FormError where scales are computed.
        """
        arrays = [self.graph.array(name) for name in scales]
        if any(array is None for array in arrays):
            raise FormError(f"{place_of(self.node)}: expected constant scales, got computed ones; quantize statically")
        unit = np.float32(factor)
        for array in arrays:
            unit = unit * np.asarray(array, np.float32)
        unit = np.asarray(unit, np.float32).reshape(-1)
        unit = unit.reshape(()) if unit.size == 1 else unit
        scale = self.graph.add_constant(f"{self.node.output[0]}/bias_scale", unit)
        return self.dequantized(codes, Quantizer(scale, "", 0 if unit.size > 1 else None))

    def _name(self, codes: str) -> str:
        return f"{self.node.name or self.node.output[0]}/{codes}"


def take_qoperators(graph: FileGraph) -> None:
    """Writes every operator on codes as float operators between quantizers; raises FormError for unknown ones."""
    graph.sort()
    quantizers: dict[str, Quantizer] = {}  # of each value that holds codes
    for node in list(graph.nodes):
        if is_standard(node, QUANTIZE):
            quantizers[node.output[0]] = Quantizer(node.input[1], input_of(node, 2))
        elif is_standard(node, *MOVERS) and node.input[0] in quantizers:
            _expand_mover(graph, node, quantizers)
        elif node.op_type in EXPANSIONS and node.domain in ("", MICROSOFT):
            expansion = Expansion(graph, node)
            EXPANSIONS[node.op_type](expansion)
            graph.replace([node], expansion.nodes)
            last = expansion.nodes[-1]
            if is_standard(last, QUANTIZE):
                quantizers[last.output[0]] = Quantizer(last.input[1], input_of(last, 2))


def _expand_mover(graph: FileGraph, node: onnx.NodeProto, quantizers: dict[str, Quantizer]) -> None:
    """Codes that are moved stand for values that are moved."""
    quantizer = quantizers[node.input[0]]
    expansion = Expansion(graph, node)
    codes = list(node.output)
    node.input[0] = expansion.dequantized(node.input[0], quantizer)
    expansion.add(node)
    for i, name in enumerate(codes):
        if not name:
            continue
        node.output[i] = graph.free_name(f"{name}/real")
        names = [part for part in (quantizer.scale, quantizer.zero_point) if part]
        expansion.add(graph.make(QUANTIZE, [node.output[i], *names], name))
        quantizers[name] = quantizer
    graph.replace([node], expansion.nodes)


def _expand_conv(e: Expansion) -> None:
    names = e.node.input
    x = e.dequantized(names[0], e.quantizer(1))
    inputs = [x, e.dequantized(names[3], e.quantizer(4, axis=0))]
    if input_of(e.node, 8):
        inputs.append(e.bias(names[8], [names[1], names[4]]))
    e.quantized(e.operator("Conv", inputs), e.quantizer(6))


def _expand_matmul(e: Expansion) -> None:
    names = e.node.input
    inputs = [e.dequantized(names[0], e.quantizer(1)), e.dequantized(names[3], e.quantizer(4, axis=1))]
    e.quantized(e.operator("MatMul", inputs, {}), e.quantizer(6))


def _expand_gemm(e: Expansion) -> None:
    """Gemm's alpha becomes part of its weights' scale."""
    names, attributes = e.node.input, attributes_of(e.node)
    alpha = float(attributes.pop("alpha", 1.0))
    weights = e.quantizer(4, axis=0 if attributes.get("transB", 0) else 1)
    scale = e.graph.array(weights.scale)
    if alpha != 1 and scale is not None:
        scaled = e.graph.add_constant(f"{weights.scale}/alpha", np.float32(alpha) * scale)
        weights = Quantizer(scaled, weights.zero_point, weights.axis)
    inputs = [e.dequantized(names[0], e.quantizer(1)), e.dequantized(names[3], weights)]
    if input_of(e.node, 6):
        inputs.append(e.bias(names[6], [names[1], weights.scale]))
    if input_of(e.node, 7):
        e.quantized(e.operator("Gemm", inputs, attributes), e.quantizer(7))
        return
    e.operator("Gemm", inputs, attributes)
    e.nodes[-1].output[0] = e.node.output[0]


def _expand_binary(kind: str) -> Callable[[Expansion], None]:
    """Of two operands; their quantizers stand behind each."""

    def expand(e: Expansion) -> None:
        operands = [e.dequantized(e.node.input[0], e.quantizer(1)), e.dequantized(e.node.input[3], e.quantizer(4))]
        e.quantized(e.operator(kind, operands), e.quantizer(6))

    return expand


def _expand_unary(kind: str) -> Callable[[Expansion], None]:
    """Of one operand; pools over maps in NHWC are refused."""

    def expand(e: Expansion) -> None:
        if attributes_of(e.node).get("channels_last", 0):
            raise FormError(f"{place_of(e.node)}: expected maps in NCHW, got channels_last; optimize the file less")
        e.quantized(e.operator(kind, [e.dequantized(e.node.input[0], e.quantizer(1))]), e.quantizer(3))

    return expand


def _expand_concat(e: Expansion) -> None:
    """Its result's quantizer stands first, then triples of codes, scale and zero point."""
    starts = range(2, len(e.node.input), 3)
    operands = [e.dequantized(e.node.input[i], e.quantizer(i + 1)) for i in starts]
    e.quantized(e.operator("Concat", operands), e.quantizer(0))


EXPANSIONS: dict[str, Callable[[Expansion], None]] = {
    "QLinearConv": _expand_conv,
    "QLinearMatMul": _expand_matmul,
    "QGemm": _expand_gemm,
    "QLinearAdd": _expand_binary("Add"),
    "QLinearMul": _expand_binary("Mul"),
    "QLinearConcat": _expand_concat,
    "QLinearGlobalAveragePool": _expand_unary("GlobalAveragePool"),
    "QLinearAveragePool": _expand_unary("AveragePool"),
    "QLinearReduceMean": _expand_unary("ReduceMean"),
    "QLinearSigmoid": _expand_unary("Sigmoid"),
    "QLinearLeakyRelu": _expand_unary("LeakyRelu"),
    "QLinearSoftmax": _expand_unary("Softmax"),
}
