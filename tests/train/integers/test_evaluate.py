"""Rounding of integer sums in float32: given only where it is right for every sum, and used by what training makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.reference.interpreter import requantize, run
from targets.reference.nodes import Conv, Requant
from tests.support.graphs import pictures, random_graph, resnet_like
from train.integers import evaluate
from train.integers.rounding import EXACT_FLOAT32, float32_scale

SLOW = 1 << 19  # sums that a test looks at one by one


def requant(multipliers, shifts) -> Requant:
    return Requant(np.zeros(len(shifts), np.int64), np.array(multipliers, np.int64), np.array(shifts, np.int64))


def wrong(r: Requant, scale: np.ndarray, zero: int, qmin: int, qmax: int, reach: np.ndarray) -> int:
    """Sums whose code differs, of all in reach."""
    acc = np.arange(-reach.max(), reach.max() + 1)[:, None]
    scaled = acc.astype(np.float32) * scale + np.float32(zero + 0.5)
    codes = np.clip(np.floor(scaled), qmin, qmax)
    return int(((codes != requantize(acc, r, zero, qmin, qmax)) & (np.abs(acc) <= reach)).sum())


ranges = st.integers(1, 255).flatmap(
    lambda qmax: st.tuples(st.integers(0, qmax), st.integers(0, qmax - 1), st.just(qmax))
)
ratios = st.lists(st.tuples(st.integers(1 << 30, (1 << 31) - 1), st.integers(1, 31)), min_size=1, max_size=3)


@given(ratios, ranges, st.integers(1, SLOW), st.integers(0, 2**32 - 1))
def test_what_is_given_is_right_for_every_sum(ratios, codes, reach, seed):
    r = requant(*zip(*ratios, strict=True))
    reach = np.random.default_rng(seed).integers(0, reach + 1, len(ratios))
    scale = float32_scale(r, *codes, reach)
    if scale is not None:
        assert scale.dtype == np.float32 and wrong(r, scale, *codes, reach) == 0


@pytest.mark.parametrize("divisor", [1023, 1025, 1537, 2047, 4095])
@pytest.mark.parametrize("zero,qmin,qmax", [(0, 0, 255), (0, 0, 3), (128, 0, 255), (7, 1, 14)])
def test_ratios_over_odd_integers_have_it(divisor, zero, qmin, qmax):
    """No sum is nearer to a tie than half a unit of 1 / divisor, which float32 tells apart below code 256."""
    shift = divisor.bit_length() - 1
    r = requant([round(2.0 ** (31 + shift) / divisor)], [shift])
    reach = np.array([300 * divisor])
    scale = float32_scale(r, zero, qmin, qmax, reach)
    assert scale is not None and wrong(r, scale, zero, qmin, qmax, reach) == 0


def test_where_float32_errs_it_is_refused():
    """Ratios at random, so fine that some sum lies nearer to a tie than float32 can tell."""
    chance, refused = np.random.default_rng(0), 0
    for _ in range(30):
        r, reach = requant([int(chance.integers(1 << 30, 1 << 31))], [12]), np.array([SLOW])
        scale = np.ldexp(r.multiplier.astype(np.float64), -31 - r.shift).astype(np.float32)
        errs = wrong(r, scale, 0, 0, 255, reach) > 0
        assert (float32_scale(r, 0, 0, 255, reach) is None) == errs
        refused += errs
    assert refused > 3


def test_sums_beyond_float32_are_refused():
    r = requant([1 << 30], [31])
    assert float32_scale(r, 0, 0, 1, np.array([EXACT_FLOAT32 - 1])) is not None
    assert float32_scale(r, 0, 0, 1, np.array([EXACT_FLOAT32])) is None


def in_float32(graph, monkeypatch) -> list[bool]:
    """Whether each convolution that writes codes went in float32, the logits being the reference's all the same."""
    scales = []

    def noted(*arguments):
        scales.append(float32_scale(*arguments))
        return scales[-1]

    monkeypatch.setattr(evaluate, "float32_scale", noted)
    x = pictures(graph, 6, 0)
    logits = evaluate.evaluate(graph, x)
    assert np.array_equal(logits, run(graph, x))
    return [scale is not None for scale in scales]


def test_both_ways_are_taken(monkeypatch):
    assert all(in_float32(resnet_like(), monkeypatch))
    many = [w for seed in range(6) for w in in_float32(random_graph(seed, tie_free=False, extreme=True), monkeypatch)]
    assert any(many) and not all(many)
    assert any(isinstance(node, Conv) and node.skip is not None for node in resnet_like().nodes)
