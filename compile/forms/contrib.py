"""Quantizers of com.microsoft, which mean what ONNX's own do; codes of more than 8 bits are refused by name."""

import onnx
from onnx import TensorProto

from compile.forms.graph import DEQUANTIZE, MICROSOFT, QUANTIZE, FileGraph, FormError, input_of, place_of, type_name

CODES = (
    *(TensorProto.UINT2, TensorProto.INT2, TensorProto.UINT4, TensorProto.INT4, TensorProto.UINT8, TensorProto.INT8),
    TensorProto.INT32,
)


def take_contrib_quantizers(graph: FileGraph) -> None:
    """Moves quantizers of com.microsoft into the standard domain; raises FormError for codes of other types."""
    for node in graph.nodes:
        if node.op_type not in (QUANTIZE, DEQUANTIZE):
            continue
        _require_codes(graph, node)
        if node.domain == MICROSOFT:
            node.domain = ""


def _require_codes(graph: FileGraph, node: onnx.NodeProto) -> None:
    zero_point = graph.constants.get(input_of(node, 2))
    kind = None if zero_point is None else zero_point.data_type
    if zero_point is None:
        kind = next((entry.i for entry in node.attribute if entry.name == "output_dtype"), None)
    if node.op_type == DEQUANTIZE and node.input[0] in graph.constants:
        kind = graph.constants[node.input[0]].data_type
    if not kind or kind in CODES or (zero_point is None and node.op_type == DEQUANTIZE):
        return
    raise FormError(
        f"{place_of(node)}: expected integer codes of 8 bits at most, got {type_name(kind)}; quantize to 8 bits "
        "(onnxruntime: activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)"
    )
