"""Proves where float32 arithmetic gives the very codes that integer requantization gives."""

import numpy as np

from targets.reference.graph import Graph
from targets.reference.nodes import Conv, Requant

EXACT_FLOAT32 = 1 << 24  # integers below it are exact in float32


def float32_scale(requant: Requant, zero: int, qmin: int, qmax: int, reach: np.ndarray) -> np.ndarray | None:
    """Returns the scale float32 [C] with which float32 arithmetic requantizes every integer acc exactly, or None.

    floor(acc * scale + (zero + 1/2)), clamped to qmin..qmax, is then the code for every acc in -reach..reach, int64
    [C], although both operations round to float32. This and the integers' formula never fall as acc grows. So they are
    equal everywhere if they are on either side of each sum where the integers take the next code.
    """
    if reach.max() >= EXACT_FLOAT32:
        return None
    ratio = np.ldexp(requant.multiplier.astype(np.float64), -31 - requant.shift)
    scale = ratio.astype(np.float32)
    levels = np.arange(qmin + 1, qmax + 1)[:, None] - zero

    def integers_reach(acc: np.ndarray) -> np.ndarray:
        return (acc * requant.multiplier + (1 << 30 + requant.shift) >> 31 + requant.shift) >= levels

    def floats_reach(acc: np.ndarray) -> np.ndarray:
        return np.floor(acc.astype(np.float32) * scale + np.float32(zero + 0.5)) - zero >= levels

    first = np.clip(np.ceil((levels - 0.5) / ratio), -reach - 1, reach + 1).astype(np.int64)
    first -= integers_reach(first - 1)  # where the quotient was rounded to the other side of an integer
    first += ~integers_reach(first)
    right = (floats_reach(first) | (first > reach)) & (~floats_reach(first - 1) | (first <= -reach))
    return scale if bool(right.all()) else None


def accumulator_reach(graph: Graph, node: Conv, requant: Requant) -> np.ndarray:
    """Returns int64 [O]: no partial sum of a convolution's accumulator is larger in magnitude."""
    reach = (partial_sums(graph, node, node.weight) << requant.left) + np.abs(node.bias)
    if node.skip is None or node.skip_multiplier is None:
        return reach
    skip = graph.tensors[node.skip]
    zero = skip.zero_points()
    return reach + np.abs(node.skip_multiplier) * np.maximum(zero, skip.qmax - zero)


def partial_sums(graph: Graph, node: Conv, weight: np.ndarray) -> np.ndarray:
    """Returns int64 [O]: the largest magnitude of a partial sum over the inputs of a weight [O, kH, kW, I / groups]."""
    x = graph.tensors[node.input]
    zero = x.zero_points().reshape(node.groups, -1)
    reach = np.repeat(np.maximum(zero, x.qmax - zero), len(weight) // node.groups, axis=0)[:, None, None, :]
    return (np.abs(weight.astype(np.int64)) * reach).sum((1, 2, 3))
