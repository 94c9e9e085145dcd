"""The integer network: what training exports, what compile lowers, and what every kernel must compute.

A graph is a list of nodes over named tensors of unsigned codes, `real = scale * (code - zero_point)`. It holds only
integers and the scales they came from; `compile/reference.py` gives it its meaning.

Ratios of scales become `Requant`, the only rounding rule there is (see `requantize` in the reference):

    acc  = ((sum of w * (x - zero_point)) << left) + bias + (skip - zero_point) * skip_multiplier
    code = clamp(((((acc * multiplier) >> 31) + (1 << (shift - 1))) >> shift) + zero_point, qmin, qmax)
"""

from dataclasses import dataclass, fields

import numpy as np

BITS = range(2, 9)
ACC_BITS = 30  # |acc| < 2**30, so that adding the rounding half (at most 2**30) stays inside int32
ONE_31 = 1 << 31
CONV_MIN_SHIFT = 10  # convolutions keep ten bits below the output code: room for exact biases and skip multipliers


class GraphError(ValueError):
    """The graph cannot be computed exactly; the message names the node, what was expected and what came."""


@dataclass(frozen=True)
class Tensor:
    """Codes of one feature map, [H, W, C] without the batch; uint8 unless `bits` is 32 (logits, int32, one scale)."""

    name: str
    shape: tuple[int, int, int]
    bits: int = 8
    scale: float = 1.0
    zero_point: tuple[int, ...] = (0,)  # one for all channels, or one per channel

    @property
    def qmax(self) -> int:
        return (1 << self.bits) - 1

    def zero_points(self) -> np.ndarray:
        """int64 [C]."""
        return np.broadcast_to(np.asarray(self.zero_point, np.int64), (self.shape[2],))


@dataclass(frozen=True, eq=False)
class Requant:
    """`acc * ratio` with one rounding, ties up: ratio = 2**left * multiplier / 2**(31 + shift), per output channel.

    `left` int64 [C] in 0..30, `multiplier` int64 [C] in 2**30..2**31-1, `shift` int64 [C] in 1..31. Convolutions
    shift their sum left before the bias is added (bias and skip multiplier are in the finer unit); every other node
    shifts its whole accumulator.
    """

    left: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution (dense or grouped) with an optional residual operand; a classifier is a 1x1 one on a 1x1 map.

    weight int8 [O, kH, kW, I / groups] in -2**(w_bits-1) .. 2**(w_bits-1)-1; bias int64 [O] in units of the
    accumulator after `requant.left`; padding (top, left, bottom, right), filled with the input's zero point;
    skip_multiplier int64 [O] where `skip` names a tensor of the output's shape. `requant` None: the output is the
    int32 accumulator itself (logits). w_scale float32 [O] is what the integers were derived from.
    """

    name: str
    input: str
    output: str
    weight: np.ndarray
    w_bits: int
    bias: np.ndarray
    w_scale: np.ndarray
    requant: Requant | None = None
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    qmin: int = 0
    qmax: int = 255
    skip: str | None = None
    skip_multiplier: np.ndarray | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,) if self.skip is None else (self.input, self.skip)


@dataclass(frozen=True, eq=False)
class Add:
    """acc = (a - za) * multipliers[0] + (b - zb) * multipliers[1], then requantized with one ratio for all channels."""

    name: str
    a: str
    b: str
    output: str
    multipliers: tuple[int, int]
    requant: Requant
    qmin: int = 0
    qmax: int = 255

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, eq=False)
class AvgPool:
    """acc = sum of (x - zero_point) over a window without padding; the ratio holds the division by its area."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: int
    requant: Requant
    qmin: int = 0
    qmax: int = 255

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Largest code of a window; padding never wins. Input and output share scale, zero point and bits."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, eq=False)
class Shortcut:
    """Every stride-th pixel, `before` channels of the zero point in front and the rest behind (ResNet's option A)."""

    name: str
    input: str
    output: str
    stride: int = 1
    before: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, eq=False)
class Rescale:
    """The same values in another scale or width: acc = x - zero_point, requantized with one ratio for all channels."""

    name: str
    input: str
    output: str
    requant: Requant
    qmin: int = 0
    qmax: int = 255

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


Node = Conv | Add | AvgPool | MaxPool | Shortcut | Rescale


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


