"""Dynamic quantization: the weights' codes are kept, and the ranges of activations, which the file lacks, are refused.

onnxruntime's quantize_dynamic writes DynamicQuantizeLinear, ConvInteger or MatMulInteger, Cast, and a Mul by the
product of both scales. That is the float operator on dequantized weights, but for the rounding of its input.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper

from compile.forms.graph import (
    DEQUANTIZE,
    QUANTIZE,
    FileGraph,
    FormError,
    attributes_of,
    input_of,
    is_standard,
    place_of,
)

FLOAT_KINDS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


def take_dynamic(graph: FileGraph) -> None:
    """Writes integer operators on dynamic codes as float ones on dequantized weights.

    Raises FormError where activations were quantized dynamically, since no range of theirs is in the file; and for
    integer operators in another arrangement.
    """
    integer = [node for node in graph.nodes if is_standard(node, *FLOAT_KINDS)]
    for node in integer:
        _expand(graph, node)
    if integer and not any(is_standard(node, QUANTIZE) for node in graph.nodes):
        raise FormError(
            f"model: expected ranges of activations, got a dynamically quantized network ({len(integer)} layers), "
            "which measures them anew for each picture; build from the float file with --calibrate PICTURES, or "
            "quantize that with onnxruntime.quantization.quantize_static"
        )


def _expand(graph: FileGraph, node: onnx.NodeProto) -> None:
    dynamic = graph.producer(node.input[0])
    cast = graph.only_user(node.output[0])
    product = None if cast is None else graph.only_user(cast.output[0])
    if dynamic is None or dynamic.op_type != "DynamicQuantizeLinear" or cast is None or product is None:
        raise _unknown(node)
    scale = _weight_scale(graph, product, cast.output[0], dynamic.output[1])
    codes = graph.constants.get(node.input[1])
    if scale is None or codes is None or not is_standard(product, "Mul"):
        raise _unknown(node)
    parameters = [graph.add_constant(f"{node.output[0]}/scale", scale)]
    zero_point = graph.array(input_of(node, 3))
    if zero_point is not None:
        zeros = np.broadcast_to(zero_point.reshape(-1), scale.shape) if scale.ndim else zero_point.reshape(())
        parameters.append(graph.add_constant(f"{node.output[0]}/zero_point", zeros))
    axis: dict[str, Any] = {"axis": 0 if node.op_type == "ConvInteger" else 1} if scale.ndim else {}
    weights = graph.make(DEQUANTIZE, [node.input[1], *parameters], hint=node.output[0], **axis)
    inputs = [dynamic.input[0], weights.output[0]]
    kind, kept = FLOAT_KINDS[node.op_type], attributes_of(node)
    layer = helper.make_node(kind, inputs, [product.output[0]], name=node.name or product.output[0], **kept)
    graph.replace([node, cast, product], [weights, layer])


def _weight_scale(graph: FileGraph, product: onnx.NodeProto, sums: str, scale_of_x: str) -> np.ndarray | None:
    """The weights' scale, float32 [] or [channels]: the constant factor beside the activation's own scale."""
    other = next((name for name in product.input if name != sums), "")
    both = graph.producer(other)
    if both is None or not is_standard(both, "Mul") or scale_of_x not in both.input:
        return None
    factor = graph.array(next((name for name in both.input if name != scale_of_x), ""))
    if factor is None:
        return None
    scale = np.asarray(factor, np.float32).reshape(-1)
    return scale.reshape(()) if scale.size == 1 else scale


def _unknown(node: onnx.NodeProto) -> FormError:
    return FormError(
        f"{place_of(node)}: expected DynamicQuantizeLinear before it, Cast and Mul behind, got another arrangement of "
        "integer operators; quantize with onnxruntime.quantization.quantize_static in the QDQ format"
    )
