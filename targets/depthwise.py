"""Depthwise convolution on a CPU's vectors: lanes are channels, and a tile is several neighbouring pixels of a row.

A route says how one pixel's taps are summed. It splits them into terms of one, two or four taps that one instruction
multiplies at once, their codes interleaved channel by channel; a vector of codes is made once a tile and serves every
pixel that needs it. Where products are added in int16, terms form groups: the sums of a group are widened to int32
before they could leave int16, which is decided from the layer's real weights and the range of the codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from compile.graph import Conv
from targets.epilogue import Epilogues
from targets.kernel import Kernel, Step
from targets.vector import LANES, blocks, over_rows

INT16 = (-(1 << 15), (1 << 15) - 1)
TILE = 4  # pixels

Tap = tuple[int, int]  # row and column of the kernel
Term = tuple[Tap | None, ...]  # None: some code or other, with weight 0


@dataclass(frozen=True, eq=False)
class Route:
    """How a pixel's terms are summed.

    groups: terms in an order of ascending columns. places: how many taps a term has room for, weights of the rest being
    0. offset: taken off every code. filters(w): what `multiply` takes, from the term's int8 weights [channel][place].
    codes(xs): what it takes from the codes uint8x16 of the term's taps.
    multiply(sums, codes, filters, group): adds a term to a group's sums, which are None at first. widen(sums): int32x16.
    starts: int64 [groups, channels], what the sums begin with, for routes that ask for it.
    """

    name: str
    groups: Sequence[Sequence[Term]]
    places: int
    offset: int
    filters: Callable[[Any], Any]
    codes: Callable[[Sequence[Any]], Any]
    multiply: Callable[[Any, Any, Any, Any], Any]
    widen: Callable[[Any], Any]
    starts: np.ndarray | None = None


def applies(step: Step) -> bool:
    """One filter a channel."""
    node = step.node
    return isinstance(node, Conv) and node.groups > 1 and node.weight.shape[::3] == (node.groups, 1)


def depthwise(step: Step, epilogues: Epilogues) -> Kernel | None:
    """In code that LLVM compiles for any CPU."""
    return kernel(step, epilogues, int16_products(step)) if applies(step) else None


def int16_products(step: Step) -> Route:
    """One tap at a time, products in int16: on NEON smull and smlal."""
    _, kh, kw, _ = step.node.weight.shape
    terms = [((dy, dx),) for dx in range(kw) for dy in range(kh)]
    groups, offset = shortest_groups(step, terms)

    def codes(xs):
        x = xs[0] if offset == 0 else xs[0] - T.broadcast(T.uint8(offset), LANES)
        return T.bind(T.reinterpret(x, dtype=f"int8x{LANES}"))

    def multiply(sums, x, w, _):
        product = T.cast(x, f"int16x{LANES}") * T.cast(w, f"int16x{LANES}")
        return T.bind(product if sums is None else sums + product)

    return Route(f"int16 products, {len(groups)} groups", groups, 1, offset, lambda w: w, codes, multiply,
                 lambda sums: T.cast(sums, f"int32x{LANES}"))


def arrange(step: Step, terms: Sequence[Term], places: int) -> np.ndarray:
    """int64 [terms, channels, places]: the weights, 0 where there is no tap."""
    weight = step.node.weight[..., 0].astype(np.int64)
    out = np.zeros((len(terms), len(weight), places), np.int64)
    for i, term in enumerate(terms):
        for place, tap in enumerate(term):
            if tap is not None:
                out[i, :, place] = weight[:, tap[0], tap[1]]
    return out


def shortest_groups(step: Step, terms: Sequence[Term]) -> tuple[list[list[Term]], int]:
    """The fewest runs of terms whose sums fit int16 in every channel, and what is taken off the codes for that: nothing
    or, if that makes fewer groups or codes would not fit a signed byte, half of their range."""
    qmax = step.reads[0].tensor.qmax
    choices = [(groups_within(step, terms, 1, offset), offset) for offset in (0, (qmax + 1) // 2)]
    return min((c for c in choices if qmax - c[1] < 128), key=lambda c: len(c[0]))


def groups_within(step: Step, terms: Sequence[Term], places: int, offset: int) -> list[list[Term]]:
    """Runs of terms, each as long as the sums of weight * (code - offset) fit int16 whatever the codes."""
    weight, qmax = arrange(step, terms, places), step.reads[0].tensor.qmax
    ends = np.stack([weight * -offset, weight * (qmax - offset)])
    low, high = ends.min(0).sum(-1), ends.max(0).sum(-1)  # [terms, channels]
    groups, first = [[]], 0
    for i, term in enumerate(terms):
        run = slice(first, i + 1)
        if groups[-1] and (low[run].sum(0).min() < INT16[0] or high[run].sum(0).max() > INT16[1]):
            groups.append([])
            first = i
        groups[-1].append(term)
    return groups


def kernel(step: Step, epilogues: Epilogues, route: Route) -> Kernel:
    """Rows of tiles; the last tile of a row and the last block of channels overlap those before instead of being short.

    Weights are stored [term][channel][tap].
    """
    node, (oh, ow, channels) = step.node, step.write.tensor.shape
    row, tile, count = blocks(channels) * LANES, min(TILE, ow), min(channels, LANES)
    epilogue, terms = epilogues.conv(step, offset=route.offset), [t for group in route.groups for t in group]
    places = route.places
    weight = np.pad(arrange(step, terms, places), ((0, 0), (0, row - channels), (0, 0))).astype(np.int8)
    table = [epilogue.table]
    if route.starts is not None:
        table.append(np.pad(route.starts, ((0, 0), (0, row - channels))).astype(np.int32).reshape(-1))

    def block(reads, writes, weights, table, y, c):
        filters = {
            term: route.filters(T.bind(weights[T.ramp((i * row + c) * places, 1, LANES * places)]))
            for i, term in enumerate(terms)
        }
        starts = [
            None if route.starts is None
            else T.bind(T.cast(table[T.ramp(epilogue.table.size + g * row + c, 1, LANES)], f"int16x{LANES}"))
            for g in range(len(route.groups))
        ]
        with T.serial(-(-ow // tile)) as t:
            x0 = T.min(t * tile, ow - tile)
            sums = _sums(step, route, tile, _window(step, reads[0], y, x0, c), filters, starts)
            for p, acc in enumerate(sums):
                epilogue.put(acc, reads, writes, table, y, x0 + p, c, count)

    def one_row(reads, writes, weights, table, y):
        if channels <= LANES:
            block(reads, writes, weights, table, y, 0)
        else:
            with T.serial(blocks(channels)) as b:
                block(reads, writes, weights, table, y, T.min(b * LANES, channels - LANES))

    return Kernel(f"depthwise, {route.name}", weight.reshape(-1), node.w_bits, np.concatenate(table),
                  over_rows(step, one_row), oh)


def _window(step: Step, read, y, x0, c):
    """code(row, column) uint8x16 of the tile's window."""
    node, layout = step.node, step.reads[0]
    top = T.bind(layout.at(y * node.stride - node.padding[0], x0 * node.stride - node.padding[1], c))
    pixel = layout.tensor.shape[2]
    return lambda dy, x: read[T.ramp(top + (dy * layout.row_stride + x * pixel), 1, LANES)]


