"""Depthwise convolution on x86: two or four taps of 16 channels an instruction, exact by choice of route.

    VNNI         vpdpbusd adds four taps, of neighbouring rows, to int32 at once: any 8 x 8 bits
    byte pairs   vpmaddubsw adds two taps in int16; its sums are added there as long as the real weights allow
    word pairs   vpmaddwd adds two taps, widened to int16, in int32: any 8 x 8 bits
"""

import numpy as np
from tvm.tirx.script import builder as T

from targets.depthwise import INT16, Route, Term, applies, arrange, groups_within, kernel
from targets.epilogue import Epilogues
from targets.kernel import Kernel, Step
from targets.vector import LANES, splat
from targets.x86.multiply_add import intrinsic

MOST_GROUPS = 3  # of byte pairs that cost no more than word pairs, for a kernel of 3 x 3


def depthwise(step: Step, epilogues: Epilogues) -> Kernel | None:
    """AVX2: the route depends on the layer's real weights."""
    if not applies(step):
        return None
    return kernel(step, epilogues, byte_pairs(step) or word_pairs(step))


def depthwise_dot_product(step: Step, epilogues: Epilogues) -> Kernel | None:
    """AVX-VNNI and AVX-512 VNNI."""
    return kernel(step, epilogues, quads(step)) if applies(step) else None


def pairs(step: Step) -> list[Term]:
    """Taps of two rows in a column; of a last odd row, two columns."""
    _, kh, kw, _ = step.node.weight.shape
    terms = []
    for dx in range(kw):
        terms += [((dy, dx), (dy + 1, dx)) for dy in range(0, kh - 1, 2)]
        if kh % 2 and dx % 2 == 0:
            terms.append(((kh - 1, dx), (kh - 1, dx + 1) if dx + 1 < kw else None))
    return terms


def byte_pairs(step: Step) -> Route | None:
    """None where a pair could saturate, or sums are so large that word pairs are as fast."""
    terms, qmax = pairs(step), step.reads[0].tensor.qmax
    weight = arrange(step, terms, 2)
    if np.maximum(weight, 0).sum(-1).max() * qmax > INT16[1] or np.minimum(weight, 0).sum(-1).min() * qmax < INT16[0]:
        return None
    choices = [(groups_within(step, terms, 2, offset), offset) for offset in (0, (qmax + 1) // 2)]
    groups, offset = min(choices, key=lambda c: len(c[0]))
    if len(groups) > max(1, len(terms) * MOST_GROUPS // 5):
        return None
    # the offset of all codes of a group; sums may wrap round, for what remains fits
    starts = np.stack([-offset * arrange(step, group, 2).sum((0, 2)) for group in groups])

    def multiply(sums, x, w, start):
        product = intrinsic("avx2.pmadd.ub.sw", "int16x16", x, w)
        if sums is None and offset == 0:
            return T.bind(product)
        return T.bind((start if sums is None else sums) + product)

    return Route(f"byte pairs, {len(groups)} groups", groups, 2, offset, lambda w: w, lambda xs: T.bind(_interleave(xs)),
                 multiply, lambda sums: T.cast(sums, "int32x16"), starts if offset else None)


def word_pairs(step: Step) -> Route:
    halves = range(2)

    def half(v, h):
        return T.bind(T.cast(T.Shuffle([v], list(range(h * LANES, (h + 1) * LANES))), "int16x16"))

    def multiply(sums, x, w, _):
        products = [intrinsic("avx2.pmadd.wd", "int32x8", x[h], w[h]) for h in halves]
        return [T.bind(products[h] if sums is None else sums[h] + products[h]) for h in halves]

    def codes(xs):
        both = T.bind(_interleave(xs))
        return [half(both, h) for h in halves]

    return Route("word pairs", [pairs(step)], 2, 0, lambda w: [half(w, h) for h in halves], codes, multiply,
                 lambda sums: T.Shuffle(sums, list(range(LANES))))


def quads(step: Step) -> Route:
    """Up to four rows of a column, a byte of a 32-bit lane each."""
    _, kh, kw, _ = step.node.weight.shape
    each = -(-kh // -(-kh // 4))
    rows = [range(dy, min(dy + each, kh)) for dy in range(0, kh, each)]
    terms = [tuple((dy, dx) for dy in r) for dx in range(kw) for r in rows]

    def multiply(sums, x, w, _):
        sums = splat(0) if sums is None else sums
        return T.bind(intrinsic("avx512.vpdpbusd.512", "int32x16", sums, x, w))

    def codes(xs):
        lanes = None
        for i, x in enumerate(xs):
            lane = T.cast(x, "uint32x16")
            lane = T.shift_left(lane, T.broadcast(T.uint32(8 * i), LANES)) if i else lane
            lanes = lane if lanes is None else T.bitwise_or(lanes, lane)
        return T.bind(T.reinterpret(lanes, dtype="uint8x64"))

    return Route("dot product", [terms], 4, 0, lambda w: w, codes, multiply, lambda sums: sums)


def _interleave(xs):
    """uint8x32: a byte of each of two vectors in turn."""
    return T.Shuffle(list(xs), [i + LANES * k for i in range(LANES) for k in range(2)])
