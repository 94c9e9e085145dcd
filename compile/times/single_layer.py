"""A network around one layer: random weights of its shape and bits, and readers that give its outputs their borders."""

import numpy as np

from targets.costs.shapes import Shape, parse_bits
from targets.reference.graph import Graph
from targets.reference.nodes import (
    BITS,
    NO_PADDING,
    Add,
    AvgPool,
    Concat,
    Conv,
    Gather,
    Lookup,
    MaxPool,
    Mul,
    Node,
    Rescale,
    Shortcut,
    Tensor,
    reach,
)
from targets.reference.pools import window_areas
from targets.reference.scales import add_integers, conv_requant, float32, rescale_requant, skip_multiplier

LAYER = "layer"  # the name of the node in question; "picture" and "logits" are steps of every network
SIGMAS = 3.5  # standard deviations of weights within their range, as training leaves them: they decide int16 chains


def single(shape: Shape, bits: str) -> tuple[Graph, str]:
    """The graph, and the name of the call that is the layer."""
    w_bits, a_bits = parse_bits(bits)
    nodes = _Nodes(shape.input, a_bits)
    if shape.kind == "picture":
        return nodes.finish([("picture:codes", shape.borders[0])]), "picture"
    if shape.kind == "logits":
        return nodes.graph(nodes.rescale("codes", nodes.tensors["picture:codes"], a_bits)), "logits"
    out = nodes.layer(shape, w_bits or 8, a_bits)
    if shape.kind == "linear":
        return nodes.graph(out), LAYER
    copies = [nodes.rescale(f"copy{i}", nodes.tensors[out], 4) for i in range(len(shape.borders) - 1)]
    return nodes.finish(list(zip((out, *copies), shape.borders, strict=True))), LAYER


