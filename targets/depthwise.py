"""Depthwise convolution on a CPU's vectors: lanes are channels, and a tile is several neighbouring pixels of a row.

A route says how one pixel's taps are summed. It splits them into terms of one, two or four taps that one instruction
multiplies at once, their codes interleaved channel by channel; vectors of codes are made once a tile and serve every
pixel that needs them. Where products are added in int16, terms form groups: the sums of a group are widened to int32
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

Tap = tuple[int, int]  # row and column of the kernel
Term = tuple[Tap | None, ...]  # None: some code or other, with weight 0


@dataclass(frozen=True, eq=False)
class Route:
    """How the terms of a pixel are summed, for `lanes` channels at a time.

    groups: terms in an order of ascending columns. tile: pixels at a time. offset: taken off every code.
    weight: int64 [terms, channels, bytes], what is stored of each term. filters(w): what `multiply` takes, from a
    term's int8 vector. codes(xs): what it takes, from the uint8 vectors of a term's taps. multiply(sums, codes,
    filters, group): adds a term to the sums of its group, which are None at first. widen(sums): int32 vectors of 16
    channels, in order. starts: int64 [groups, channels], what the sums begin with, for routes that ask for it.
    """

    name: str
    lanes: int
    tile: int
    groups: Sequence[Sequence[Term]]
    weight: np.ndarray
    codes: Callable[[Sequence[Any]], Any]
    multiply: Callable[[Any, Any, Any, Any], Any]
    widen: Callable[[Any], Sequence[Any]]
    filters: Callable[[Any], Any] = lambda w: w
    offset: int = 0
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
    terms, qmax = [((dy, dx),) for dx in range(kw) for dy in range(kh)], step.reads[0].tensor.qmax
    weight = arrange(step, terms, 1)
    # codes less the offset are signed bytes
    offset, groups = fewest_groups(weight, qmax, [o for o in offsets(qmax) if qmax - o < 128])

    def codes(xs):
        x = xs[0] if offset == 0 else xs[0] - T.broadcast(T.uint8(offset), LANES)
        return T.bind(T.reinterpret(x, dtype=f"int8x{LANES}"))

    def multiply(sums, x, w, _):
        product = T.cast(x, f"int16x{LANES}") * T.cast(w, f"int16x{LANES}")
        return T.bind(product if sums is None else sums + product)

    return Route(f"int16 products, {len(groups)} groups", LANES, 4, split(terms, groups), weight, codes, multiply,
                 lambda sums: [T.cast(sums, f"int32x{LANES}")], offset=offset)


def arrange(step: Step, terms: Sequence[Term], places: int) -> np.ndarray:
    """int64 [terms, channels, places]: the weights, 0 where there is no tap."""
    weight = step.node.weight[..., 0].astype(np.int64)
    out = np.zeros((len(terms), len(weight), places), np.int64)
    for i, term in enumerate(terms):
        for place, tap in enumerate(term):
            if tap is not None:
                out[i, :, place] = weight[:, tap[0], tap[1]]
    return out


def offsets(qmax: int) -> list[int]:
    """What it may pay to take off every code: nothing, or half of the range."""
    return [0, (qmax + 1) // 2]


def fewest_groups(weight: np.ndarray, qmax: int, choices: Sequence[int]) -> tuple[int, list[int]]:
    """The first offset with the fewest groups, and how many terms each has. weight: int64 [terms, channels, places]."""
    return min(((offset, _groups(weight, qmax, offset)) for offset in choices), key=lambda found: len(found[1]))


def _groups(weight: np.ndarray, qmax: int, offset: int) -> list[int]:
    """Lengths of runs of terms, each as long as sums of weight * (code - offset) fit int16 whatever the codes."""
    ends = np.stack([weight * -offset, weight * (qmax - offset)])
    low, high = ends.min(0).sum(-1), ends.max(0).sum(-1)  # [terms, channels]
    lengths, first = [0], 0
    for end in range(1, len(weight) + 1):
        fits = low[first:end].sum(0).min() >= INT16[0] and high[first:end].sum(0).max() <= INT16[1]
        if lengths[-1] and not fits:
            lengths.append(0)
            first = end - 1
        lengths[-1] += 1
    return lengths


def split(terms: Sequence[Term], lengths: Sequence[int]) -> list[Sequence[Term]]:
    ends = np.cumsum(lengths).tolist()
    return [terms[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def kernel(step: Step, epilogues: Epilogues, *routes: Route) -> Kernel:
    """Blocks of channels in rows of tiles. The last tile of a row and the last block of channels overlap those before
    instead of being short.

    routes: one way to sum, the widest first; where channels are left that a narrower one can hold, that one takes them.
    Weights are stored [term][channel][byte].
    """
    node, (oh, ow, channels) = step.node, step.write.tensor.shape
    routes = [r for r in routes if r.lanes < channels + LANES] or routes[-1:]
    widest = routes[0]
    row = max(blocks(channels) * LANES, widest.lanes)
    room = ((0, 0), (0, row - channels))
    epilogue, each = epilogues.conv(step, offset=widest.offset), widest.weight.shape[2]
    weight = np.pad(widest.weight, (*room, (0, 0))).astype(np.int8)
    starts = np.zeros(0) if widest.starts is None else np.pad(widest.starts, room)

    def block(reads, writes, weights, table, y, route, c, count):
        lanes = route.lanes
        terms = [term for group in route.groups for term in group]
        filters = {
            term: route.filters(T.bind(weights[T.ramp((i * row + c) * each, 1, lanes * each)]))
            for i, term in enumerate(terms)
        }
        first = [epilogue.table.size + g * row + c for g in range(len(starts))]
        begin = [T.bind(T.cast(table[T.ramp(at, 1, lanes)], f"int16x{lanes}")) for at in first]
        tile = min(route.tile, ow)
        with T.serial(-(-ow // tile)) as t:
            x0 = T.min(t * tile, ow - tile)
            sums = _sums(step, route, tile, _window(step, reads[0], y, x0, c, lanes), filters, begin)
            for p, vectors in enumerate(sums):
                for v in range(-(-count // LANES)):
                    epilogue.put(vectors[v], reads, writes, table, y, x0 + p, c + v * LANES,
                                 min(LANES, count - v * LANES))

    def one_row(reads, writes, weights, table, y):
        whole, rest = divmod(channels, widest.lanes)
        last = next(r for r in reversed(routes) if r.lanes >= rest)
        if last is widest:
            whole, rest = whole + (rest > 0), 0
        if whole == 1:
            block(reads, writes, weights, table, y, widest, 0, min(widest.lanes, channels))
        elif whole:
            with T.serial(whole) as b:
                c = T.min(b * widest.lanes, channels - widest.lanes)
                block(reads, writes, weights, table, y, widest, c, widest.lanes)
        if rest:
            c = max(0, channels - last.lanes)
            block(reads, writes, weights, table, y, last, c, channels - c)

    table = np.concatenate([epilogue.table, starts.astype(np.int32).reshape(-1)])
    return Kernel(f"depthwise, {widest.name}", weight.reshape(-1), node.w_bits, table, over_rows(step, one_row), oh)


def _window(step: Step, read, y, x0, c, lanes: int):
    """code(row, column): uint8 vector of the tile's window."""
    node, layout = step.node, step.reads[0]
    top = T.bind(layout.at(y * node.stride - node.padding[0], x0 * node.stride - node.padding[1], c))
    pixel = layout.tensor.shape[2]
    return lambda dy, x: read[T.ramp(top + (dy * layout.row_stride + x * pixel), 1, lanes)]


