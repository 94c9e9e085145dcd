"""CPU kernels of sums in plain vector code that LLVM compiles for any CPU; the last rules of x86 and arm.

A rule takes a step and the family's epilogues; `rules` binds the latter.

Channels are the vector lanes, 16 at a time; a ragged last block computes 16 and stores what exists. Convolution weights
are stored [group][block][kh][kw][ci][16 channels].
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues, bound
from targets.cpu.moves import concat, gather, lookup, move
from targets.cpu.pools import average_pool, max_pool
from targets.cpu.vector import LANES, by_blocks, load, over_rows, registers, splat, store
from targets.kernel import Buffers, Exit, Kernel, Rule, Span, Step, is_step_of
from targets.reference.nodes import BITS, Add, Conv, Mul, Rescale
from targets.tables import blocks, padded, two_planes


def rules(epilogues: Epilogues) -> list[Rule]:
    """Returns all of them, each for every step of its kind."""
    every = (conv, add, mul, average_pool, max_pool, rescale, move, gather, concat, lookup, logits)
    return [bound(rule, epilogues) for rule in every]


def conv(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense and grouped convolution: a tile of up to four pixels by 16 channels, one multiply per code and lane."""
    if not is_step_of(step, Conv):
        return None
    node, x = step.node, step.reads[0]
    o, kh, kw, i = node.weight.shape
    per_group, groups = o // node.groups, node.groups
    oh, ow, _ = step.write.tensor.shape
    nb = blocks(per_group)
    tile = min(4, ow)
    epilogue, tail = epilogues.conv(step, groups), per_group - (nb - 1) * LANES
    blocked = _blocked(node, nb)

    def weight_at(buffers: Buffers, index: Any) -> Any:
        low = load(buffers.weights, index)
        return low if node.w_bits in BITS else low + splat(2) * load(buffers.weights, blocked.size + index)

    def block(buffers: Buffers, y: Any, x0: Any, g: Any, b: Any, count: int) -> None:
        acc = registers(tile)
        for p in range(tile):
            T.buffer_store(acc, splat(0), [T.ramp(p * LANES, 1, LANES)])
        with T.grid(kh, kw, i) as (dy, dx, ci):
            w = weight_at(buffers, ((((g * nb + b) * kh + dy) * kw + dx) * i + ci) * LANES)
            row = y * node.stride[0] + dy * node.dilation[0] - node.padding[0]
            for p in range(tile):
                column = (x0 + p) * node.stride[1] + dx * node.dilation[1] - node.padding[1]
                code = buffers.reads[0][x.at(row, column, g * i + ci)]
                at = T.ramp(p * LANES, 1, LANES)
                T.buffer_store(acc, acc[at] + w * splat(code), [at])
        for p in range(tile):
            span = Span(y, x0 + p, g * per_group + b * LANES, count, LANES, column=(g * nb + b) * LANES)
            epilogue.put(acc[T.ramp(p * LANES, 1, LANES)], buffers, span)

    def row(buffers: Buffers, y: Any) -> None:
        with T.grid(-(-ow // tile), groups) as (t, g):
            x0 = T.min(t * tile, ow - tile)  # the last tile of a row overlaps the one before instead of being short
            if nb > 1:
                with T.serial(nb - 1) as b:
                    block(buffers, y, x0, g, b, LANES)
            block(buffers, y, x0, g, nb - 1, tail)

    weights = two_planes(blocked, node.w_bits)
    return Kernel("portable conv", weights, min(node.w_bits, 8), epilogue.table, over_rows(step, row), oh)


def _blocked(node: Conv, nb: int) -> npt.NDArray[Any]:
    """The weights as [group][block][kh][kw][ci][16 channels], zeros in what a last block lacks."""
    o, kh, kw, i = node.weight.shape
    per_group, groups = o // node.groups, node.groups
    weight = np.zeros((groups, nb * LANES, kh, kw, i), node.weight.dtype)
    weight[:, :per_group] = node.weight.reshape(groups, per_group, kh, kw, i)
    return weight.reshape(groups, nb, LANES, kh, kw, i).transpose(0, 1, 3, 4, 5, 2).reshape(-1)


def add(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Two codes times their multipliers."""
    if not is_step_of(step, Add):
        return None
    node, (a, b) = step.node, step.reads
    offsets = -(a.tensor.zero_points() * node.multipliers[0] + b.tensor.zero_points() * node.multipliers[1])
    epilogue: Any = epilogues.ratio(step, offsets, *node.multipliers)

    def block(buffers: Buffers, span: Span) -> None:
        multipliers = [splat(epilogue.value(buffers, k)) for k in range(2)]
        place = (span.y, span.x, span.channel)
        acc = (
            load(buffers.reads[0], a.at(*place)) * multipliers[0]
            + load(buffers.reads[1], b.at(*place)) * multipliers[1]
        )
        epilogue.put(acc, buffers, span)

    return by_blocks("add", step, block, epilogue.table)


def mul(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """The product of two maps, or of a map and one value a channel."""
    if not is_step_of(step, Mul):
        return None
    a, b = step.reads
    zero_points = (a.tensor.zero_point[0], b.tensor.zero_point[0])
    epilogue: Any = epilogues.ratio(step, np.zeros(a.tensor.shape[2], np.int64), *zero_points)
    is_vector = b.tensor.shape[:2] == (1, 1)

    def block(buffers: Buffers, span: Span) -> None:
        y, x = (0, 0) if is_vector else (span.y, span.x)
        first = load(buffers.reads[0], a.at(span.y, span.x, span.channel)) - splat(epilogue.value(buffers, 0))
        second = load(buffers.reads[1], b.at(y, x, span.channel)) - splat(epilogue.value(buffers, 1))
        epilogue.put(first * second, buffers, span)

    return by_blocks("mul", step, block, epilogue.table)


def rescale(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """The same values in another scale or width."""
    if not is_step_of(step, Rescale):
        return None
    (x_layout,) = step.reads
    epilogue = epilogues.ratio(step, -x_layout.tensor.zero_points())

    def block(buffers: Buffers, span: Span) -> None:
        epilogue.put(load(buffers.reads[0], x_layout.at(span.y, span.x, span.channel)), buffers, span)

    return by_blocks("rescale", step, block, epilogue.table)


def logits(step: Step[Any], epilogues: Epilogues) -> Kernel | None:  # noqa: ARG001  (nothing is requantized)
    """Codes less their zero points, as int32."""
    if not is_step_of(step, Exit):
        return None
    (x_layout,) = step.reads

    def block(buffers: Buffers, span: Span) -> None:
        codes = load(buffers.reads[0], x_layout.at(span.y, span.x, span.channel))
        value = codes + load(buffers.table, span.channel)
        store(buffers.writes[0], step.write.at(span.y, span.x, span.channel), value, span.count)

    return by_blocks("logits", step, block, padded(-x_layout.tensor.zero_points()))
