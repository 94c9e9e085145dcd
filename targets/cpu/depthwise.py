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

from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import LANES, over_rows
from targets.kernel import Buffers, Kernel, Span, Step
from targets.reference.nodes import Conv
from targets.tables import blocks

INT16 = (-(1 << 15), (1 << 15) - 1)

Tap = tuple[int, int]  # row and column of the kernel
Term = tuple[Tap | None, ...]  # None: some code or other, with weight 0


@dataclass(frozen=True, eq=False)
class Route:
    """How the terms of a pixel are summed, for `lanes` channels at a time.

    groups: terms in an order of ascending columns. tile: the most pixels at a time. offset: taken off every code.
    weight: int64 [terms, planes, channels, places], what is stored of each term; a plane of a block of channels is
    stored as `vectors` vectors, laid out as `in_pieces` says. codes(xs): what `multiply` takes from the uint8 vectors
    of a term's taps. multiply(sums, codes, filters, start): adds a term to the sums of its group, None at first;
    filters are the term's int8 vectors. widen(sums): int32 vectors of 16 channels, in order. starts: int64 [groups,
    channels], what sums begin with, for routes that ask for it.
    """

    name: str
    lanes: int
    tile: int
    groups: Sequence[Sequence[Term]]
    weight: np.ndarray
    codes: Callable[[Sequence[Any]], Any]
    multiply: Callable[[Any, Any, Any, Any], Any]
    widen: Callable[[Any], Sequence[Any]]
    vectors: int = 1
    offset: int = 0
    starts: np.ndarray | None = None

    def stored(self, first: int) -> np.ndarray:
        """int8 [terms, planes, vectors, bytes]: a block of channels, which may begin before and end after the real."""
        block = np.zeros((*self.weight.shape[:2], self.lanes, self.weight.shape[3]), np.int8)
        real = self.weight[:, :, first : first + self.lanes]
        block[:, :, : real.shape[2]] = real
        return in_pieces(block.reshape(*block.shape[:2], -1), self.vectors)


def in_pieces(row: np.ndarray, vectors: int) -> np.ndarray:
    """Returns [..., vectors, n / vectors] of [..., n]: vector v holds pieces v and v + vectors.

    Interleaving within the halves of registers leaves channels in this order; one vector is left as it is.
    """
    return np.moveaxis(row.reshape(*row.shape[:-1], 2, vectors, -1), -3, -2).reshape(*row.shape[:-1], vectors, -1)


def applies(step: Step) -> bool:
    """Returns whether the step is a convolution with one filter a channel."""
    node = step.node
    one_filter = isinstance(node, Conv) and node.groups > 1 and node.weight.shape[::3] == (node.groups, 1)
    return one_filter and node.is_regular


