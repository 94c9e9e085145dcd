"""Steps are those of the smallest squared error, against searches that leave nothing out."""

import itertools

import numpy as np
import pytest

from compile.calibrate.steps import (
    Histogram,
    Quantizer,
    activation_quantizer,
    common_weight_step,
    quantizer_of_range,
    squared_error,
    weight_codes,
    weight_steps,
)

pytestmark = pytest.mark.slow

DISTRIBUTIONS = {
    "relu": lambda rng: np.maximum(rng.normal(0, 1, 4000), 0),
    "normal": lambda rng: rng.normal(0.3, 1, 4000),
    "heavy": lambda rng: rng.standard_t(3, 4000),
    "one sided": lambda rng: -rng.exponential(1, 4000),
    "clipped": lambda rng: np.clip(rng.normal(3, 3, 4000), 0, 6),
}


def exact(array: np.ndarray, quantizer: Quantizer) -> float:
    """The squared error over the values themselves."""
    return float(np.square(quantizer.rounded(array.astype(np.float64)) - array).sum())


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_activations_against_every_range_of_a_fine_grid(name, bits):
    array = DISTRIBUTIONS[name](np.random.default_rng(0))
    chosen = exact(array, activation_quantizer(Histogram.from_array(array), bits))
    low, high = min(0.0, array.min()), max(0.0, array.max())
    shares = np.linspace(0.02, 1, 50)
    grid = {(low * a, high * b) for a, b in itertools.product(shares, shares)}
    best = min(exact(array, quantizer_of_range(a, b, bits)) for a, b in grid if b > a)
    # the search is not over the same grid, and the middles of bins stand for values at 8 bits
    assert chosen <= best * 1.02


def test_clipping_pays_at_few_bits_and_not_at_many():
    array = np.random.default_rng(0).standard_t(3, 4000)
    reach = {bits: activation_quantizer(Histogram.from_array(array), bits) for bits in (3, 8)}
    widths = {bits: q.scale * q.largest for bits, q in reach.items()}
    assert widths[3] < 0.5 * widths[8]


def test_zero_is_exact_and_values_of_one_kind_are_taken():
    for array in (np.zeros(5), np.full(5, 2.5), np.full(5, -2.5), np.array([0.0, 1.0])):
        quantizer = activation_quantizer(Histogram.from_array(array), 8)
        assert quantizer.rounded(np.zeros(1))[0] == 0
        np.testing.assert_allclose(quantizer.rounded(array), array, atol=0.02)


def test_a_histogram_counts_every_value():
    array = np.maximum(np.random.default_rng(0).normal(0, 1, (3, 4, 50)), 0)
    histogram = Histogram.from_array(array)
    assert histogram.counts.sum() == array.size and histogram.counts.min() >= 0
    assert histogram.counts[histogram.values == 0].sum() == (array == 0).sum()
    joined = Histogram.joined([histogram, histogram])
    quantizer = Quantizer(0.05, 0, 4)
    assert np.isclose(squared_error(joined, quantizer), 2 * squared_error(histogram, quantizer))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_weights_against_every_share(bits):
    weight = np.random.default_rng(0).normal(0, 1, (5, 4, 3, 3)) * np.logspace(-2, 2, 5).reshape(-1, 1, 1, 1)
    steps = weight_steps(weight, bits)
    errors = np.square(weight_codes(weight, steps, bits) * steps.reshape(-1, 1, 1, 1) - weight).sum((1, 2, 3))
    whole = np.abs(weight).max((1, 2, 3)) / ((1 << (bits - 1)) - 1)
    for share in np.linspace(0.3, 1.05, 151):
        step = whole * share
        other = np.square(weight_codes(weight, step, bits) * step.reshape(-1, 1, 1, 1) - weight).sum((1, 2, 3))
        # the errors of 36 weights jump from share to share, and the grid of the search is coarser at 8 bits
        assert (errors <= other * 1.1).all()


def test_one_step_for_all_channels_and_channels_of_zeros():
    weight = np.random.default_rng(0).normal(0, 1, (5, 7))
    weight[2] = 0
    assert (weight_steps(weight, 4) > 0).all()
    step = common_weight_step(weight, 8)
    assert np.abs(weight_codes(weight, np.full(5, step), 8) * step - weight).max() <= step


def test_importance_moves_a_step():
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (1, 200))
    weight[0, 0] = 6.0
    heavy = np.ones((1, 200))
    heavy[0, 0] = 1e4
    assert weight_steps(weight, 4, heavy)[0] > weight_steps(weight, 4)[0]
