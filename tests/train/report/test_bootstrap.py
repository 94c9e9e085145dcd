"""The bootstrap against closed forms and against draws whose truth is known."""

import numpy as np
import pytest

from train.report.bootstrap import Estimate, resampled
from train.report.frontier import cost_on_line, over_line


def test_standard_error_and_interval_are_those_of_a_mean():
    values = np.random.default_rng(0).normal(3, 2, (400, 2))
    sampled = resampled(values, seed=1)
    assert sampled.shape == (2001, 2) and np.allclose(sampled[0], values.mean(0))
    for k in (0, 1):
        e, stderr = Estimate.of(sampled[:, k]), values[:, k].std() / 20
        # The spread of 2000 draws is itself uncertain by 1 / sqrt(4000), 1.6 %; the ends of the interval by some 3 %.
        assert e.stderr == pytest.approx(stderr, rel=0.06)
        assert e.low == pytest.approx(e.value - 1.96 * stderr, abs=0.2 * stderr)
        assert e.high == pytest.approx(e.value + 1.96 * stderr, abs=0.2 * stderr)


def test_pairs_stay_together():
    """Two arms that differ by a constant on every picture differ by it in every resample."""
    x = np.random.default_rng(0).random(300)
    sampled = resampled(np.stack([x, x + 0.25], 1), seed=5)
    assert np.allclose(sampled[:, 1] - sampled[:, 0], 0.25)
    alone = [resampled(v[:, None], seed=5)[:, 0] for v in (x, x + 0.25)]
    assert np.allclose(np.stack(alone, 1), sampled, rtol=0, atol=1e-12) and sampled[1:, 0].std() > 0.01
    assert not np.array_equal(resampled(x[:, None], seed=6)[1:], resampled(x[:, None], seed=5)[1:])


def test_a_picture_counts_once_however_many_views_it_has():
    """Ten equal views of a picture are no more evidence than one, though the mean is over ten times as many answers."""
    right = np.random.default_rng(0).random(500) < 0.7
    views = np.repeat(right[:, None], 10, 1).mean(1)
    e = Estimate.of(resampled(views[:, None], seed=0)[:, 0])
    assert e.stderr == pytest.approx((0.7 * 0.3 / 500) ** 0.5, rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), 0
    for k in range(200):
        e = Estimate.of(resampled(rng.normal(0, 1, (100, 1)), seed=k, resamples=400)[:, 0])
        covered += e.low <= 0 <= e.high
    assert 0.89 * 200 <= covered <= 0.99 * 200


def test_verdict():
    """Also: equal sums taken in another order are no difference."""
    assert Estimate(1e-16, 1e-17, 1e-15, 1e-16).verdict == 0
    assert [Estimate(0.0, *ends, 1.0).verdict for ends in ((0.1, 1), (-1, -0.1), (-0.1, 0.1), (0, 0))] == [1, -1, 0, 0]
    assert Estimate(1, 0.5, 2, 0.25).scaled(100) == Estimate(100, 50, 200, 25)


def test_line_of_the_static_ladder():
    costs, corners = np.array([0.1, 0.3, 1.0]), np.array([[0.70, 0.80, 0.85]] * 4)
    cost = np.array([0.1, 0.2, 1.0, 2.0])
    assert np.allclose(over_line(np.full(4, 0.8), cost, costs, corners), [0.1, 0.05, -0.05, -0.05])
    wanted = np.array([0.5, 0.75, 0.85, 0.851])
    assert np.allclose(cost_on_line(wanted, costs, corners), [0.1, 0.2, 1.0, np.inf])
    dips = np.array([[0.7, 0.6, 0.8]])  # measured on other pictures than it was picked on, a line may fall
    assert np.allclose(cost_on_line(np.array([0.7]), costs, dips), 0.1)
    assert np.allclose(cost_on_line(np.array([0.7 + 1e-6]), costs, dips), 0.65, atol=1e-4)


def test_what_is_out_of_reach_in_some_resample_has_no_finite_end():
    e = Estimate.of(np.array([1.0] + [1.0] * 90 + [np.inf] * 10))
    assert (e.low, e.high, e.stderr) == (1.0, np.inf, np.inf)
