"""Constants that multiply or are added to a layer's sums, BatchNormalization among them, become its scales and bias.

y = factor * sums + shift is the same layer with its weights' scales times |factor|, the codes of channels with a
negative factor negated, and the bias factor * bias + shift: no code is rounded anew. What stays of rounding is that of
float32 in the new scales.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from compile.forms.folding import float_input
from compile.forms.graph import DEQUANTIZE, FileGraph, attributes_of, input_of, is_standard
from compile.forms.weights import clipped_codes, dequantized_constant

LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class Affine:
    """factor * x + shift; float64 [], or one of each channel [channels]."""

    factor: np.ndarray
    shift: np.ndarray


def fold_affine(graph: FileGraph) -> None:
    """Folds constant factors and shifts behind layers with quantized weights into these layers."""
    graph.sort()
    for layer in [node for node in graph.nodes if is_standard(node, *LAYERS)]:
        while (node := graph.only_user(layer.output[0])) is not None and _fold(graph, layer, node):
            pass


def _fold(graph: FileGraph, layer: onnx.NodeProto, node: onnx.NodeProto) -> bool:
    """Whether the node could be folded into the layer; a bare bias is left to the importer, which keeps its codes."""
    weights = graph.producer(layer.input[1])
    affine = _affine_of(graph, layer, node)
    if affine is None or weights is None or not is_standard(weights, DEQUANTIZE):
        return False
    codes = graph.array(clipped_codes(graph, weights)[0])
    if codes is None or not _is_plain(graph, layer) or (codes.ndim != 2 and layer.op_type != "Conv"):
        return False
    axis = _output_axis(layer)
    channels = codes.shape[axis]
    if any(values.size not in (1, channels) for values in (affine.factor, affine.shift)):
        return False
    bias = dequantized_constant(graph, input_of(layer, 2)) if input_of(layer, 2) else np.zeros(channels)
    if bias is None or not _scale_weights(graph, layer, weights, affine.factor):
        return False
    _set_bias(graph, layer, np.broadcast_to(affine.factor * bias.reshape(-1) + affine.shift, (channels,)))
    layer.output[0] = node.output[0]
    graph.replace([node], [])
    return True


def _is_plain(graph: FileGraph, layer: onnx.NodeProto) -> bool:
    """Whether a Gemm has factors of 1, and a MatMul a matrix as its input, so that it may become a Gemm."""
    attributes = attributes_of(layer)
    if layer.op_type == "MatMul" and len(graph.shapes.get(layer.input[0], (1, 1))) != 2:
        return False
    return float(attributes.get("alpha", 1.0)) == float(attributes.get("beta", 1.0)) == 1.0


def _output_axis(layer: onnx.NodeProto) -> int:
    """The axis of the weights along which output channels lie."""
    return 0 if layer.op_type == "Conv" or attributes_of(layer).get("transB", 0) else 1


def _affine_of(graph: FileGraph, layer: onnx.NodeProto, node: onnx.NodeProto) -> Affine | None:
    """What a node does to the layer's result; None where it is something else."""
    if is_standard(node, "BatchNormalization"):
        return _normalization(graph, node)
    if not is_standard(node, "Add", "Sub", "Mul", "Div") or len(set(node.input)) != 2:
        return None
    is_first = node.input[0] == layer.output[0]
    real = float_input(graph, node, 1 if is_first else 0)
    value = None if real is None else _per_channel(real, layer.op_type == "Conv")
    if value is None or (node.op_type == "Div" and not is_first):
        return None
    one, zero = np.float64(1), np.float64(0)
    match node.op_type:
        case "Add":
            return None if not input_of(layer, 2) and is_first and value.size > 1 else Affine(one, value)
        case "Sub":
            return Affine(one, -value) if is_first else Affine(-one, value)
        case "Mul":
            return Affine(value, zero)
    return Affine(1 / value, zero) if (value != 0).all() else None


def _per_channel(values: np.ndarray, is_map: bool) -> np.ndarray | None:
    """One number, or one of each channel, of a constant that is broadcast over a layer's result."""
    if values.size == 1:
        return values.reshape(())
    dims = list(values.shape)
    channel = len(dims) - 3 if is_map else len(dims) - 1
    alone = channel >= 0 and all(size == 1 for k, size in enumerate(dims) if k != channel)
    return values.reshape(-1) if alone else None


