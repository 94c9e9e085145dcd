"""Maps in NHWC inside a network: a Transpose before a Flatten and a dense layer becomes a permutation of the weights.

Keras flattens maps as [H, W, C]; what converts its files to ONNX writes a Transpose, a Reshape and a MatMul for that.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compile.forms.graph import DEQUANTIZE, QUANTIZE, FileGraph, attributes_of, input_of, is_standard
from compile.forms.weights import clipped_codes, dequantized_codes

TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
ONE_BY_ONE = (QUANTIZE, DEQUANTIZE, "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh")
AXES_AS_INPUT = 18  # the opset from which on ReduceMean's axes are an input
FLATTENERS = ("Reshape", "Flatten")


@dataclass
class Region:
    """The nodes behind a Transpose to NHWC that can do without it, and what must change there."""

    shape: tuple[int, int, int]  # height, width, channels
    dense: list[onnx.NodeProto] = field(default_factory=list)
    back: list[onnx.NodeProto] = field(default_factory=list)
    means: list[onnx.NodeProto] = field(default_factory=list)


def remove_transposes(graph: FileGraph) -> None:
    """Takes out every Transpose to NHWC inside the network whose readers can be changed to take NCHW."""
    graph.infer()
    graph.sort()
    for node in list(graph.nodes):
        shape = graph.shapes.get(node.input[0]) if is_standard(node, "Transpose") else None
        if shape is None or len(shape) != 4 or attributes_of(node).get("perm") != TO_NHWC:
            continue
        region = Region((shape[2], shape[3], shape[1]))
        if _explore(graph, node, region):
            _apply(graph, node, region)


def _explore(graph: FileGraph, transpose: onnx.NodeProto, region: Region) -> bool:
    """Whether all that reads the Transpose's result can take NCHW; fills the region."""
    waiting, seen = [(transpose.output[0], False)], set()
    while waiting:
        name, is_flat = waiting.pop()
        if name in graph.output_names:
            return False
        for user in graph.users(name):
            if id(user) in seen:
                continue
            seen.add(id(user))
            is_flat_now = _pass(graph, user, name, is_flat, region)
            if is_flat_now is None:
                return False
            if user not in (*region.dense, *region.back, *region.means):
                waiting.append((user.output[0], is_flat_now))
    return True


def _pass(graph: FileGraph, user: onnx.NodeProto, name: str, is_flat: bool, region: Region) -> bool | None:
    """Whether the value is flat behind a node; None where the node needs NHWC."""
    if user.input[0] != name:
        return None
    if is_standard(user, *ONE_BY_ONE):
        parameters = graph.array(input_of(user, 1))
        return is_flat if parameters is None or parameters.size == 1 else None
    if is_standard(user, *FLATTENERS) and not is_flat:
        return True if graph.shapes.get(user.output[0]) == (1, int(np.prod(region.shape))) else None
    if is_standard(user, "MatMul", "Gemm") and is_flat and _permuted(graph, user, region.shape) is not None:
        region.dense.append(user)
        return True
    if is_standard(user, "Transpose") and not is_flat and attributes_of(user).get("perm") == TO_NCHW:
        region.back.append(user)
        return False
    is_mean = is_standard(user, "ReduceMean") and not is_flat and _mean_axes(graph, user) == [1, 2]
    if is_mean and not attributes_of(user).get("keepdims", 1):
        region.means.append(user)
        return True
    return None


def _mean_axes(graph: FileGraph, node: onnx.NodeProto) -> list[int] | None:
    axes = attributes_of(node).get("axes")
    array = graph.array(input_of(node, 1))
    values = axes if array is None else array.reshape(-1).tolist()
    return None if values is None else sorted(int(axis) % 4 for axis in values)


def _permuted(graph: FileGraph, layer: onnx.NodeProto, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The codes of a dense layer for inputs in the order of NCHW; None for weights of another form."""
    attributes = attributes_of(layer)
    weights = graph.producer(layer.input[1])
    if weights is None or not is_standard(weights, DEQUANTIZE) or attributes.get("transA", 0):
        return None
    codes, scale = graph.array(clipped_codes(graph, weights)[0]), graph.array(weights.input[1])
    axis = 1 if attributes.get("transB", 0) else 0
    if codes is None or codes.ndim != 2 or scale is None or codes.shape[axis] != int(np.prod(shape)):
        return None
    if scale.size > 1 and int(attributes_of(weights).get("axis", 1)) % 2 == axis:
        return None
    order = np.arange(codes.shape[axis]).reshape(shape).transpose(2, 0, 1).reshape(-1)
    return np.take(codes, order, axis)


def _apply(graph: FileGraph, transpose: onnx.NodeProto, region: Region) -> None:
    for layer in region.dense:
        _set_codes(graph, layer, region.shape)
    for node in region.means:
        _mean_of_nchw(graph, node)
    for node in (*region.back, transpose):
        graph.remove(node)


def _mean_of_nchw(graph: FileGraph, node: onnx.NodeProto) -> None:
    """Lets a ReduceMean that drops its axes work along those of [N, C, H, W]."""
    mean = helper.make_node("ReduceMean", [node.input[0]], list(node.output), name=node.name, keepdims=0)
    if graph.opset < AXES_AS_INPUT:
        mean.attribute.append(helper.make_attribute("axes", [2, 3]))
    else:
        mean.input.append(graph.add_constant(f"{node.output[0]}/axes", np.asarray([2, 3], np.int64)))
    node.CopyFrom(mean)


def _set_codes(graph: FileGraph, layer: onnx.NodeProto, shape: tuple[int, int, int]) -> None:
    """Gives a dense layer a DequantizeLinear of permuted codes of its own: others may read the old one."""
    codes = _permuted(graph, layer, shape)
    weights = graph.producer(layer.input[1])
    if codes is None or weights is None:
        return
    name = graph.free_name(f"{weights.input[0]}/nchw")
    graph.constants[name] = numpy_helper.from_array(codes, name)
    new = dequantized_codes(graph, weights, name, None, attributes_of(weights))
    layer.input[1] = new[-1].output[0]
    graph.replace([layer], [*new, layer])
