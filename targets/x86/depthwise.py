"""Depthwise convolution on x86: two or four taps an instruction, exact by choice of route from the real weights.

    VNNI         vpdpbusd adds four taps, of neighbouring rows, to int32 at once: any 8 x 8 bits
    byte pairs   vpmaddubsw adds two taps in int16; its sums are added there as long as the real weights allow
    nibbles      byte pairs of 16 * high + low: two sums that fit int16, put together at the end; most 8 x 8 bits
    word pairs   vpmaddwd adds two taps, widened to int16, in int32: any 8 x 8 bits

Bytes of 32 channels are interleaved within the two halves of a register, which leaves vectors of channels that are not
neighbours: pieces of 16 bytes, vector v holding pieces v and v + number of vectors. The sums are put in order again.
"""

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.depthwise import INT16, Route, Term, applies, arrange, fewest_groups, in_pieces, kernel, offsets, split
from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import LANES, splat
from targets.kernel import Kernel, Step
from targets.x86.multiply_add import intrinsic

WIDTHS = (2 * LANES, LANES)
MOST_GROUPS = 2  # of byte pairs, beyond which nibbles are as fast


def depthwise(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Depthwise convolution on AVX2; the route depends on the layer's real weights."""
    if not applies(step):
        return None
    for route in (byte_pairs, nibbles):
        if route(step, LANES) is not None:
            return kernel(step, epilogues, *(route(step, lanes) for lanes in WIDTHS))
    return kernel(step, epilogues, word_pairs(step))


def depthwise_dot_product(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Depthwise convolution on AVX-VNNI and AVX-512 VNNI."""
    return kernel(step, epilogues, *(quads(step, lanes) for lanes in WIDTHS)) if applies(step) else None


def byte_pairs(step: Step, lanes: int) -> Route | None:
    """Returns the route; None where a pair could saturate, or sums are so large that others are as fast."""
    terms, qmax = _pairs(step), step.reads[0].tensor.qmax
    weight = arrange(step, terms, 2)
    if not _fits(weight * qmax):
        return None
    offset, groups = fewest_groups(weight, qmax, offsets(qmax))
    if len(groups) > MOST_GROUPS:
        return None
    groups = split(terms, groups)

    def multiply(sums, xs, ws, start):
        starts = [None] * len(xs) if start is None else _vectors(start, len(xs))
        return [_add_pairs(s, x, w) for s, x, w in zip(sums or starts, xs, ws, strict=True)]

    return Route(
        f"byte pairs, {len(groups)} groups",
        lanes,
        4,
        groups,
        weight[:, None],
        _interleaved,
        multiply,
        lambda sums: [T.cast(v, "int32x16") for v in _in_order(sums)],
        lanes // LANES,
        offset,
        _starts(step, groups, offset),
    )


def nibbles(step: Step, lanes: int) -> Route | None:
    """Returns the route; None where a sum could leave int16: more than 16 taps of the largest weights and codes."""
    terms, qmax, vectors = _pairs(step), step.reads[0].tensor.qmax, lanes // LANES
    weight = arrange(step, terms, 2)
    high = (weight + 8) >> 4
    planes = np.stack([high, weight - 16 * high], 1)
    if not _fits(np.moveaxis(planes, 0, -1).reshape(2, weight.shape[1], -1) * qmax):
        return None

    def multiply(sums, xs, ws, _):
        return [_add_pairs(s, x, w) for s, x, w in zip(sums or [None] * len(ws), xs * 2, ws, strict=True)]

    def widen(sums):
        sixteen_one = T.broadcast(T.int32((1 << 16) + 16), 8)
        pairs = [
            T.bind(_unpacked(*plane, h)) for plane in zip(sums[:vectors], sums[vectors:], strict=True) for h in (0, 1)
        ]
        units = T.reinterpret(sixteen_one, dtype="int16x16")
        return _in_order([intrinsic("avx2.pmadd.wd", "int32x8", pair, units) for pair in pairs])

    return Route("nibbles", lanes, 2, [terms], planes, _interleaved, multiply, widen, vectors)


def word_pairs(step: Step) -> Route:
    """Returns the route for any weights."""
    terms = _pairs(step)

    def multiply(sums, xs, ws, _):
        products = [
            intrinsic("avx2.pmadd.wd", "int32x8", x, T.cast(w, "int16x16")) for x, w in zip(xs, ws, strict=True)
        ]
        return [T.bind(p if s is None else s + p) for s, p in zip(sums or [None] * 2, products, strict=True)]

    def codes(xs):
        words = [T.bind(T.cast(x, "int16x16")) for x in xs]
        return [T.bind(_unpacked(*words, h)) for h in (0, 1)]

    return Route("word pairs", LANES, 4, [terms], arrange(step, terms, 2)[:, None], codes, multiply, _in_order, 2)


def quads(step: Step, lanes: int) -> Route:
    """Returns the route that takes up to four rows of a column, a byte of a 32-bit lane each."""
    _, kh, kw, _ = step.node.weight.shape
    each = -(-kh // -(-kh // 4))
    rows = [range(dy, min(dy + each, kh)) for dy in range(0, kh, each)]
    terms = [tuple((dy, dx) for dy in r) for dx in range(kw) for r in rows]

    def multiply(sums, xs, ws, _):
        sums = sums or [splat(0, 8)] * len(xs)
        return [T.bind(intrinsic("avx512.vpdpbusd.256", "int32x8", *v)) for v in zip(sums, xs, ws, strict=True)]

    def codes(xs):
        xs = [T.bind(x) for x in xs]
        xs += [T.broadcast(T.uint8(0), lanes)] * (4 - len(xs))
        pairs = [[T.bind(_unpacked(a, b, h)) for h in (0, 1)] for a, b in (xs[:2], xs[2:])]
        words = [[T.reinterpret(v, dtype=f"uint16x{lanes // 2}") for v in pair] for pair in pairs]
        fours = [_unpacked(a, b, h) for a, b in zip(*words, strict=True) for h in (0, 1)]
        if lanes == LANES:
            fours = [T.Shuffle([fours[v], fours[v + 2]], list(range(16))) for v in (0, 1)]
        return [T.bind(T.reinterpret(v, dtype="uint8x32")) for v in fours]

    return Route(
        "dot product", lanes, 7, [terms], arrange(step, terms, 4)[:, None], codes, multiply, _in_order, lanes // 8
    )


def _pairs(step: Step) -> list[Term]:
    """Taps of two rows in a column; of a last odd row, two columns."""
    _, kh, kw, _ = step.node.weight.shape
    terms = []
    for dx in range(kw):
        terms += [((dy, dx), (dy + 1, dx)) for dy in range(0, kh - 1, 2)]
        if kh % 2 and dx % 2 == 0:
            terms.append(((kh - 1, dx), (kh - 1, dx + 1) if dx + 1 < kw else None))
    return terms


def _fits(products: np.ndarray) -> bool:
    """Whether sums of any of the products along the last axis fit int16."""
    return np.maximum(products, 0).sum(-1).max() <= INT16[1] and np.minimum(products, 0).sum(-1).min() >= INT16[0]


def _starts(step: Step, groups: list, offset: int) -> np.ndarray | None:
    """What takes the offset off all codes of a group; sums may wrap round, for what remains fits."""
    return np.stack([-offset * arrange(step, group, 2).sum((0, 2)) for group in groups]) if offset else None


def _add_pairs(sums, x, w):
    product = intrinsic("avx2.pmadd.ub.sw", "int16x16", x, w)
    return T.bind(product if sums is None else sums + product)


def _interleaved(xs) -> list:
    """uint8x32 vectors, two taps of a channel side by side, of uint8x16 (one, in order) or uint8x32 (two)."""
    if _length(xs[0]) == LANES:
        return [T.bind(T.Shuffle(list(xs), [i + LANES * k for i in range(LANES) for k in range(2)]))]
    return [T.bind(_unpacked(*(T.bind(x) for x in xs), h)) for h in (0, 1)]


def _unpacked(a, b, high: int):
    """Elements of a and b in turn, of the lower or upper half of every 16 bytes."""
    n, each = _length(a), 16 * 8 // a.ty.dtype.bits
    ones = [i for first in range(0, n, each) for i in range(first + high * each // 2, first + (high + 1) * each // 2)]
    return T.Shuffle([a, b], [i + n * k for i in ones for k in range(2)])


def _vectors(v, count: int) -> list:
    """A vector in pieces, as targets/cpu/depthwise.py: in_pieces."""
    each = in_pieces(np.arange(_length(v)), count).tolist() if count > 1 else [list(range(_length(v)))]
    return [T.bind(T.Shuffle([v], indices)) for indices in each]


def _in_order(vectors: list) -> list:
    """Vectors of 16 neighbouring channels, of vectors in pieces."""
    if len(vectors) == 1:
        return vectors
    count = sum(_length(v) for v in vectors)
    order = np.argsort(in_pieces(np.arange(count), len(vectors)).reshape(-1))
    return [T.Shuffle(vectors, order[i : i + LANES].tolist()) for i in range(0, count, LANES)]


def _length(v) -> int:
    return v.ty.dtype.lanes