def _normalization(graph: FileGraph, node: onnx.NodeProto) -> Affine | None:
    parameters = [float_input(graph, node, index) for index in range(1, 5)]
    if any(values is None for values in parameters) or len(node.output) > 1:
        return None
    scale, shift, mean, variance = (np.asarray(values) for values in parameters)
    factor = scale / np.sqrt(variance + attributes_of(node).get("epsilon", 1e-5))
    return Affine(factor, shift - factor * mean)


def _scale_weights(graph: FileGraph, layer: onnx.NodeProto, weights: onnx.NodeProto, factor: np.ndarray) -> bool:
    """Gives the layer weights times a factor [] or [channels]; false where DequantizeLinear cannot say them."""
    source, clip = clipped_codes(graph, weights)
    codes, scale = graph.array(source), graph.array(weights.input[1])
    axis = _output_axis(layer)
    if codes is None or scale is None or not (np.isfinite(factor).all() and (factor != 0).all()):
        return False
    if scale.size > 1 and int(attributes_of(weights).get("axis", 1)) % codes.ndim != axis:
        return False
    scaled = np.asarray(scale.astype(np.float64) * np.abs(factor), np.float32)
    zeros = graph.array(input_of(weights, 2))
    zeros = np.zeros((), codes.dtype) if zeros is None else zeros
    if zeros.size != scaled.size:
        zeros = np.broadcast_to(zeros.reshape(()), scaled.shape)
    if (factor < 0).any():
        if clip is not None and zeros.any():
            return False
        codes, zeros = _negated(codes, zeros, factor < 0, axis)
        weights = _with_codes(graph, weights, clip, codes)
    attributes: dict[str, Any] = {"axis": axis} if scaled.size > 1 else {}
    parameters = [graph.add_constant(f"{source}/{part}", value) for part, value in (("s", scaled), ("z", zeros))]
    dequantize = graph.make(DEQUANTIZE, [weights.input[0], *parameters], hint=layer.output[0], **attributes)
    layer.input[1] = dequantize.output[0]
    graph.replace([layer], [dequantize, layer])
    return True


def _negated(codes: np.ndarray, zeros: np.ndarray, signs: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and zero points of which those of channels with a sign are negated; codes [...], signs [] or [channels].

    -code where that fits the type and the zero point is 0; else ~code and ~zero_point, whose difference is the negated
    one too and always fits: ~c - ~z = (-c - 1) - (-z - 1).
    """
    along = signs.reshape([-1 if k == axis else 1 for k in range(codes.ndim)]) if signs.size > 1 else signs
    least = np.iinfo(np.int8).min
    if codes.dtype == np.int8 and not zeros.any() and not (along & (codes == least)).any():
        return np.where(along, -codes, codes).astype(codes.dtype), zeros
    return np.where(along, ~codes, codes), np.where(signs, ~zeros, zeros)


def _with_codes(
    graph: FileGraph, weights: onnx.NodeProto, clip: onnx.NodeProto | None, codes: np.ndarray
) -> onnx.NodeProto:
    """A copy of a DequantizeLinear, not in the graph, that reads other codes [...]; its Clip then holds both signs."""
    copy = onnx.NodeProto()
    copy.CopyFrom(weights)
    copy.input[0] = graph.free_name(f"{weights.input[0]}/negated")
    graph.constants[copy.input[0]] = numpy_helper.from_array(codes, copy.input[0])
    if clip is not None:
        limits = [np.asarray(graph.array(input_of(clip, index)), np.int64) for index in (1, 2)]
        reach = np.asarray(max(-int(limits[0]), int(limits[1])), np.int8)
        names = [graph.add_constant(f"{copy.input[0]}/limit", value) for value in (-reach, reach)]
        narrowed = graph.make("Clip", [copy.input[0], *names], hint=copy.input[0])
        copy.input[0] = narrowed.output[0]
        graph.nodes.append(narrowed)
        graph.changed()
    return copy


def _set_bias(graph: FileGraph, layer: onnx.NodeProto, bias: np.ndarray) -> None:
    """Gives the layer a float bias [channels]; a MatMul becomes a Gemm."""
    name = graph.add_constant(f"{layer.output[0]}/bias", np.asarray(bias, np.float32))
    if layer.op_type == "MatMul":
        layer.op_type = "Gemm"
    inputs = [*layer.input[:2], name]
    del layer.input[:]
    layer.input.extend(inputs)
    graph.changed()