def requant_from_ratio(ratio, min_shift: int = 1) -> Requant:
    """The `Requant` nearest to positive real ratios, with shift >= min_shift reached by shifting left first.

    ratio: float or float64 [C]. min_shift 1 shifts left only for ratios of 1/2 or more. Ratios below 2**-32 send
    every accumulator to the zero point, as does the smallest ratio that can be held, which they become.
    """
    ratio = np.atleast_1d(np.asarray(ratio, np.float64))
    if not (np.isfinite(ratio).all() and (ratio > 0).all()):
        raise GraphError(f"a ratio of scales must be positive and finite, got {ratio.min()} .. {ratio.max()}")
    mantissa, exponent = np.frexp(ratio)
    multiplier = np.rint(mantissa * ONE_31).astype(np.int64)
    carry = multiplier == ONE_31
    multiplier, exponent = np.where(carry, ONE_31 // 2, multiplier), exponent.astype(np.int64) + carry
    left = np.maximum(0, min_shift + exponent)
    shift = left - exponent
    tiny = shift > 31
    return Requant(left, np.where(tiny, ONE_31 // 2, multiplier), np.minimum(shift, 31))


def conv_ratio(x_scale: float, w_scale: np.ndarray, out_scale: float) -> np.ndarray:
    """float64 [O], from scales that are exact in float32: the one formula that training and import share."""
    return np.float64(np.float32(x_scale)) * np.float32(w_scale).astype(np.float64) / np.float64(np.float32(out_scale))


def skip_multiplier(x_scale: float, w_scale: np.ndarray, left: np.ndarray, skip_scale: float) -> np.ndarray:
    """int64 [O]: how many units of the shifted accumulator one code of the residual operand is worth."""
    unit = np.float64(np.float32(x_scale)) * np.float32(w_scale).astype(np.float64) / np.exp2(left)
    return np.rint(np.float64(np.float32(skip_scale)) / unit).astype(np.int64)


def output_shape(node: Node, shape: tuple[int, int, int], channels: int) -> tuple[int, int, int]:
    """Shape of a node's output for an input [H, W, C]."""
    h, w, _ = shape
    if isinstance(node, (Add, Rescale)):
        return shape
    if isinstance(node, Shortcut):
        return -(-h // node.stride), -(-w // node.stride), channels
    kh, kw = node.weight.shape[1:3] if isinstance(node, Conv) else node.kernel
    top, left, bottom, right = getattr(node, "padding", (0, 0, 0, 0))
    return (h + top + bottom - kh) // node.stride + 1, (w + left + right - kw) // node.stride + 1, channels


def macs(graph: Graph) -> dict[str, int]:
    """Multiply-adds per convolution, for one picture."""
    return {n.name: int(np.prod(graph.tensors[n.output].shape) * np.prod(n.weight.shape[1:])) for n in graph.convs()}


def acc_bound(graph: Graph, conv: Conv) -> int:
    """Largest |acc| any kernel can meet in a convolution, in any order of summation, with the real weights.

    Covers both ways to treat the zero point: subtracted from the codes, or folded into the bias.
    """
    x, weight = graph.tensors[conv.input], np.abs(conv.weight.astype(np.int64))
    per_group = x.zero_points().reshape(conv.groups, -1)
    out_per_group = weight.shape[0] // conv.groups
    zero = np.repeat(per_group, out_per_group, axis=0)[:, None, None, :]  # [O, 1, 1, I / groups]
    folded = (weight * x.qmax).sum((1, 2, 3)) + (weight * zero).sum((1, 2, 3))
    left = 0 if conv.requant is None else conv.requant.left
    bound = (folded << left) + np.abs(conv.bias)
    if conv.skip is not None:
        bound = bound + np.abs(conv.skip_multiplier) * graph.tensors[conv.skip].qmax
    return int(bound.max())


def check(graph: Graph) -> None:
    """Raises GraphError unless shapes, ranges and widths fit and no accumulator can overflow."""
    known = {graph.input}
    _require(graph.input in graph.tensors, graph.name, "its input among the tensors", graph.input)
    for tensor in graph.tensors.values():
        _check_tensor(tensor, graph.output)
    for node in graph.nodes:
        for name in node.inputs:
            _require(name in known, node.name, "inputs computed before it", name)
        _require(node.output in graph.tensors and node.output not in known, node.name, "an output of its own", node.output)
        _check_node(graph, node)
        known.add(node.output)
    _require(graph.output in known, graph.name, "its output computed by a node", graph.output)


def _require(fits: bool, where: str, expected: str, came) -> None:
    if not fits:
        raise GraphError(f"{where}: expected {expected}, got {came}")


def _check_tensor(t: Tensor, output: str) -> None:
    _require(len(t.shape) == 3 and min(t.shape) >= 1, t.name, "a shape [H, W, C]", t.shape)
    _require(np.isfinite(t.scale) and t.scale > 0, t.name, "a positive scale", t.scale)
    if t.bits == 32:
        _require(t.name == output, t.name, "int32 codes only in the output", "an inner tensor")
        return
    _require(t.bits in BITS, t.name, f"a width in {BITS.start}..{BITS.stop - 1}", t.bits)
    _require(len(t.zero_point) in (1, t.shape[2]), t.name, "one zero point, or one per channel", len(t.zero_point))
    _require(all(0 <= z <= t.qmax for z in t.zero_point), t.name, f"zero points in 0..{t.qmax}", t.zero_point)


def _check_node(graph: Graph, node: Node) -> None:
    x, out = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    _require(min(output_shape(node, x.shape, out.shape[2])) >= 1, node.name, "a window that fits its input", x.shape)
    _require(output_shape(node, x.shape, out.shape[2]) == out.shape, node.name,
             f"an output of shape {output_shape(node, x.shape, out.shape[2])}", out.shape)
    if isinstance(node, Conv):
        _check_conv(graph, node, x, out)
    elif isinstance(node, (MaxPool, Shortcut)):
        same = (x.bits, x.scale, x.zero_point) == (out.bits, out.scale, out.zero_point)
        _require(same, node.name, "input and output of one scale, zero point and width", (x, out))
        _require(len(x.zero_point) == 1, node.name, "one zero point", x.zero_point)
        if isinstance(node, MaxPool):
            kernel, (top, left, bottom, right) = node.kernel, node.padding
            _require(max(top, bottom) < kernel[0] and max(left, right) < kernel[1], node.name,
                     "padding smaller than its window", node.padding)
        else:
            _require(0 <= node.before <= out.shape[2] - x.shape[2], node.name, "room for its channels", node.before)
    else:
        _check_pointwise(graph, node, x, out)


def _check_conv(graph: Graph, node: Conv, x: Tensor, out: Tensor) -> None:
    o, _, _, i = node.weight.shape
    _require(node.weight.dtype == np.int8, node.name, "int8 weight codes", node.weight.dtype)
    _require(node.w_bits in BITS, node.name, f"w_bits in {BITS.start}..{BITS.stop - 1}", node.w_bits)
    half = 1 << (node.w_bits - 1)
    _require(-half <= node.weight.min() and node.weight.max() < half, node.name,
             f"weights of {node.w_bits} bits", f"{node.weight.min()}..{node.weight.max()}")
    _require(i * node.groups == x.shape[2] and o % node.groups == 0 and o == out.shape[2], node.name,
             f"weights for {x.shape[2]} -> {out.shape[2]} channels in {node.groups} groups", node.weight.shape)
    _require(min(node.padding) >= 0 and node.stride >= 1, node.name, "padding >= 0 and stride >= 1", node.padding)
    for array in (node.bias, node.w_scale) + (() if node.skip is None else (node.skip_multiplier,)):
        _require(array.shape == (o,), node.name, f"{o} values per channel", array.shape)
    if node.skip is not None:
        _require(graph.tensors[node.skip].shape == out.shape, node.name, f"a residual operand of {out.shape}",
                 graph.tensors[node.skip].shape)
        _require(node.requant is not None, node.name, "a requantized sum with its residual operand", "logits")
    _require((node.requant is None) == (out.bits == 32), node.name, "int32 codes exactly where nothing is requantized", out.bits)
    if node.requant is not None:
        _check_requant(node, node.requant, o, out)
    _require(acc_bound(graph, node) < 1 << ACC_BITS, node.name, f"an accumulator below 2**{ACC_BITS}", acc_bound(graph, node))


def _check_pointwise(graph: Graph, node: Add | AvgPool | Rescale, x: Tensor, out: Tensor) -> None:
    bound = x.qmax
    if isinstance(node, Add):
        b = graph.tensors[node.b]
        _require(b.shape == out.shape, node.name, f"operands of {out.shape}", b.shape)
        bound = abs(node.multipliers[0]) * x.qmax + abs(node.multipliers[1]) * b.qmax
    elif isinstance(node, AvgPool):
        bound = x.qmax * node.kernel[0] * node.kernel[1]
    _require(x.shape[2] == out.shape[2], node.name, f"{x.shape[2]} channels", out.shape[2])
    _check_requant(node, node.requant, 1, out)
    bound <<= int(node.requant.left[0])
    _require(bound < 1 << ACC_BITS, node.name, f"an accumulator below 2**{ACC_BITS}", bound)


def _check_requant(node: Node, r: Requant, channels: int, out: Tensor) -> None:
    for field in fields(r):
        _require(getattr(r, field.name).shape == (channels,), node.name, f"{channels} values of {field.name}",
                 getattr(r, field.name).shape)
    _require(0 <= r.left.min() and r.left.max() <= 30, node.name, "left in 0..30", r.left)
    _require(ONE_31 // 2 <= r.multiplier.min() and r.multiplier.max() < ONE_31, node.name,
             "multipliers in 2**30..2**31-1", r.multiplier)
    _require(1 <= r.shift.min() and r.shift.max() <= 31, node.name, "shifts in 1..31", r.shift)
    _require(0 <= node.qmin <= node.qmax <= out.qmax, node.name, f"a clamp within 0..{out.qmax}", (node.qmin, node.qmax))
    _require(len(out.zero_point) == 1, node.name, "one zero point of its output", out.zero_point)
