"""Gains and offsets by channel: what least squares gives, and how far held pictures shrink it."""

import numpy as np
import pytest

from train.adapt.moments import GAINS, Moments, fit_gain


def pairs(seed: int, n: int = 6, noise: float = 0.0, gain=None):
    """Sums [n, 3, 5, 5] and targets gain * sum + offset + noise."""
    rng = np.random.default_rng(seed)
    sums = rng.normal(2, 3, (n, 3, 5, 5))
    gain = np.array([0.5, 1.0, 2.0]) if gain is None else gain
    targets = gain[:, None, None] * sums + np.array([1.0, -2.0, 0.5])[:, None, None]
    return sums, targets + rng.normal(0, noise, targets.shape), gain


def test_moments_are_weighted_means():
    sums, targets, _ = pairs(1, noise=1.0)
    weights = np.array([1.0, 2, 0, 3, 1, 1])
    moments = Moments.of_pairs(sums.astype(np.float32), targets.astype(np.float32), weights)
    x, y = (np.repeat(a.transpose(1, 0, 2, 3).reshape(3, 6, 25), weights.astype(int), 1) for a in (sums, targets))
    for value, expected in (
        (moments.mean_x, x.mean((1, 2))),
        (moments.mean_y, y.mean((1, 2))),
        (moments.variance, x.var((1, 2))),
        (moments.covariance, (x * y).mean((1, 2)) - x.mean((1, 2)) * y.mean((1, 2))),
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)  # the sums are float32
    assert moments.weight == 8


def test_the_error_is_that_of_the_pairs():
    sums, targets, _ = pairs(2, noise=2.0)
    moments = Moments.of_pairs(sums, targets, np.ones(6))
    gain, offset = np.array([0.3, 1.2, 2.5]), np.array([1.0, 0.0, -3.0])
    direct = ((gain[:, None, None] * sums + offset[:, None, None] - targets) ** 2).mean((0, 2, 3))
    np.testing.assert_allclose(moments.error(gain, offset), direct, rtol=1e-9)


def test_an_exact_relation_is_found():
    sums, targets, gain = pairs(3)
    whole = Moments.of_pairs(sums, targets, np.ones(6))
    np.testing.assert_allclose(fit_gain(whole, whole), gain, rtol=1e-9)


def test_held_pictures_shrink_what_does_not_serve_them():
    fit = Moments.of_pairs(*pairs(4, gain=np.array([0.5, 0.5, 0.5]))[:2], np.ones(6))
    same = Moments.of_pairs(*pairs(5, gain=np.ones(3))[:2], np.ones(6))
    gain = fit_gain(fit, same)
    assert (gain > 0.8).all() and (gain < 1).all()  # most of the way back to 1, by the strongest shrinkage there is


@pytest.mark.parametrize("gain", [-1.0, 0.0, 100.0])
def test_gains_stay_positive_and_small(gain):
    sums, targets, _ = pairs(6, gain=np.full(3, gain))
    whole = Moments.of_pairs(sums, targets, np.ones(6))
    fitted = fit_gain(whole, whole)
    assert (fitted >= GAINS[0]).all() and (fitted <= GAINS[1]).all()


def test_a_channel_that_never_varies_keeps_its_gain():
    sums, targets, _ = pairs(7)
    sums[:, 1] = 4.0
    whole = Moments.of_pairs(sums, targets, np.ones(6))
    assert fit_gain(whole, whole)[1] == 1