class _Nodes:
    """Nodes over tensors of scale 1 or near, in running order; each method appends and returns its output's name."""

    def __init__(self, shape: tuple[int, int, int], bits: int):
        self.rng = np.random.default_rng(0)
        self.nodes: list[Node] = []
        self.tensors = {"picture:codes": Tensor("picture:codes", shape, bits)}

    def layer(self, shape: Shape, w_bits: int, a_bits: int) -> str:
        x = self.tensors["picture:codes"]
        wide = shape.skip or len(shape.borders) > 1 or shape.kind == "add"  # streams have 8 bits
        out = Tensor(LAYER, shape.output, 8 if wide else a_bits)
        if shape.kind == "linear":
            return self.conv(LAYER, x, Tensor(LAYER, shape.output, 32), shape, w_bits)
        if shape.kind in ("conv", "depthwise", "grouped"):
            skip = self.conv("other", x, Tensor("other", out.shape, 8), shape, w_bits) if shape.skip else None
            return self.conv(LAYER, x, out, shape, w_bits, skip)
        if shape.kind == "add":
            other = self.rescale("other", x, a_bits)
            multipliers, requant = add_integers(x.scale, self.tensors[other].scale, 2.0)
            out = Tensor(LAYER, out.shape, 8, 2.0)
            return self._append(Add(LAYER, x.name, other, LAYER, multipliers, requant), out)
        if shape.kind == "average-pool":
            return self._append(_average_pool(shape, x, out), out)
        if shape.kind == "max-pool":
            padding = _padding(shape)
            return self._append(MaxPool(LAYER, x.name, LAYER, shape.kernel, shape.stride, padding, shape.dilation), out)
        if shape.kind == "shortcut":
            before = (shape.output[2] - shape.input[2]) // 2
            return self._append(Shortcut(LAYER, x.name, LAYER, shape.stride, before), Tensor(LAYER, out.shape, a_bits))
        if shape.kind in ("mul", "gather", "concat", "lookup"):
            return self.of_foreign_networks(shape, x)
        return self.rescale(LAYER, x, 8)

    def of_foreign_networks(self, shape: Shape, x: Tensor) -> str:
        """Products, tables, and copies of codes, which share scale and width with what they copy."""
        out = Tensor(LAYER, shape.output, x.bits)
        if shape.kind == "mul":
            return self._append(
                Mul(LAYER, x.name, self.rescale("other", x, x.bits), LAYER, rescale_requant(1, 255), 0, x.qmax), out
            )
        if shape.kind == "lookup":
            table = self.rng.integers(0, x.qmax + 1, (1, x.qmax + 1)).astype(np.uint8)
            return self._append(Lookup(LAYER, x.name, LAYER, table), out)
        if shape.kind == "gather":
            return self._append(_gather(LAYER, x, shape.output), out)
        rest = (*shape.output[:2], shape.output[2] - shape.input[2])
        other = self._append(_gather("other", x, rest), Tensor("other", rest, x.bits))
        return self._append(Concat(LAYER, (x.name, other), LAYER), out)

    def conv(self, name: str, x: Tensor, out: Tensor, shape: Shape, w_bits: int, skip: str | None = None) -> str:
        half, channels = 1 << (w_bits - 1), shape.output[2]
        size = (channels, *shape.kernel, shape.input[2] // shape.groups)
        weight = (
            self.rng.normal(0, half / SIGMAS, size)
            .round()
            .clip(-half, half - 1)
            .astype(np.int8 if w_bits in BITS else np.int16)
        )
        bound = max(1, int(np.abs(weight.astype(np.int64)).sum((1, 2, 3)).max())) * x.qmax
        w_scale = np.full(channels, 1 / bound, np.float32)
        requant = units = None
        if out.bits != 32:
            scale = float32(1 / out.qmax)
            out, requant = Tensor(name, out.shape, out.bits, scale), conv_requant(x.scale, w_scale, scale)
            units = None if skip is None else skip_multiplier(x.scale, w_scale, requant.left, self.tensors[skip].scale)
        node = Conv(
            name,
            x.name,
            name,
            weight,
            w_bits,
            np.zeros(channels, np.int64),
            w_scale,
            requant,
            shape.stride,
            _padding(shape),
            shape.groups,
            0,
            min(out.qmax, 255),
            skip,
            units,
            shape.dilation,
        )
        return self._append(node, out)

    def rescale(self, name: str, x: Tensor, bits: int) -> str:
        out = Tensor(name, x.shape, bits, float32(x.scale * x.qmax / ((1 << bits) - 1)))
        return self._append(Rescale(name, x.name, name, rescale_requant(x.scale, out.scale), 0, out.qmax), out)

    def finish(self, written: list[tuple[str, int]]) -> Graph:
        """A depthwise reader for each (tensor, border)."""
        for name, border in written:
            x, side = self.tensors[name], 2 * border + 1
            reader = Shape("depthwise", (side, side), (1, 1), x.shape, x.shape, x.shape[2])
            self.conv(f"{name}:reader", x, Tensor("", x.shape, 8), reader, 2)
        return self.graph(self.nodes[-1].output)

    def graph(self, output: str) -> Graph:
        return Graph(LAYER, self.tensors, tuple(self.nodes), "picture:codes", output)

    def _append(self, node: Node, out: Tensor) -> str:
        self.nodes.append(node)
        self.tensors[node.output] = Tensor(node.output, out.shape, out.bits, out.scale)
        return node.output


def _average_pool(shape: Shape, x: Tensor, out: Tensor) -> AvgPool:
    """Divides by the pixels inside the map where a window reaches over its edge."""
    padding = _padding(shape)
    every = window_areas(shape.input[:2], shape.kernel, shape.stride, padding, NO_PADDING)
    areas = np.unique(every)
    requant = rescale_requant(x.scale, 1.0, areas.astype(np.float64))
    limits = (0, out.qmax)
    some = tuple(areas.tolist()) if any(padding) else ()
    return AvgPool(LAYER, x.name, LAYER, shape.kernel, shape.stride, requant, *limits, padding, NO_PADDING, some)


def _gather(name: str, x: Tensor, size: tuple[int, int, int]) -> Gather:
    """Indices spread evenly over the map."""
    rows, columns, channels = (tuple(i * n // m for i in range(m)) for n, m in zip(x.shape, size, strict=True))
    return Gather(name, x.name, name, rows, columns, channels)


def _padding(shape: Shape) -> tuple[int, int, int, int]:
    """What the output's size takes, as even as it can be."""
    window = reach(shape.kernel, shape.dilation)
    rows, columns = (
        max(0, (o - 1) * s + k - i)
        for i, o, k, s in zip(shape.input[:2], shape.output[:2], window, shape.stride, strict=True)
    )
    return rows // 2, columns // 2, rows - rows // 2, columns - columns // 2