def _sums(step: Step, route: Route, tile: int, code, filters, starts) -> list:
    """int32 vectors of every pixel of the tile, column of codes by column."""
    stride = step.node.stride
    columns = (tile - 1) * stride + step.node.weight.shape[2]
    operands, sums = {}, [_Sum(route, starts) for _ in range(tile)]
    for column in range(columns):
        for p in range(tile):
            for term in sums[p].due(column - p * stride):
                # a place without a tap takes the code to its right, as the term of another pixel does
                right = [(term[0][0], term[0][1] + i) for i in range(len(term))]
                taps = [(dy, min(dx + p * stride, columns - 1)) for dy, dx in map(_either, term, right)]
                if tuple(taps) not in operands:
                    operands[tuple(taps)] = route.codes([code(*tap) for tap in taps])
                sums[p].add(operands[tuple(taps)], filters[term])
    return [s.total for s in sums]


def _either(tap: Tap | None, other: Tap) -> Tap:
    return other if tap is None else tap


class _Sum:
    """One pixel's sums while its window is walked through."""

    def __init__(self, route: Route, starts: Sequence[Any]):
        self.route, self.starts = route, starts
        self.ahead = [(g, term) for g, group in enumerate(route.groups) for term in group]
        self.group, self.total = None, None

    def due(self, column: int) -> list[Term]:
        """Terms that begin at a column of the kernel."""
        return [term for _, term in self.ahead if term[0][1] == column]

    def add(self, codes, filters) -> None:
        """The next term."""
        g, _ = self.ahead.pop(0)
        self.group = self.route.multiply(self.group, codes, filters, self.starts[g] if self.starts else None)
        if not self.ahead or self.ahead[0][0] != g:
            wide = self.route.widen(self.group)
            self.total = [T.bind(w if t is None else t + w)
                          for t, w in zip(self.total or [None] * len(wide), wide, strict=True)]
            self.group = None
