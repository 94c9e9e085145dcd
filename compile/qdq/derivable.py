"""Whether a graph's integers follow from its float32 scales, which is all that an ONNX file holds of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from targets.reference.graph import Graph
from targets.reference.nodes import BITS, Add, AvgPool, Conv, MaxPool, Node, Requant, Rescale, Shortcut
from targets.reference.scales import add_integers, conv_requant, float32, logit_scale, rescale_requant, skip_multiplier


class ExportError(ValueError):
    """The graph has no exact QDQ form; the message names the node and the formula to use."""


@dataclass(frozen=True, eq=False)
class Derivation:
    """A quantity of a node, the function that gives it, what that gives, and what the node holds."""

    quantity: str
    formula: str
    expected: Any
    actual: Any


def require_derivable(graph: Graph) -> None:
    """Raises ExportError unless every scale is exact in float32 and every requantization follows from the scales."""
    for tensor in graph.tensors.values():
        if float32(tensor.scale) != tensor.scale:
            raise ExportError(
                f"tensor {tensor.name}: expected a scale exact in float32, got {tensor.scale!r}; round it with "
                "targets.reference.scales.float32 before deriving integers from it"
            )
    for node in graph.nodes:
        if not _is_exportable(graph, node):
            raise ExportError(
                f"node {node.name}: expected one that training makes, got a {type(node).__name__} of an imported "
                "file; keep the file that it came from"
            )
        for derivation in _derivations(graph, node):
            if not np.array_equal(derivation.expected, derivation.actual):
                raise ExportError(
                    f"node {node.name}: expected the {derivation.quantity} that {derivation.formula} gives, "
                    f"{_short(derivation.expected)}, got {_short(derivation.actual)}; derive it with that function"
                )


def _is_exportable(graph: Graph, node: Node) -> bool:
    """Whether the node is one that QuantizeLinear and DequantizeLinear around one operator can say."""
    if isinstance(node, Conv):
        is_requantized_logit = node.requant is not None and graph.tensors[node.output].bits == 32
        return node.w_bits in BITS and not is_requantized_logit
    if isinstance(node, AvgPool):
        return not node.areas
    return isinstance(node, Add | MaxPool | Shortcut | Rescale)


def _short(values: Any) -> str:
    return np.array2string(np.asarray(values), threshold=4, edgeitems=2)


def _derivations(graph: Graph, node: Node) -> Iterator[Derivation]:
    if not isinstance(node, Conv | Add | AvgPool | Rescale):
        return
    x, out = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    if isinstance(node, Conv):
        yield from _conv_derivations(graph, node)
    elif isinstance(node, Add):
        multipliers, requant = add_integers(x.scale, graph.tensors[node.b].scale, out.scale)
        yield Derivation("multipliers", "scales.add_integers", multipliers, node.multipliers)
        yield from _requant_derivations(requant, node.requant)
    else:
        area = node.kernel[0] * node.kernel[1] if isinstance(node, AvgPool) else 1
        yield from _requant_derivations(rescale_requant(x.scale, out.scale, area), node.requant)


def _conv_derivations(graph: Graph, node: Conv) -> Iterator[Derivation]:
    x, out, scales = graph.tensors[node.input], graph.tensors[node.output], node.w_scale
    yield Derivation("dtype of w_scale", "the QDQ format", "float32", str(scales.dtype))
    if node.requant is None:
        yield Derivation("one weight scale", "a classifier's quantizer", np.full_like(scales, scales[0]), scales)
        yield Derivation("scale of the logits", "scales.logit_scale", logit_scale(x.scale, scales[0]), out.scale)
        return
    requant = conv_requant(x.scale, scales, out.scale)
    if node.skip is not None:
        units = skip_multiplier(x.scale, scales, requant.left, graph.tensors[node.skip].scale)
        yield Derivation("skip multiplier", "nodes.skip_multiplier", units, node.skip_multiplier)
    yield from _requant_derivations(requant, node.requant)


def _requant_derivations(expected: Requant, actual: Requant) -> Iterator[Derivation]:
    for field in ("left", "multiplier", "shift"):
        formula = "targets/reference/scales.py"
        yield Derivation(f"requant.{field}", formula, getattr(expected, field), getattr(actual, field))
