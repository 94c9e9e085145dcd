"""Numbers of half precision: scales, biases and casts become float32, which holds every one of them exactly."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compile.forms.graph import DEQUANTIZE, QUANTIZE, FileGraph, attributes_of, is_standard

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
FLOATS = (*HALVES, TensorProto.FLOAT, TensorProto.DOUBLE)
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "precision")  # of Cast, ConstantOfShape and others, DQ, Q


def widen_halves(graph: FileGraph) -> None:
    """Turns float16 and bfloat16 into float32 and takes out casts from one float type to another."""
    for name, tensor in graph.constants.items():
        if tensor.data_type in HALVES:
            graph.constants[name] = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name)
    for entry in (*graph.inputs, *graph.outputs):
        if entry.type.tensor_type.elem_type in HALVES:
            entry.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.nodes:
        _widen_attributes(node)
    for node in [node for node in graph.nodes if is_standard(node, "Cast")]:
        if attributes_of(node)["to"] in FLOATS and _is_float(graph, node.input[0]):
            graph.remove(node)


def _widen_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in TYPE_ATTRIBUTES and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t") and attribute.t.data_type in HALVES:
            widened = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(widened, attribute.t.name))
    if is_standard(node, QUANTIZE, DEQUANTIZE):
        kept = [entry for entry in node.attribute if not (entry.name == "precision" and entry.i == TensorProto.FLOAT)]
        del node.attribute[:]
        node.attribute.extend(kept)


def _is_float(graph: FileGraph, name: str) -> bool:
    """Whether a value is of a float type, as far as onnx can tell."""
    return graph.kinds.get(name) in FLOATS
