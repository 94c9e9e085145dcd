"""The integer network: what training exports, what compile lowers, and what every kernel must compute.

A graph is a list of nodes (targets/reference/nodes.py) over named tensors of codes; targets/reference/interpreter.py
gives it its meaning, and targets/reference/checks.py proves that it can be computed exactly before anyone sees it.
"""

from dataclasses import dataclass

import numpy as np

from targets.reference.checks import check
from targets.reference.nodes import Conv, Node, Tensor

EIGHT_BY_EIGHT = 8 * 8  # bit operations of one multiply-add of 8-bit weights and activations


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which they can run, over tensors by name; `input` is the picture, `output` the logits."""

    name: str
    tensors: dict[str, Tensor]
    nodes: tuple[Node, ...]
    input: str
    output: str

    def __post_init__(self) -> None:
        check(self.name, self.tensors, self.nodes, self.input, self.output)

    def convs(self) -> list[Conv]:
        """Returns the convolutions, classifier included, in order."""
        return [n for n in self.nodes if isinstance(n, Conv)]

    def bit_config(self) -> dict[str, tuple[int, int]]:
        """Returns layer name -> (w_bits, a_bits), a_bits being the width of the layer's input."""
        return {n.name: (n.w_bits, self.tensors[n.input].bits) for n in self.convs()}


def macs(graph: Graph) -> dict[str, int]:
    """Returns multiply-adds per convolution, for one picture."""
    return {n.name: int(np.prod(graph.tensors[n.output].shape) * np.prod(n.weight.shape[1:])) for n in graph.convs()}


def bit_operations(graph: Graph) -> int:
    """Returns the BitOPs of one picture: multiply-adds, each times the widths of its operands."""
    bits = graph.bit_config()
    return sum(count * bits[name][0] * bits[name][1] for name, count in macs(graph).items())


def relative_cost(graph: Graph) -> float:
    """Returns the BitOPs relative to the same network with 8-bit weights and activations everywhere."""
    return bit_operations(graph) / (EIGHT_BY_EIGHT * sum(macs(graph).values()))