def _sums(step: Step, route: Route, tile: int, code, filters, starts) -> list:
    """int32x16 of every pixel of the tile, column of codes by column."""
    node = step.node
    columns = (tile - 1) * node.stride + node.weight.shape[2]
    operands, sums = {}, [_Sum(route, starts) for _ in range(tile)]
    for column in range(columns):
        for p in range(tile):
            for term in sums[p].due(column - p * node.stride):
                at = tuple(None if t is None else (t[0], t[1] + p * node.stride) for t in term)
                # a place without a tap takes the code to its right, as the term of another pixel does
                at = tuple(a or (at[0][0], min(at[0][1] + i, columns - 1)) for i, a in enumerate(at))
                if at not in operands:
                    operands[at] = route.codes([code(*a) for a in at])
                sums[p].add(term, operands[at], filters[term])
    return [s.total for s in sums]


class _Sum:
    """One pixel's sums while its window is walked through."""

    def __init__(self, route: Route, starts: Sequence[Any]):
        self.route, self.starts = route, starts
        self.ahead = [(g, term) for g, group in enumerate(route.groups) for term in group]
        self.group, self.total = None, None

    def due(self, column: int) -> list[Term]:
        """Terms that begin at a column of the kernel."""
        return [term for _, term in self.ahead if term[0][1] == column]

    def add(self, term: Term, codes, filters) -> None:
        g, first = self.ahead.pop(0)
        assert first == term
        self.group = self.route.multiply(self.group, codes, filters, self.starts[g])
        if not self.ahead or self.ahead[0][0] != g:
            wide = self.route.widen(self.group)
            self.total = T.bind(wide if self.total is None else self.total + wide)
            self.group = None
