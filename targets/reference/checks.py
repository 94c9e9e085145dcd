"""Whether an integer graph can be computed exactly: shapes, ranges and widths, and the proof that nothing overflows."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from targets.reference.nodes import (
    BITS,
    ONE_31,
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
)

Tensors = Mapping[str, Tensor]

ACC_BITS = 30  # |acc| < 2**30, so that adding the rounding half (at most 2**30) stays inside int32


def output_shape(node: Node, shape: tuple[int, int, int], channels: int) -> tuple[int, int, int]:
    """Returns the shape of a node's output for an input [H, W, C]."""
    h, w, _ = shape
    if isinstance(node, (Add, Rescale)):
        return shape
    if isinstance(node, Shortcut):
        return -(-h // node.stride), -(-w // node.stride), channels
    kh, kw = node.weight.shape[1:3] if isinstance(node, Conv) else node.kernel
    top, left, bottom, right = getattr(node, "padding", (0, 0, 0, 0))
    return (h + top + bottom - kh) // node.stride + 1, (w + left + right - kw) // node.stride + 1, channels


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
    _require(min(output_shape(node, x.shape, out.shape[2])) >= 1, node.name, "a window that fits its input", x.shape)
    _require(
        output_shape(node, x.shape, out.shape[2]) == out.shape,
        node.name,
        f"an output of shape {output_shape(node, x.shape, out.shape[2])}",
        out.shape,
    )
    if isinstance(node, Conv):
        _check_conv(tensors, node, x, out)
    elif isinstance(node, (MaxPool, Shortcut)):
        same = (x.bits, x.scale, x.zero_point) == (out.bits, out.scale, out.zero_point)
        _require(same, node.name, "input and output of one scale, zero point and width", (x, out))
        _require(len(x.zero_point) == 1, node.name, "one zero point", x.zero_point)
        if isinstance(node, MaxPool):
            kernel, (top, left, bottom, right) = node.kernel, node.padding
            _require(
                max(top, bottom) < kernel[0] and max(left, right) < kernel[1],
                node.name,
                "padding smaller than its window",
                node.padding,
            )
        else:
            _require(0 <= node.before <= out.shape[2] - x.shape[2], node.name, "room for its channels", node.before)
    else:
        _check_pointwise(tensors, node, x, out)


def _check_conv(tensors: Tensors, node: Conv, x: Tensor, out: Tensor) -> None:
    o, _, _, i = node.weight.shape
    _require(node.weight.dtype == np.int8, node.name, "int8 weight codes", node.weight.dtype)
    _require(node.w_bits in BITS, node.name, f"w_bits in {BITS.start}..{BITS.stop - 1}", node.w_bits)
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
    _require(min(node.padding) >= 0 and node.stride >= 1, node.name, "padding >= 0 and stride >= 1", node.padding)
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
        (node.requant is None) == (out.bits == 32),
        node.name,
        "int32 codes exactly where nothing is requantized",
        out.bits,
    )
    if node.requant is not None:
        _check_requant(node, node.requant, o, out)
    bound = acc_bound(tensors, node)
    _require(bound < 1 << ACC_BITS, node.name, f"an accumulator below 2**{ACC_BITS}", bound)


def _check_pointwise(tensors: Tensors, node: Add | AvgPool | Rescale, x: Tensor, out: Tensor) -> None:
    bound = _reach(x)
    if isinstance(node, Add):
        b = tensors[node.b]
        _require(b.shape == out.shape, node.name, f"operands of {out.shape}", b.shape)
        bound = abs(node.multipliers[0]) * _reach(x) + abs(node.multipliers[1]) * _reach(b)
    elif isinstance(node, AvgPool):
        bound *= node.kernel[0] * node.kernel[1]
    _require(x.shape[2] == out.shape[2], node.name, f"{x.shape[2]} channels", out.shape[2])
    _check_requant(node, node.requant, 1, out)
    bound <<= int(node.requant.left[0])
    _require(bound < 1 << ACC_BITS, node.name, f"an accumulator below 2**{ACC_BITS}", bound)


def _reach(x: Tensor) -> int:
    """Largest |code| + |zero point|: covers both ways to take a zero point off."""
    return x.qmax + int(x.zero_points().max())


def _check_requant(node: Conv | Add | AvgPool | Rescale, r: Requant, channels: int, out: Tensor) -> None:
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
    _require(
        0 <= node.qmin <= node.qmax <= out.qmax, node.name, f"a clamp within 0..{out.qmax}", (node.qmin, node.qmax)
    )
    _require(len(out.zero_point) == 1, node.name, "one zero point of its output", out.zero_point)
