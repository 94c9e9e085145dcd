"""Preprocessing that a file does itself before its first QuantizeLinear: a cast of uint8, factors and shifts.

They are taken out of the graph and told as numbers, since an integer network reads the uint8 picture: its first
QuantizeLinear and all before it are one function of 256 values.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from compile.forms.folding import float_input
from compile.forms.graph import FileGraph, FormError, attributes_of, is_standard, place_of


@dataclass(frozen=True)
class Preprocessing:
    """What a file makes of its picture x: factor * x + shift, with one number or one of each channel.

    of_uint8: whether x are the values 0..255 of a uint8 picture, else those of the float picture that the file takes.
    """

    factor: tuple[float, ...]
    shift: tuple[float, ...]
    of_uint8: bool


def take_preprocessing(graph: FileGraph) -> Preprocessing | None:
    """Takes the file's own preprocessing out of the graph, whose picture is float from then on; None where it has none.

    Raises FormError for a factor that is not positive.
    """
    if len(graph.inputs) != 1:
        return None
    entry = graph.inputs[0]
    of_uint8 = entry.type.tensor_type.elem_type == TensorProto.UINT8
    factor, shift = np.ones(1), np.zeros(1)
    taken: list[onnx.NodeProto] = []
    name = entry.name
    while (node := graph.only_user(name)) is not None:
        name = node.output[0]
        if is_standard(node, "Transpose", "Reshape", "Flatten"):
            continue
        step = _step(graph, node)
        if step is None:
            break
        factor, shift = factor * step[0], shift * step[0] + step[1]
        taken.append(node)
    is_cast = bool(taken) and is_standard(taken[0], "Cast")
    if not taken or of_uint8 != is_cast:
        return None
    if (factor <= 0).any():
        raise FormError(f"{place_of(taken[-1])}: expected a positive factor on the picture, got {factor.tolist()}")
    for node in taken:
        _take_out(graph, node)
    entry.type.tensor_type.elem_type = TensorProto.FLOAT
    return Preprocessing(tuple(factor.tolist()), tuple(shift.tolist()), of_uint8)


def _step(graph: FileGraph, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray] | None:
    """The factor and shift [1 or channels] of one operator; None for another one."""
    one, zero = np.ones(1), np.zeros(1)
    if is_standard(node, "Cast"):
        return (one, zero) if attributes_of(node)["to"] == TensorProto.FLOAT else None
    if not is_standard(node, "Add", "Sub", "Mul", "Div") or len(node.input) != 2:
        return None
    right, left = float_input(graph, node, 1), float_input(graph, node, 0)
    value = right if right is not None else left
    if value is None or max(value.shape, default=1) != value.size:
        return None
    value = value.reshape(-1)
    match node.op_type:
        case "Add":
            return one, value
        case "Mul":
            return value, zero
        case "Sub":
            return (one, -value) if right is not None else (-one, value)
    return (1 / value, zero) if right is not None and (value != 0).all() else None


def _take_out(graph: FileGraph, node: onnx.NodeProto) -> None:
    """Removes an operator; what it reads that is no constant goes to its readers."""
    source = next(name for name in node.input if name not in graph.constants)
    graph.nodes = [other for other in graph.nodes if other is not node]
    graph.changed()
    graph.redirect(node.output[0], source)
