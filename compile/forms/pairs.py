"""Equal quantizers of one value, of which some tools write one for each reader: the first serves all."""

import onnx
from onnx import helper

from compile.forms.graph import DEQUANTIZE, QUANTIZE, FileGraph, is_standard


def merge_quantizers(graph: FileGraph) -> None:
    """Leaves one of all quantizers that read the same value with the same scale, zero point and attributes."""
    graph.sort()
    first: dict[tuple[object, ...], onnx.NodeProto] = {}
    for node in list(graph.nodes):
        if not is_standard(node, QUANTIZE, DEQUANTIZE):
            continue
        equal = first.setdefault(_key(graph, node), node)
        if equal is node or node.output[0] in graph.output_names:
            continue
        graph.nodes = [other for other in graph.nodes if other is not node]
        graph.changed()
        graph.redirect(node.output[0], equal.output[0])


def _key(graph: FileGraph, node: onnx.NodeProto) -> tuple[object, ...]:
    """What two quantizers must have in common: constants count by their value, not by their name."""
    parameters = (_content(graph, name) for name in node.input[1:])
    attributes = sorted((entry.name, str(helper.get_attribute_value(entry))) for entry in node.attribute)
    return (node.op_type, node.input[0], *parameters, *attributes)


def _content(graph: FileGraph, name: str) -> object:
    array = graph.array(name)
    return name if array is None else (str(array.dtype), array.shape, array.tobytes())
