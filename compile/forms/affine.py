"""Constants that multiply or are added to a layer's sums, BatchNormalization among them, become its scales and bias.

y = factor * sums + shift is the same layer with its weights' scales times |factor|, the codes of channels with a
negative factor negated, and the bias factor * bias + shift: no code is rounded anew. What stays of rounding is that of
float32 in the new scales.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from compile.forms.folding import float_input
from compile.forms.graph import DEQUANTIZE, FileGraph, attributes_of, input_of, is_standard
from compile.forms.weights import clipped_codes, dequantized_constant

LAYERS = ("Conv", "Gemm", "MatMul")
BYTES = (np.iinfo(np.int8).min, np.iinfo(np.int8).max)


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
    """Gives the layer weights times a factor [] or [channels]; false where their codes cannot be negated."""
    source, clip = clipped_codes(graph, weights)
    codes, scale = graph.array(source), graph.array(weights.input[1])
    zeros = graph.array(input_of(weights, 2))
    axis = _output_axis(layer)
    if codes is None or scale is None or not (np.isfinite(factor).all() and (factor != 0).all()):
        return False
    own_axis = int(attributes_of(weights).get("axis", 1)) % codes.ndim
    if scale.size > 1 and own_axis != axis:
        return False
    signs = np.sign(factor).reshape([-1 if k == axis else 1 for k in range(codes.ndim)] if factor.size > 1 else [])
    negated = codes.astype(np.int64) * signs.astype(np.int64)
    has_zero_point = zeros is not None and bool(np.any(zeros.astype(np.int64)))
    if (signs < 0).any() and (has_zero_point or codes.dtype != np.int8 or negated.max() > BYTES[1]):
        return False
    scaled = np.asarray(scale.astype(np.float64) * np.abs(factor), np.float32)
    names = [weights.input[0], graph.add_constant(f"{weights.input[1]}/scaled", scaled)]
    new = []
    if (signs < 0).any():
        names[0] = graph.free_name(f"{source}/negated")
        graph.constants[names[0]] = numpy_helper.from_array(negated.astype(codes.dtype), names[0])
        new = [] if clip is None else [_mirrored(graph, clip, names[0])]
        names[0] = new[0].output[0] if new else names[0]
    if zeros is not None:
        spread = np.broadcast_to(zeros.reshape(-1) if zeros.size > 1 else zeros.reshape(()), scaled.shape)
        names.append(graph.add_constant(f"{input_of(weights, 2)}/spread", spread))
    attributes = {"axis": axis} if scaled.size > 1 else {}
    new.append(graph.make(DEQUANTIZE, names, hint=layer.output[0], **attributes))
    layer.input[1] = new[-1].output[0]
    graph.replace([layer], [*new, layer])
    return True


def _mirrored(graph: FileGraph, clip: onnx.NodeProto, codes: str) -> onnx.NodeProto:
    """A Clip of negated codes to a range that is as wide on either side, so that it holds both signs."""
    limits = [np.asarray(graph.array(input_of(clip, index)), np.int64) for index in (1, 2)]
    reach = np.asarray(max(-int(limits[0]), int(limits[1])), np.int8)
    names = [graph.add_constant(f"{codes}/{side}", value) for side, value in (("low", -reach), ("high", reach))]
    return graph.make("Clip", [codes, *names], hint=codes)


def _set_bias(graph: FileGraph, layer: onnx.NodeProto, bias: np.ndarray) -> None:
    """Gives the layer a float bias [channels]; a MatMul becomes a Gemm."""
    name = graph.add_constant(f"{layer.output[0]}/bias", np.asarray(bias, np.float32))
    if layer.op_type == "MatMul":
        layer.op_type = "Gemm"
    inputs = [*layer.input[:2], name]
    del layer.input[:]
    layer.input.extend(inputs)
    graph.changed()
