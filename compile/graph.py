"""The integer network: what training exports, what compile lowers, and what every kernel must compute.

A graph is a list of nodes (compile/nodes.py) over named tensors of codes; compile/reference.py gives it its meaning,
and compile/checks.py proves that it can be computed exactly before anyone sees it.
"""

from dataclasses import dataclass

import numpy as np

from compile.checks import acc_bound, check, output_shape
from compile.nodes import (
    BITS,
    CONV_MIN_SHIFT,
    Add,
    AvgPool,
    Conv,
    GraphError,
    MaxPool,
    Node,
    Requant,
    Rescale,
    Shortcut,
    Tensor,
    conv_ratio,
    requant_from_ratio,
    skip_multiplier,
)

__all__ = [
    "BITS", "CONV_MIN_SHIFT", "Add", "AvgPool", "Conv", "Graph", "GraphError", "MaxPool", "Node", "Requant", "Rescale",
    "Shortcut", "Tensor", "acc_bound", "conv_ratio", "macs", "output_shape", "requant_from_ratio", "skip_multiplier",
]


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which they can run, over tensors by name; `input` is the picture, `output` the logits."""

    name: str
    tensors: dict[str, Tensor]
    nodes: tuple[Node, ...]
    input: str
    output: str

    def __post_init__(self):
        check(self)

    def convs(self) -> list[Conv]:
        return [n for n in self.nodes if isinstance(n, Conv)]

    def bit_config(self) -> dict[str, tuple[int, int]]:
        """Layer name -> (w_bits, a_bits), a_bits being the width of the layer's input."""
        return {n.name: (n.w_bits, self.tensors[n.input].bits) for n in self.convs()}


def macs(graph: Graph) -> dict[str, int]:
    """Multiply-adds per convolution, for one picture."""
    return {n.name: int(np.prod(graph.tensors[n.output].shape) * np.prod(n.weight.shape[1:])) for n in graph.convs()}
