"""Whether an integer graph can be computed exactly: shapes, ranges and widths, and the proof that nothing overflows."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from targets.reference.nodes import (
    BITS,
    SIGNED_BYTE_BITS,
    Add,
    AvgPool,
    Concat,
    Conv,
    Gather,
    GraphError,
    Lookup,
    MaxPool,
    Mul,
    Node,
    Pair,
    Requant,
    Rescale,
    Shortcut,
    Tensor,
)
from targets.reference.pools import window_areas
from targets.reference.scales import ONE_31

Tensors = Mapping[str, Tensor]

ACC_BITS = 30  # |acc| < 2**30, so that adding the rounding half (at most 2**30) stays inside int32


def output_shape(node: Node, shape: tuple[int, int, int], channels: int) -> tuple[int, int, int]:
    """Returns the shape of a node's output for an input [H, W, C]; channels: those of an output with others."""
    h, w, _ = shape
    match node:
        case Add() | Mul() | Rescale() | Lookup():
            return shape
        case Concat():
            return h, w, channels
        case Gather():
            return len(node.rows), len(node.columns), len(node.channels)
        case Shortcut():
            return -(-h // node.stride[0]), -(-w // node.stride[1]), channels
    window = node.kernel if isinstance(node, AvgPool) else node.window
    top, left, bottom, right = node.padding
    rows, columns = (h + top + bottom - window[0]), (w + left + right - window[1])
    return rows // node.stride[0] + 1, columns // node.stride[1] + 1, channels


def acc_bound(tensors: Tensors, conv: Conv) -> int:
    """Returns the largest |acc| any kernel can meet in a convolution, in any order of summation, with the real weights.

    Covers both ways to treat the zero point: subtracted from the codes, or folded into the bias.
    """
    x, weight = tensors[conv.input], np.abs(conv.weight.astype(np.int64))
    per_group = x.zero_points().reshape(conv.groups, -1)
    out_per_group = weight.shape[0] // conv.groups
    zero = np.repeat(per_group, out_per_group, axis=0)[:, None, None, :]  # [O, 1, 1, I / groups]
    folded = (weight * (x.qmax + zero)).sum((1, 2, 3))
    left = 0 if conv.requant is None else conv.requant.left
    bound = np.ldexp(folded.astype(np.float64), left) + np.abs(conv.bias.astype(np.float64))  # floats cannot wrap round
    if conv.skip is not None and conv.skip_multiplier is not None:
        skip = tensors[conv.skip]
        bound = bound + np.abs(conv.skip_multiplier.astype(np.float64)) * (skip.qmax + skip.zero_points())
    return int(bound.max())


def check(name: str, tensors: Tensors, nodes: Sequence[Node], picture: str, output: str) -> None:
    """Raises GraphError unless shapes, ranges and widths fit and no accumulator can overflow.

    name: of the graph. picture, output: names of the tensors that it reads and gives.
    """
    known = {picture}
    _require(picture in tensors, name, "its input among the tensors", picture)
    for tensor in tensors.values():
        _check_tensor(tensor, output)
    for node in nodes:
        for read in node.inputs:
            _require(read in known, node.name, "inputs computed before it", read)
        _require(node.output in tensors and node.output not in known, node.name, "an output of its own", node.output)
        _check_node(tensors, node)
        known.add(node.output)
    _require(output in known, name, "its output computed by a node", output)


def _require(fits: bool | np.bool_, where: str, expected: str, value: object) -> None:
    if not fits:
        raise GraphError(f"{where}: expected {expected}, got {value}")


def _check_tensor(t: Tensor, output: str) -> None:
    _require(len(t.shape) == 3 and min(t.shape) >= 1, t.name, "a shape [H, W, C]", t.shape)
    _require(np.isfinite(t.scale) and t.scale > 0, t.name, "a positive scale", t.scale)
    if t.bits == 32:
        _require(t.name == output, t.name, "int32 codes only in the output", "an inner tensor")
        return
    _require(t.bits in BITS, t.name, f"a width in {BITS.start}..{BITS.stop - 1}", t.bits)
    _require(len(t.zero_point) in (1, t.shape[2]), t.name, "one zero point, or one per channel", len(t.zero_point))
    _require(all(0 <= z <= t.qmax for z in t.zero_point), t.name, f"zero points in 0..{t.qmax}", t.zero_point)


def _check_node(tensors: Tensors, node: Node) -> None:
    x, out = tensors[node.inputs[0]], tensors[node.output]
    stride = getattr(node, "stride", (1, 1))
    gap = getattr(node, "dilation", (1, 1))
    _require(min(*stride, *gap) >= 1, node.name, "a stride and dilation of at least 1", (stride, gap))
    shape = output_shape(node, x.shape, out.shape[2])
    _require(min(shape) >= 1, node.name, "a window that fits its input", x.shape)
    _require(shape == out.shape, node.name, f"an output of shape {shape}", out.shape)
    match node:
        case Conv():
            _check_conv(tensors, node, x, out)
        case MaxPool() | Shortcut() | Gather() | Concat():
            for name in node.inputs:
                _check_moved(node, tensors[name], out)
            _check_places(tensors, node, x, out)
        case Lookup():
            _check_table(node, x, out)
        case _:
            _check_pointwise(tensors, node, x, out)


def _check_moved(node: Node, x: Tensor, out: Tensor) -> None:
    same = (x.bits, x.scale, x.zero_point) == (out.bits, out.scale, out.zero_point)
    _require(same, node.name, "input and output of one scale, zero point and width", (x, out))
    _require(len(x.zero_point) == 1, node.name, "one zero point", x.zero_point)


def _check_places(tensors: Tensors, node: MaxPool | Shortcut | Gather | Concat, x: Tensor, out: Tensor) -> None:
    match node:
        case MaxPool():
            _check_padding(node, node.window)
        case Shortcut():
            _require(0 <= node.before <= out.shape[2] - x.shape[2], node.name, "room for its channels", node.before)
        case Gather():
            for index, size in zip((node.rows, node.columns, node.channels), x.shape, strict=True):
                inside = all(-1 <= i < size for i in index)
                _require(inside, node.name, f"places in -1..{size - 1}", (min(index), max(index)))
        case Concat():
            shapes = [tensors[name].shape for name in node.inputs]
            _require(len({shape[:2] for shape in shapes}) == 1, node.name, "inputs of one size", shapes)
            _require(sum(s[2] for s in shapes) == out.shape[2], node.name, f"{out.shape[2]} channels", shapes)


def _check_padding(node: MaxPool | AvgPool, window: Pair) -> None:
    top, left, bottom, right = node.padding
    smaller = min(node.padding) >= 0 and max(top, bottom) < window[0] and max(left, right) < window[1]
    _require(smaller, node.name, "padding smaller than its window", node.padding)


def _check_table(node: Lookup, x: Tensor, out: Tensor) -> None:
    table = node.table
    _require(table.dtype == np.uint8 and table.ndim == 2, node.name, "a table uint8 [C, n]", (table.dtype, table.shape))
    fits = len(table) in (1, x.shape[2]) and table.shape[1] == 1 << x.bits
    _require(fits, node.name, f"a table [1 or {x.shape[2]}, {1 << x.bits}]", table.shape)
    _require(int(table.max()) <= out.qmax, node.name, f"codes up to {out.qmax}", int(table.max()))


def _check_conv(tensors: Tensors, node: Conv, x: Tensor, out: Tensor) -> None:
    o, _, _, i = node.weight.shape
    dtype = np.int16 if node.w_bits == SIGNED_BYTE_BITS else np.int8
    _require(node.weight.dtype == dtype, node.name, f"{np.dtype(dtype)} weight codes", node.weight.dtype)
    known = (*BITS, SIGNED_BYTE_BITS)
    _require(node.w_bits in known, node.name, f"w_bits in {known[0]}..{known[-1]}", node.w_bits)
    half = 1 << (node.w_bits - 1)
    _require(
        -half <= node.weight.min() and node.weight.max() < half,
        node.name,
        f"weights of {node.w_bits} bits",
        f"{node.weight.min()}..{node.weight.max()}",
    )
    _require(
        i * node.groups == x.shape[2] and o % node.groups == 0 and o == out.shape[2],
        node.name,
        f"weights for {x.shape[2]} -> {out.shape[2]} channels in {node.groups} groups",
        node.weight.shape,
    )
    _require(min(node.padding) >= 0, node.name, "padding of at least 0", node.padding)
    for array in (node.bias, node.w_scale, *(() if node.skip is None else (node.skip_multiplier,))):
        _require(np.shape(array) == (o,), node.name, f"{o} values per channel", np.shape(array))
    if node.skip is not None:
        _require(
            tensors[node.skip].shape == out.shape,
            node.name,
            f"a residual operand of {out.shape}",
            tensors[node.skip].shape,
        )
        _require(node.requant is not None, node.name, "a requantized sum with its residual operand", "logits")
    _require(
        node.requant is not None or out.bits == 32, node.name, "int32 codes where nothing is requantized", out.bits
    )
    if node.requant is not None:
        _check_ratios(node, node.requant, o)
        if out.bits != 32:
            _check_clamp(node, out)
    bound = acc_bound(tensors, node)
    _require(bound < 1 << ACC_BITS, node.name, f"an accumulator below 2**{ACC_BITS}", bound)


def _check_pointwise(tensors: Tensors, node: Add | Mul | AvgPool | Rescale, x: Tensor, out: Tensor) -> None:
    bound, ratios = _reach(x), 1
    if isinstance(node, Add):
        b = tensors[node.b]
        _require(b.shape == out.shape, node.name, f"operands of {out.shape}", b.shape)
        bound = abs(node.multipliers[0]) * _reach(x) + abs(node.multipliers[1]) * _reach(b)
    elif isinstance(node, Mul):
        b = tensors[node.b]
        fits = b.shape in (out.shape, (1, 1, out.shape[2]))
        _require(fits, node.name, f"an operand of {out.shape} or of one pixel", b.shape)
        bound *= _reach(b)
    elif isinstance(node, AvgPool):
        bound *= node.kernel[0] * node.kernel[1]
        ratios = _check_areas(node, x)
    _require(x.shape[2] == out.shape[2], node.name, f"{x.shape[2]} channels", out.shape[2])
    _check_ratios(node, node.requant, ratios)
    _check_clamp(node, out)
    bound <<= int(node.requant.left.max())
    _require(bound < 1 << ACC_BITS, node.name, f"an accumulator below 2**{ACC_BITS}", bound)


def _reach(x: Tensor) -> int:
    """Largest |code| + |zero point|: covers both ways to take a zero point off."""
    return x.qmax + int(x.zero_points().max())


def _check_areas(node: AvgPool, x: Tensor) -> int:
    """How many ratios the pool needs."""
    _check_padding(node, node.kernel)
    counted = all(0 <= c <= p for c, p in zip(node.counted, node.padding, strict=True))
    _require(counted, node.name, "padding that counts within the padding", node.counted)
    areas = np.unique(window_areas(x.shape[:2], node.kernel, node.stride, node.padding, node.counted))
    expected = tuple(areas.tolist())
    whole = not node.areas and expected == (node.kernel[0] * node.kernel[1],)
    _require(whole or node.areas == expected, node.name, f"the areas {expected}", node.areas)
    return len(areas)


def _check_ratios(node: Node, r: Requant, channels: int) -> None:
    for field in fields(r):
        _require(
            getattr(r, field.name).shape == (channels,),
            node.name,
            f"{channels} values of {field.name}",
            getattr(r, field.name).shape,
        )
    _require(r.left.min() >= 0 and r.left.max() <= 30, node.name, "left in 0..30", r.left)
    _require(
        r.multiplier.min() >= ONE_31 // 2 and r.multiplier.max() < ONE_31,
        node.name,
        "multipliers in 2**30..2**31-1",
        r.multiplier,
    )
    _require(r.shift.min() >= 1 and r.shift.max() <= 31, node.name, "shifts in 1..31", r.shift)


def _check_clamp(node: Conv | Add | Mul | AvgPool | Rescale, out: Tensor) -> None:
    _require(
        0 <= node.qmin <= node.qmax <= out.qmax, node.name, f"a clamp within 0..{out.qmax}", (node.qmin, node.qmax)
    )
    _require(len(out.zero_point) == 1, node.name, "one zero point of its output", out.zero_point)
