"""Quantizers that stand only before layers, as TensorRT places them: moved to where a result is computed.

A MaxPool, a Relu, a Pad with zeros and everything that only moves values commute with rounding to codes, exactly. So a
quantizer behind them is put in front of them as well, where it tells the scale of a layer's sums.
"""

import numpy as np
import onnx

from compile.forms.graph import DEQUANTIZE, QUANTIZE, FileGraph, attributes_of, input_of, is_standard
from compile.forms.weights import dequantized_constant

CARRIERS = ("MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth")
CLAMPS = ("Relu", "Clip")
OPEN = ("Conv", "Gemm", "MatMul", "Add", *CLAMPS)  # results that wait for a quantizer


def place_quantizers(graph: FileGraph) -> list[str]:
    """Puts quantizers where results are computed; returns what is not exact, in words for people."""
    for node in [node for node in graph.nodes if is_standard(node, "Pad")]:
        _swap_pad(graph, node)
    graph.sort()
    for node in reversed(list(graph.nodes)):
        if is_standard(node, *CARRIERS) and _is_open(graph, node.input[0]):
            _quantize_before(graph, node)
    return [note for node in list(graph.nodes) if is_standard(node, "Add") for note in _close_residual(graph, node)]


def _is_open(graph: FileGraph, name: str) -> bool:
    """Whether a value is a layer's result, clamped or not, that nothing has quantized yet."""
    node = graph.producer(name)
    while node is not None and is_standard(node, *CARRIERS):
        node = graph.producer(node.input[0])
    return node is not None and is_standard(node, *OPEN)


def _quantizers_behind(graph: FileGraph, name: str) -> list[onnx.NodeProto] | None:
    """The quantizers that read a value, with clamps in between or not; None where something else does too."""
    if name in graph.output_names:
        return None
    quantizers: list[onnx.NodeProto] = []
    for user in graph.users(name):
        if is_standard(user, QUANTIZE):
            quantizers.append(user)
            continue
        behind = _quantizers_behind(graph, user.output[0]) if is_standard(user, "Relu", *CARRIERS) else None
        if behind is None:
            return None
        quantizers += behind
    return quantizers


def _quantize_before(graph: FileGraph, node: onnx.NodeProto) -> None:
    """Quantizes a carrier's input as its result is, where all quantizers behind it agree."""
    quantizers = _quantizers_behind(graph, node.output[0])
    if not quantizers or len({_parameters(graph, quantizer) for quantizer in quantizers}) > 1:
        return
    pair = _pair(graph, quantizers[0], node.input[0])
    node.input[0] = pair[1].output[0]
    graph.replace([node], [*pair, node])


def _pair(graph: FileGraph, quantizer: onnx.NodeProto, name: str) -> list[onnx.NodeProto]:
    """Nodes that quantize a value as `quantizer` does, and dequantize it."""
    parameters, attributes = list(quantizer.input[1:]), attributes_of(quantizer)
    quantize = graph.make(QUANTIZE, [name, *parameters], hint=name, **attributes)
    return [quantize, graph.make(DEQUANTIZE, [quantize.output[0], *parameters], hint=name)]


def _parameters(graph: FileGraph, quantizer: onnx.NodeProto) -> tuple[object, ...]:
    """Scale and zero point by value."""
    arrays = [graph.array(name) for name in quantizer.input[1:]]
    return tuple(name if a is None else a.tobytes() for name, a in zip(quantizer.input[1:], arrays, strict=True))


def _swap_pad(graph: FileGraph, pad: onnx.NodeProto) -> None:
    """Pad, Q, DQ becomes Q, DQ, Pad: zero has a code of its own, so that padding with zeros and rounding commute."""
    value = dequantized_constant(graph, input_of(pad, 2)) if input_of(pad, 2) else np.zeros(1)
    is_zero = value is not None and not value.any()
    quantize = graph.only_user(pad.output[0])
    dequantize = None if quantize is None else graph.only_user(quantize.output[0])
    if not is_zero or attributes_of(pad).get("mode", b"constant") != b"constant" or attributes_of(pad).get("value"):
        return
    if quantize is None or dequantize is None or not is_standard(quantize, QUANTIZE):
        return
    if not is_standard(dequantize, DEQUANTIZE):
        return
    pair = _pair(graph, quantize, pad.input[0])
    pad.input[0] = pair[1].output[0]
    if input_of(pad, 2):
        pad.input[2] = ""  # which stands for zero, and may be dequantized
    pad.output[0] = dequantize.output[0]
    graph.replace([pad, quantize, dequantize], [*pair, pad])


def _close_residual(graph: FileGraph, add: onnx.NodeProto) -> list[str]:
    """Of two open sums that are added, one is taken as the codes that some other layer reads it as."""
    if not all(_is_open(graph, name) for name in add.input) or add.input[0] == add.input[1]:
        return []
    for i, name in enumerate(add.input):
        quantizer = next((user for user in graph.users(name) if is_standard(user, QUANTIZE)), None)
        reader = None if quantizer is None else next(iter(graph.users(quantizer.output[0])), None)
        if reader is not None and is_standard(reader, DEQUANTIZE):
            add.input[i] = reader.output[0]
            graph.changed()
            return [f"{add.name or add.output[0]} adds {name} in codes of 8 bits, as other layers read it"]
    return []
