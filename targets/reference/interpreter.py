"""The meaning of an integer graph, in numpy: every kernel, training's evaluation and the bundle must equal it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.reference.graph import Graph
from targets.reference.nodes import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Gather,
    Lookup,
    MaxPool,
    Mul,
    Node,
    Padding,
    Pair,
    Requant,
    Rescale,
    Shortcut,
    Tensor,
)
from targets.reference.pools import area_numbers

Codes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int64]
Values = dict[str, npt.NDArray[Any]]  # codes uint8, or int32 logits, [N, H, W, C] by tensor

SLICE = 8  # pictures at a time: their windows stay in the cache, which halves the time
SLICE_CODES = 1 << 22  # of the largest map in a slice, whose windows take some 300 MB


def run(graph: Graph, pictures: Codes) -> npt.NDArray[np.int32]:
    """Returns logits int32 [N, classes] of pictures uint8 [N, H, W, C]. Raises ValueError for other pictures.

    Where the last tensor holds codes, the logits are code - zero_point; real values are logits * scale either way.
    """
    largest = max(int(np.prod(tensor.shape)) for tensor in graph.tensors.values())
    count = max(1, min(SLICE, SLICE_CODES // largest))
    slices = [run_all(graph, pictures[i : i + count])[0] for i in range(0, max(1, len(pictures)), count)]
    return np.concatenate(slices)


def run_all(graph: Graph, pictures: Codes) -> tuple[npt.NDArray[np.int32], Values]:
    """Returns the logits as `run` does, and every tensor [N, H, W, C] by name. Raises ValueError as `run` does."""
    expected = graph.tensors[graph.input].shape
    if pictures.dtype != np.uint8 or pictures.shape[1:] != expected:
        raise ValueError(
            f"expected pictures uint8 [N, {expected[0]}, {expected[1]}, {expected[2]}], "
            f"got {pictures.dtype} {list(pictures.shape)}"
        )
    values: Values = {graph.input: pictures}
    for node in graph.nodes:
        values[node.output] = compute(graph, node, values)
    output = graph.tensors[graph.output]
    logits = values[graph.output] if output.bits == 32 else _centred(output, values[graph.output])
    classes = int(np.prod(output.shape))
    return logits.reshape(len(pictures), classes).astype(np.int32), values


def compute(graph: Graph, node: Node, values: Values) -> npt.NDArray[Any]:
    """Returns the codes or sums [N, H, W, C] that one node makes of the tensors that it reads, which `values` holds."""
    return _NODES[type(node)](graph, node, values)


def requantize(acc: Sums, r: Requant, zero_point: int, qmin: int, qmax: int) -> Codes:
    """Returns uint8 codes of accumulators int64 [..., C]: floor(acc * ratio + 1/2), zero point added, clamped.

    A tie goes up.
    """
    codes: Codes = np.clip(scale_sums(acc, r) + zero_point, qmin, qmax).astype(np.uint8)
    return codes


def scale_sums(acc: Sums, r: Requant) -> Sums:
    """Returns int64 [..., C] of accumulators int64 [..., C]: floor(acc * ratio + 1/2)."""
    scaled: Sums = ((acc * r.multiplier) >> 31) + (1 << (r.shift - 1)) >> r.shift
    return scaled


def _centred(tensor: Tensor, codes: npt.NDArray[Any]) -> Sums:
    centred: Sums = codes.astype(np.int64) - tensor.zero_points()
    return centred


def _windows(x: npt.NDArray[Any], window: Pair, stride: Pair, dilation: Pair = (1, 1)) -> npt.NDArray[Any]:
    """View [N, OH, OW, C, kH, kW] of the windows of x [N, H, W, C], which reach over `window` rows and columns."""
    every = np.lib.stride_tricks.sliding_window_view(x, window, axis=(1, 2))
    return every[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def _pad(x: npt.NDArray[Any], padding: Padding, value: int = 0) -> npt.NDArray[Any]:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def convolve(x: Sums, conv: Conv) -> Sums:
    """Returns sums int64 [N, OH, OW, O] of centred codes x int64 [N, H, W, I], before shift and bias.

    The products are summed in float64, which is exact: every partial sum is an integer far below 2**53.
    """
    o, kh, kw, i = conv.weight.shape
    windows = _windows(_pad(x, conv.padding).astype(np.float64), conv.window, conv.stride, conv.dilation)
    n, oh, ow = windows.shape[:3]
    sums = []
    for g, weight in enumerate(conv.weight.astype(np.float64).reshape(conv.groups, o // conv.groups, kh * kw * i)):
        rows = windows[:, :, :, g * i : (g + 1) * i].transpose(0, 1, 2, 4, 5, 3).reshape(n * oh * ow, kh * kw * i)
        sums.append(rows @ weight.T)
    return np.concatenate(sums, -1).reshape(n, oh, ow, o).astype(np.int64)


def _conv(graph: Graph, node: Conv, values: Values) -> npt.NDArray[Any]:
    acc = convolve(_centred(graph.tensors[node.input], values[node.input]), node)
    if node.requant is None:
        logits: Sums = acc + node.bias
        return logits
    acc = (acc << node.requant.left) + node.bias
    if node.skip is not None:
        acc = acc + _centred(graph.tensors[node.skip], values[node.skip]) * np.asarray(node.skip_multiplier)
    if graph.tensors[node.output].bits == 32:
        return scale_sums(acc, node.requant)
    return _requantized(graph, node, node.requant, acc)


def _requantized(graph: Graph, node: Conv | Add | Mul | AvgPool | Rescale, requant: Requant, acc: Sums) -> Codes:
    return requantize(acc, requant, graph.tensors[node.output].zero_point[0], node.qmin, node.qmax)


def _add(graph: Graph, node: Add, values: Values) -> Codes:
    a, b = (_centred(graph.tensors[t], values[t]) * m for t, m in zip(node.inputs, node.multipliers, strict=True))
    return _requantized(graph, node, node.requant, (a + b) << node.requant.left)


def _mul(graph: Graph, node: Mul, values: Values) -> Codes:
    a, b = (_centred(graph.tensors[t], values[t]) for t in node.inputs)
    return _requantized(graph, node, node.requant, (a * b) << node.requant.left)


def _avg_pool(graph: Graph, node: AvgPool, values: Values) -> Codes:
    x = _pad(_centred(graph.tensors[node.input], values[node.input]), node.padding)
    acc = _windows(x, node.kernel, node.stride).sum((-1, -2))
    r, number = node.requant, area_numbers(node, graph.tensors[node.input].shape)[..., None]
    ratios = Requant(r.left[number], r.multiplier[number], r.shift[number])  # [OH, OW, 1]
    return _requantized(graph, node, ratios, acc << ratios.left)


def _max_pool(graph: Graph, node: MaxPool, values: Values) -> Codes:
    del graph  # the codes stay as they are
    x = _pad(values[node.input], node.padding)
    codes: Codes = _windows(x, node.window, node.stride, node.dilation).max((-1, -2))
    return codes


def _shortcut(graph: Graph, node: Shortcut, values: Values) -> Codes:
    x, out = values[node.input][:, :: node.stride[0], :: node.stride[1]], graph.tensors[node.output]
    after = out.shape[2] - node.before - x.shape[-1]
    return np.pad(x, ((0, 0), (0, 0), (0, 0), (node.before, after)), constant_values=out.zero_point[0])


def _gather(graph: Graph, node: Gather, values: Values) -> Codes:
    x = values[node.input]
    for axis, index in enumerate((node.rows, node.columns, node.channels), 1):
        zero = np.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), graph.tensors[node.output].zero_point[0], np.uint8)
        x = np.concatenate([x, zero], axis).take(index, axis)  # -1 is the last, the zero point
    return x


def _concat(graph: Graph, node: Concat, values: Values) -> Codes:
    del graph  # the codes stay as they are
    return np.concatenate([values[name] for name in node.inputs], -1)


def _lookup(graph: Graph, node: Lookup, values: Values) -> Codes:
    channels = graph.tensors[node.output].shape[2]
    table = np.broadcast_to(node.table, (channels, node.table.shape[1]))
    codes: Codes = table[np.arange(channels), values[node.input]]
    return codes


def _rescale(graph: Graph, node: Rescale, values: Values) -> Codes:
    acc = _centred(graph.tensors[node.input], values[node.input]) << node.requant.left
    return _requantized(graph, node, node.requant, acc)


_NODES: dict[type[Node], Callable[[Graph, Any, Values], npt.NDArray[Any]]] = {
    Conv: _conv,
    Add: _add,
    Mul: _mul,
    AvgPool: _avg_pool,
    MaxPool: _max_pool,
    Shortcut: _shortcut,
    Gather: _gather,
    Concat: _concat,
    Lookup: _lookup,
    Rescale: _rescale,
}