def depthwise(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Depthwise convolution in code that LLVM compiles for any CPU."""
    return kernel(step, epilogues, int16_products(step)) if applies(step) else None


def int16_products(step: Step) -> Route:
    """Returns the route that takes one tap at a time, products in int16: on NEON smull and smlal."""
    _, kh, kw, _ = step.node.weight.shape
    terms: list[Term] = [((dy, dx),) for dx in range(kw) for dy in range(kh)]
    qmax = step.reads[0].tensor.qmax
    weight = arrange(step, terms, 1)
    # codes less the offset are signed bytes
    offset, groups = fewest_groups(weight, qmax, [o for o in offsets(qmax) if qmax - o < 128])

    def codes(xs):
        x = xs[0] if offset == 0 else xs[0] - T.broadcast(T.uint8(offset), LANES)
        return T.bind(T.reinterpret(x, dtype=f"int8x{LANES}"))

    def multiply(sums, x, w, _):
        product = T.cast(x, f"int16x{LANES}") * T.cast(w[0], f"int16x{LANES}")
        return T.bind(product if sums is None else sums + product)

    return Route(
        f"int16 products, {len(groups)} groups",
        LANES,
        4,
        split(terms, groups),
        weight[:, None],
        codes,
        multiply,
        lambda sums: [T.cast(sums, f"int32x{LANES}")],
        offset=offset,
    )


def arrange(step: Step, terms: Sequence[Term], places: int) -> np.ndarray:
    """Returns int64 [terms, channels, places]: the weights, 0 where there is no tap."""
    weight = step.node.weight[..., 0].astype(np.int64)
    out = np.zeros((len(terms), len(weight), places), np.int64)
    for i, term in enumerate(terms):
        for place, tap in enumerate(term):
            if tap is not None:
                out[i, :, place] = weight[:, tap[0], tap[1]]
    return out


def offsets(qmax: int) -> list[int]:
    """Returns what it may pay to take off every code: nothing, or half of the range."""
    return [0, (qmax + 1) // 2]


def fewest_groups(weight: np.ndarray, qmax: int, choices: Sequence[int]) -> tuple[int, list[int]]:
    """Returns the first offset with the fewest groups, and how many terms each group has.

    weight: int64 [terms, channels, places].
    """
    return min(((offset, _groups(weight, qmax, offset)) for offset in choices), key=lambda choice: len(choice[1]))


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
    """Returns runs of terms of the given lengths."""
    ends = np.cumsum(lengths).tolist()
    return [terms[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def kernel(step: Step, epilogues: Epilogues, *routes: Route) -> Kernel:
    """Returns a kernel of blocks of channels in rows of tiles.

    The last tile of a row and the last block of channels overlap those before instead of being short. Weights are
    stored [block][term][plane][vector][byte].

    routes: one way to sum, the widest first; where a narrower one can hold the channels that are left, it takes them.
    """
    node, (oh, ow, channels) = step.node, step.write.tensor.shape
    epilogue = epilogues.conv(step, offset=routes[0].offset)
    wide = routes[0].lanes
    whole, rest = divmod(channels, wide)
    narrow = min((r for r in routes if r.lanes >= rest), key=lambda r: r.lanes)
    if rest and narrow is routes[0]:
        whole, rest = whole + 1, 0
    firsts = [max(0, min(b * wide, channels - wide)) for b in range(whole)]
    weight = [routes[0].stored(c) for c in firsts] + ([narrow.stored(max(0, channels - narrow.lanes))] if rest else [])
    starts, row = np.zeros((0, 0)), blocks(channels) * LANES + wide
    if routes[0].starts is not None:
        starts = np.pad(routes[0].starts, ((0, 0), (0, row - channels)))

    def block(buffers: Buffers, y: Any, route: Route, at: Any, c: Any, count: int) -> None:
        filters, lanes = {}, route.lanes
        _, planes, _, places = route.weight.shape
        size, vectors = lanes * places // route.vectors, planes * route.vectors
        for i, term in enumerate(term for group in route.groups for term in group):
            ramps = [T.ramp(at + (i * vectors + v) * size, 1, size) for v in range(vectors)]
            filters[term] = [T.bind(buffers.weights[ramp]) for ramp in ramps]
        begins = [epilogue.table.size + g * row + c for g in range(len(starts))]
        begins = [T.bind(T.cast(buffers.table[T.ramp(begin, 1, lanes)], f"int16x{lanes}")) for begin in begins]
        tile = _tile(ow, route.tile)
        with T.serial(-(-ow // tile)) as t:
            x0 = T.min(t * tile, ow - tile)
            sums = _sums(step, route, tile, _window(step, buffers.reads[0], y, x0, c, lanes), filters, begins)
            for p, acc in enumerate(sums):
                for v in range(blocks(count)):
                    channel, real = c + v * LANES, min(LANES, count - v * LANES)
                    epilogue.put(acc[v], buffers, Span(y, x0 + p, channel, real, LANES))

    def one_row(buffers: Buffers, y: Any) -> None:
        if whole == 1:
            block(buffers, y, routes[0], 0, 0, min(wide, channels))
        elif whole:
            with T.serial(whole) as b:
                block(buffers, y, routes[0], b * weight[0].size, T.min(b * wide, channels - wide), wide)
        if rest:
            c = max(0, channels - narrow.lanes)
            block(buffers, y, narrow, sum(w.size for w in weight[:-1]), c, channels - c)

    return Kernel(
        f"depthwise, {routes[0].name}",
        np.concatenate([w.reshape(-1) for w in weight]),
        node.w_bits,
        np.concatenate([epilogue.table, starts.astype(np.int32).reshape(-1)]),
        over_rows(step, one_row),
        oh,
    )


def _tile(width: int, most: int) -> int:
    """Pixels of a tile: of the numbers from half of `most` on, the one that leaves the shortest overlap."""
    return width if width <= most else min(range(most, most // 2, -1), key=lambda tile: -width % tile)


def _window(step: Step, read, y, x0, c, lanes: int):
    """code(row, column): uint8 vector of the tile's window."""
    node, layout = step.node, step.reads[0]
    top = T.bind(layout.at(y * node.stride[0] - node.padding[0], x0 * node.stride[1] - node.padding[1], c))
    pixel = layout.tensor.shape[2]
    return lambda dy, x: read[T.ramp(top + (dy * layout.row_stride + x * pixel), 1, lanes)]


def _sums(step: Step, route: Route, tile: int, code, filters, starts) -> list:
    """int32 vectors of every pixel of the tile, column of codes by column."""
    stride = step.node.stride[1]
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
            self.total = [
                T.bind(w if t is None else t + w) for t, w in zip(self.total or [None] * len(wide), wide, strict=True)
            ]
            self.group = None
