"""Weights that are reshaped or transposed between their DequantizeLinear and their layer: the codes are, instead."""

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from compile.forms.folding import compute
from compile.forms.graph import DEQUANTIZE, FileGraph, FormError, attributes_of, input_of, is_standard, place_of

MOVERS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")


def clipped_codes(graph: FileGraph, dequantize: onnx.NodeProto) -> tuple[str, onnx.NodeProto | None]:
    """Returns the name of what a DequantizeLinear reads, before the Clip that narrows it, and that Clip."""
    clip = graph.producer(dequantize.input[0])
    if clip is not None and is_standard(clip, "Clip"):
        return clip.input[0], clip
    return dequantize.input[0], None


def move_codes(graph: FileGraph) -> None:
    """Puts the DequantizeLinear of every constant behind what reshapes or transposes it; raises FormError.

    Scales per channel follow their axis; where that is cut up, the file is refused.
    """
    graph.sort()
    for node in [node for node in graph.nodes if is_standard(node, *MOVERS)]:
        dequantize = graph.producer(node.input[0])
        if dequantize is not None and is_standard(dequantize, DEQUANTIZE):
            codes = graph.array(clipped_codes(graph, dequantize)[0])
            if codes is not None:
                graph.replace([node], _moved(graph, node, dequantize, codes))


def _moved(
    graph: FileGraph, node: onnx.NodeProto, dequantize: onnx.NodeProto, codes: np.ndarray
) -> list[onnx.NodeProto]:
    """The DequantizeLinear of moved codes [...], which computes the node's result, and the Clip before it."""
    name = graph.free_name(f"{dequantize.input[0]}/moved")
    values = _move(graph, node, codes.astype(np.int64)).astype(codes.dtype)
    graph.constants[name] = numpy_helper.from_array(values, name)
    scale = graph.array(dequantize.input[1])
    attributes = {}
    if scale is not None and scale.size > 1:
        axis = int(attributes_of(dequantize).get("axis", 1)) % codes.ndim
        attributes = {"axis": _new_axis(graph, node, codes, axis)}
    return dequantized_codes(graph, dequantize, name, node.output[0], attributes)


def dequantized_codes(
    graph: FileGraph, old: onnx.NodeProto, codes: str, output: str | None, attributes: dict[str, Any]
) -> list[onnx.NodeProto]:
    """Returns a DequantizeLinear of other codes with the parameters of an old one, and the old one's Clip before it.

    output: the name of its result, None for a free one. Both are not in the graph yet.
    """
    _, clip = clipped_codes(graph, old)
    nodes = []
    if clip is not None:
        nodes.append(graph.make("Clip", [codes, *clip.input[1:]], hint=codes))
        codes = nodes[0].output[0]
    return [*nodes, graph.make(DEQUANTIZE, [codes, *old.input[1:]], output, hint=codes, **attributes)]


def _new_axis(graph: FileGraph, node: onnx.NodeProto, codes: np.ndarray, axis: int) -> int:
    """The dimension of the result along which an axis of the codes [...] lies, found by moving its indices."""
    size = codes.shape[axis]
    indices = np.arange(size).reshape([-1 if k == axis else 1 for k in range(codes.ndim)])
    moved = _move(graph, node, np.broadcast_to(indices, codes.shape).copy())
    for k, length in enumerate(moved.shape):
        along = np.arange(size).reshape([-1 if i == k else 1 for i in range(moved.ndim)])
        if length == size and (moved == along).all():
            return k
    raise FormError(
        f"{place_of(node)}: expected scales per channel that stay along one axis, got {list(codes.shape)} with scales "
        f"along axis {axis} made {list(moved.shape)}; quantize these weights with one scale"
    )


def _move(graph: FileGraph, node: onnx.NodeProto, values: np.ndarray) -> np.ndarray:
    """Returns int64 values [...] as the node arranges them."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[0] = graph.add_constant(f"{node.input[0]}/values", values)
    moved = np.asarray(compute(graph, copy)[0])
    del graph.constants[copy.input[0]]
    return moved


def dequantized_constant(graph: FileGraph, name: str) -> np.ndarray | None:
    """Returns the real values, float64 [...], of a constant or of a DequantizeLinear of constants; None for others."""
    array = graph.array(name)
    if array is not None:
        return np.asarray(array, np.float64)
    node = graph.producer(name)
    if node is None or not is_standard(node, DEQUANTIZE):
        return None
    codes, scale = graph.array(clipped_codes(graph, node)[0]), graph.array(node.input[1])
    zero_point = graph.array(input_of(node, 2))
    if codes is None or scale is None:
        return None
    axis = int(attributes_of(node).get("axis", 1))
    shape = [-1 if k == axis % max(1, codes.ndim) else 1 for k in range(codes.ndim)] if scale.size > 1 else []
    zeros = 0.0 if zero_point is None else zero_point.astype(np.float64).reshape(shape if zero_point.size > 1 else [])
    return np.asarray((codes.astype(np.float64) - zeros) * scale.astype(np.float64).reshape(shape))
