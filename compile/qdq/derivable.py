"""Whether a graph's integers follow from its float32 scales, which is all that an ONNX file holds of them."""

import numpy as np

from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Node, Shortcut, skip_multiplier
from targets.reference.scales import add_integers, conv_requant, float32, logit_scale, rescale_requant


class ExportError(ValueError):
    """The graph has no exact QDQ form; the message names the node and the formula to use."""


def derived(graph: Graph) -> None:
    """Raises ExportError unless every scale is exact in float32 and every requantization follows from the scales."""
    for t in graph.tensors.values():
        if float32(t.scale) != t.scale:
            raise ExportError(
                f"tensor {t.name}: expected a scale exact in float32, got {t.scale!r}; round it with "
                "targets.reference.scales.float32 before deriving integers from it"
            )
    for node in graph.nodes:
        for what, formula, expected, came in _derivations(graph, node):
            if not np.array_equal(expected, came):
                raise ExportError(
                    f"node {node.name}: expected the {what} that {formula} gives, {_short(expected)}, got "
                    f"{_short(came)}; derive it with that function"
                )


def _short(values) -> str:
    return np.array2string(np.asarray(values), threshold=4, edgeitems=2)


def _derivations(graph: Graph, node: Node):
    """(what, formula, expected, came) of a node; w_scale must be exact in float32 by its type."""
    x, out = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    if isinstance(node, (MaxPool, Shortcut)):
        return
    if isinstance(node, Conv):
        yield "dtype of w_scale", "DESIGN", "float32", str(node.w_scale.dtype)
        if node.requant is None:
            yield (
                "one weight scale",
                "a classifier's quantizer",
                np.full_like(node.w_scale, node.w_scale[0]),
                node.w_scale,
            )
            yield "scale of the logits", "scales.logit_scale", logit_scale(x.scale, node.w_scale[0]), out.scale
            return
        requant = conv_requant(x.scale, node.w_scale, out.scale)
        if node.skip is not None:
            units = skip_multiplier(x.scale, node.w_scale, requant.left, graph.tensors[node.skip].scale)
            yield "skip multiplier", "graph.skip_multiplier", units, node.skip_multiplier
    elif isinstance(node, Add):
        multipliers, requant = add_integers(x.scale, graph.tensors[node.b].scale, out.scale)
        yield "multipliers", "scales.add_integers", multipliers, node.multipliers
    else:
        area = int(np.prod(node.kernel)) if isinstance(node, AvgPool) else 1
        requant = rescale_requant(x.scale, out.scale, area)
    for field in ("left", "multiplier", "shift"):
        yield f"requant.{field}", "targets/reference/scales.py", getattr(requant, field), getattr(node.requant, field)
