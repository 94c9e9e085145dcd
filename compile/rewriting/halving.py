"""Splits weights of 9 bits, as uint8 codes less their zero point are, into the sum of two of 8 bits.

Each runs over the same channels, given twice, so that every fast kernel takes the layer; no code changes.
"""

from dataclasses import replace

import numpy as np

from targets.reference.graph import Graph
from targets.reference.nodes import BITS, Conv, Gather, Node, Tensor


def halved(graph: Graph) -> Graph:
    """Returns the graph with dense layers of 8-bit weights in place of those of 9; tensors [H, W, C] keep their codes.

    Grouped layers, and weights of -255 or 255, stay as they are.
    """
    tensors = dict(graph.tensors)
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Conv) and _is_splittable(node, tensors[node.input]):
            nodes += _halved(node, tensors)
        else:
            nodes.append(node)
    return replace(graph, tensors=tensors, nodes=tuple(nodes))


def _is_splittable(node: Conv, x: Tensor) -> bool:
    """Whether both halves fit 8 bits, and the input, with one zero point, can be copied."""
    is_wide_and_dense = node.w_bits not in BITS and node.groups == 1 and len(x.zero_point) == 1
    return is_wide_and_dense and int(np.abs(node.weight).max()) < 255


def _halved(node: Conv, tensors: dict[str, Tensor]) -> list[Node]:
    """The layer, and the copy of its input's channels before it, whose tensor is added."""
    x = tensors[node.input]
    height, width, channels = x.shape
    twice = replace(x, name=f"{node.name}/twice", shape=(height, width, 2 * channels))
    tensors[twice.name] = twice
    every = tuple(range(channels))
    gather = Gather(twice.name, x.name, twice.name, tuple(range(height)), tuple(range(width)), every + every)
    half = node.weight >> 1
    weight = np.concatenate([half, node.weight - half], axis=-1).astype(np.int8)
    return [gather, replace(node, input=twice.name, weight=weight, w_bits=8)]
