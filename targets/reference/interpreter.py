"""The meaning of an integer graph, in numpy: every kernel, training's evaluation and the bundle must equal it."""

import numpy as np

from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Node, Requant, Rescale, Shortcut, Tensor

SLICE = 8  # pictures at a time: their windows stay in the cache, which halves the time


def run(graph: Graph, pictures: np.ndarray, keep: bool = False):
    """Logits int32 [N, classes] of pictures uint8 [N, H, W, C]; with `keep`, every tensor by name as well.

    Where the last tensor holds codes, the logits are code - zero_point; real values are logits * scale either way.
    """
    expected = graph.tensors[graph.input].shape
    if pictures.dtype != np.uint8 or pictures.shape[1:] != expected:
        raise ValueError(
            f"expected pictures uint8 [N, {expected[0]}, {expected[1]}, {expected[2]}], "
            f"got {pictures.dtype} {list(pictures.shape)}"
        )
    if len(pictures) > SLICE and not keep:
        return np.concatenate([run(graph, pictures[i : i + SLICE]) for i in range(0, len(pictures), SLICE)])
    values = {graph.input: pictures}
    for node in graph.nodes:
        values[node.output] = _NODES[type(node)](graph, node, values)
    output = graph.tensors[graph.output]
    logits = values[graph.output] if output.bits == 32 else _centred(output, values[graph.output])
    logits = logits.reshape(len(pictures), -1).astype(np.int32)
    return (logits, values) if keep else logits


def requantize(acc: np.ndarray, r: Requant, zero_point: int, qmin: int, qmax: int) -> np.ndarray:
    """uint8 codes of accumulators int64 [..., C]: `floor(acc * ratio + 1/2)`, ties up, then zero point and clamp."""
    scaled = ((acc * r.multiplier) >> 31) + (1 << (r.shift - 1)) >> r.shift
    return np.clip(scaled + zero_point, qmin, qmax).astype(np.uint8)


def _centred(tensor: Tensor, codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.int64) - tensor.zero_points()


def _windows(x: np.ndarray, kernel: tuple[int, int], stride: int) -> np.ndarray:
    """View [N, OH, OW, C, kH, kW] of the windows of x [N, H, W, C]."""
    return np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))[:, ::stride, ::stride]


def _pad(x: np.ndarray, padding: tuple[int, int, int, int], value: int = 0) -> np.ndarray:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def convolve(x: np.ndarray, conv: Conv) -> np.ndarray:
    """Sums int64 [N, OH, OW, O] of centred codes x int64 [N, H, W, I], before shift and bias.

    The products are summed in float64, which is exact: every partial sum is an integer far below 2**53.
    """
    o, kh, kw, i = conv.weight.shape
    windows = _windows(_pad(x, conv.padding).astype(np.float64), (kh, kw), conv.stride)
    n, oh, ow = windows.shape[:3]
    sums = []
    for g, weight in enumerate(conv.weight.astype(np.float64).reshape(conv.groups, o // conv.groups, kh * kw * i)):
        rows = windows[:, :, :, g * i : (g + 1) * i].transpose(0, 1, 2, 4, 5, 3).reshape(n * oh * ow, kh * kw * i)
        sums.append(rows @ weight.T)
    return np.concatenate(sums, -1).reshape(n, oh, ow, o).astype(np.int64)


def _conv(graph: Graph, node: Conv, values: dict) -> np.ndarray:
    acc = convolve(_centred(graph.tensors[node.input], values[node.input]), node)
    if node.requant is None:
        return acc + node.bias
    acc = (acc << node.requant.left) + node.bias
    if node.skip is not None:
        acc = acc + _centred(graph.tensors[node.skip], values[node.skip]) * node.skip_multiplier
    return _requantized(graph, node, acc)


def _requantized(graph: Graph, node: Node, acc: np.ndarray) -> np.ndarray:
    return requantize(acc, node.requant, graph.tensors[node.output].zero_point[0], node.qmin, node.qmax)


def _add(graph: Graph, node: Add, values: dict) -> np.ndarray:
    acc = sum(_centred(graph.tensors[t], values[t]) * m for t, m in zip(node.inputs, node.multipliers, strict=True))
    return _requantized(graph, node, acc << node.requant.left)


def _avg_pool(graph: Graph, node: AvgPool, values: dict) -> np.ndarray:
    x = _centred(graph.tensors[node.input], values[node.input])
    return _requantized(graph, node, _windows(x, node.kernel, node.stride).sum((-1, -2)) << node.requant.left)


def _max_pool(graph: Graph, node: MaxPool, values: dict) -> np.ndarray:
    return _windows(_pad(values[node.input], node.padding), node.kernel, node.stride).max((-1, -2))


def _shortcut(graph: Graph, node: Shortcut, values: dict) -> np.ndarray:
    x, out = values[node.input][:, :: node.stride, :: node.stride], graph.tensors[node.output]
    after = out.shape[2] - node.before - x.shape[-1]
    return np.pad(x, ((0, 0), (0, 0), (0, 0), (node.before, after)), constant_values=out.zero_point[0])


def _rescale(graph: Graph, node: Rescale, values: dict) -> np.ndarray:
    return _requantized(graph, node, _centred(graph.tensors[node.input], values[node.input]) << node.requant.left)


_NODES = {Conv: _conv, Add: _add, AvgPool: _avg_pool, MaxPool: _max_pool, Shortcut: _shortcut, Rescale: _rescale}
