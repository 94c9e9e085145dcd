"""Computes what does not depend on the picture: shapes, the arithmetic of Reshape's targets, constants of every form.

onnx's own shape inference and reference operators do the computing. Optimizers made for float files (onnxruntime's, the
folder of onnxscript) are not used, because they also fold DequantizeLinear and so lose the codes of weights.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compile.forms.graph import DEQUANTIZE, FileGraph, FormError, attributes_of, input_of, is_standard, place_of

KEPT = (DEQUANTIZE, "Clip")  # on constants these tell the scale and the width of weights
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
PASSED_ON = ("Identity", "Dropout")
MOST_ROUNDS = 10  # of folding, each of which may tell onnx more shapes


def lift_constants(graph: FileGraph) -> None:
    """Turns Constant nodes, whatever form their value has, into constants, and takes out Identity and Dropout.

    Raises FormError for texts and sparse tensors.
    """
    for node in [node for node in graph.nodes if is_standard(node, "Constant")]:
        graph.constants[node.output[0]] = _constant(node)
    graph.nodes = [node for node in graph.nodes if not is_standard(node, "Constant")]
    graph.changed()
    for node in [node for node in graph.nodes if is_standard(node, *PASSED_ON)]:
        graph.remove(node)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    """The tensor that a Constant node holds, under the name of its output."""
    ((name, value),) = attributes_of(node).items()
    tensor = onnx.TensorProto()
    if name == "value":
        tensor.CopyFrom(value)
    elif name in ("value_int", "value_ints"):
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.int64)))
    elif name in ("value_float", "value_floats"):
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32)))
    else:
        raise FormError(f"{place_of(node)}: expected numbers as its value, got {name}; leave it out of the export")
    tensor.name = node.output[0]
    return tensor


def fold_constants(graph: FileGraph) -> None:
    """Computes every operator of constants, and Shape and Size of values whose dimensions are known.

    Codes of weights stay codes: Clip and DequantizeLinear of constants are not computed.
    """
    for _ in range(MOST_ROUNDS):
        graph.infer()
        if not _fold_once(graph):
            return


def _fold_once(graph: FileGraph) -> bool:
    """Whether anything was computed, in one sweep over all nodes."""
    graph.sort()
    kept = []
    for node in graph.nodes:
        values = _values(graph, node)
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=False):
            if name:
                graph.constants[name] = numpy_helper.from_array(np.asarray(value), name)
    is_changed = len(kept) < len(graph.nodes)
    graph.nodes = kept
    graph.changed()
    return is_changed


def _values(graph: FileGraph, node: onnx.NodeProto) -> list[Any] | None:
    """What an operator computes of constants; None where it depends on the picture, or stays for another reason."""
    if is_standard(node, "Shape", "Size") and node.input[0] in graph.shapes:
        shape = np.asarray(graph.shapes[node.input[0]], np.int64)
        attributes = attributes_of(node)
        part = shape[slice(attributes.get("start", 0), attributes.get("end"))]
        return [part if node.op_type == "Shape" else np.asarray(shape.prod(), np.int64)]
    names = [name for name in node.input if name]
    is_constant = all(name in graph.constants for name in names)
    if not is_standard(node, node.op_type) or node.op_type in (*KEPT, *RANDOM) or not is_constant:
        return None
    if any(name in graph.output_names for name in node.output) or any(a.HasField("g") for a in node.attribute):
        return None
    return compute(graph, node)


def compute(graph: FileGraph, node: onnx.NodeProto) -> list[Any]:
    """Returns what a node makes of constants, by onnx's reference operators; raises FormError where they cannot."""
    names = list(dict.fromkeys(name for name in node.input if name))
    unknown = [helper.make_value_info(name, onnx.TypeProto()) for name in names]
    results = [helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name]
    model = helper.make_model(
        helper.make_graph([node], "constant", unknown, results), opset_imports=[helper.make_opsetid("", graph.opset)]
    )
    try:
        values = list(ReferenceEvaluator(model).run(None, {name: graph.array(name) for name in names}))
    except Exception as error:  # onnx's operators in numpy raise errors of any kind at damaged operands
        raise FormError(
            f"{place_of(node)}: expected constants that can be computed, got {type(error).__name__}: {error}; "
            "fold the file's constants before quantizing it (onnxruntime's quant_pre_process)"
        ) from error
    return list(values)


def settle_shapes(graph: FileGraph) -> None:
    """Writes every Reshape, Flatten and Squeeze whose result is [1, everything] as a Flatten from axis 1 on."""
    graph.infer()
    for node in graph.nodes:
        if not is_standard(node, "Reshape", "Flatten", "Squeeze") or node.input[0] in graph.constants:
            continue
        before, after = graph.shapes.get(node.input[0]), graph.shapes.get(node.output[0])
        if before is None or after is None or before[:1] != (1,) or len(after) != 2 or after[0] != 1:
            continue
        flat = helper.make_node("Flatten", [node.input[0]], list(node.output), name=node.name, axis=1)
        node.CopyFrom(flat)
    graph.changed()


def is_scalar(graph: FileGraph, name: str, value: float) -> bool:
    """Whether a name is a constant of one number, and that number."""
    array = graph.array(name)
    return array is not None and array.size == 1 and float(array.reshape(())) == value


def float_input(graph: FileGraph, node: onnx.NodeProto, index: int) -> np.ndarray | None:
    """Returns an input as a constant of floats, float64 [...]; None where it is computed or of integers."""
    name = input_of(node, index)
    tensor = graph.constants.get(name)
    if tensor is None or tensor.data_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return None
    return np.asarray(numpy_helper.to_array(tensor), np.float64)
