"""Second-order rounding: never worse than the nearest codes, better where inputs are correlated, near the optimum."""

import itertools

import numpy as np
import pytest

from compile.calibrate.layer_inputs import covariances
from compile.calibrate.network import make_node
from compile.calibrate.rounding import Objective, fitted_step, learned_codes, objectives
from compile.calibrate.steps import weight_codes, weight_steps

pytestmark = pytest.mark.slow


def correlated(rng, taps: int) -> np.ndarray:
    """A covariance [taps, taps] of a few strong directions."""
    mix = rng.normal(0, 1, (taps, max(2, taps // 3)))
    return mix @ mix.T + 0.05 * np.eye(taps)


def start(objective: Objective, bits: int):
    step = weight_steps(objective.target, bits)
    return objective.rounded(weight_codes(objective.target, step, bits), step)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("taps", [1, 9, 70, 200])
def test_never_worse_than_the_nearest(taps, bits):
    rng = np.random.default_rng(taps)
    objective = Objective(rng.normal(0, 1, (6, taps)), correlated(rng, taps))
    nearest = start(objective, bits)
    learned = learned_codes(objective, nearest, bits, lambda step: step)
    assert (learned.error <= nearest.error).all()
    np.testing.assert_allclose(learned.error, objective.error(learned.codes, learned.step))
    half = 1 << (bits - 1)
    assert learned.codes.min() >= -half and learned.codes.max() < half
    if taps >= 70:
        assert learned.error.sum() < 0.7 * nearest.error.sum()


def test_the_step_that_may_be_used_is_used():
    rng = np.random.default_rng(0)
    objective = Objective(rng.normal(0, 1, (4, 30)), correlated(rng, 30))
    nearest = start(objective, 4)
    learned = learned_codes(objective, nearest, 4, lambda step: np.round(step, 2))
    moved = learned.step != nearest.step
    assert moved.any() and np.array_equal(learned.step[moved], np.round(learned.step[moved], 2))


def test_near_the_best_of_all_codes_where_they_can_be_tried():
    rng, bits = np.random.default_rng(0), 2
    ratios = []
    for _ in range(20):
        objective = Objective(rng.normal(0, 1, (1, 5)), correlated(rng, 5))
        nearest = start(objective, bits)
        fixed = learned_codes(objective, nearest, bits, lambda _, step=nearest.step: step)
        every = [
            objective.error(np.array([codes]), nearest.step)[0] for codes in itertools.product(range(-2, 2), repeat=5)
        ]
        ratios.append(fixed.error[0] / min(every))
    assert min(ratios) >= 1 - 1e-9 and np.median(ratios) < 1.05


def test_the_fitted_step_is_the_best_for_its_codes():
    rng = np.random.default_rng(0)
    objective = Objective(rng.normal(0, 1, (3, 20)), correlated(rng, 20))
    rounded = start(objective, 3)
    step = fitted_step(objective, rounded)
    for factor in (0.97, 1.0, 1.03):
        assert (objective.error(rounded.codes, step) <= objective.error(rounded.codes, step * factor) + 1e-12).all()


@pytest.mark.parametrize("groups, kernel, stride", [(1, 3, 1), (1, 1, 2), (2, 3, 2), (6, 3, 1)])
def test_covariances_are_those_of_the_layer(groups, kernel, stride):
    """The error of weights, from covariances, is that of the layer's outputs less their means."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (6, 6 // groups, kernel, kernel)).astype(np.float32)
    x = rng.normal(0, 1, (8, 6, 9, 9)).astype(np.float32)
    pads = [kernel // 2] * 4
    attributes = {"group": groups, "pads": pads, "strides": [stride] * 2, "kernel_shape": [kernel] * 2}
    node = make_node("Conv", ["x", "w"], "y", **attributes)
    statistics = covariances(node, weight, x, x)
    rest = rng.normal(0, 0.1, weight.shape).astype(np.float32)
    from compile.calibrate.executor import NodeRunner

    (out,) = NodeRunner().run(node, [x, rest])
    expected = out.transpose(1, 0, 2, 3).reshape(6, -1).var(1)
    rows = rest.reshape(groups, 6 // groups, -1).astype(np.float64)
    errors = np.einsum("gok,gkl,gol->go", rows, statistics.inputs, rows).reshape(-1)
    np.testing.assert_allclose(errors, expected, rtol=1e-4)  # float32 sums


def test_the_target_makes_up_for_noise_of_the_inputs():
    rng = np.random.default_rng(0)
    node = make_node("Gemm", ["x", "w"], "y", transB=1)
    floats = rng.normal(0, 1, (5000, 8)).astype(np.float32)
    quantized = floats * np.float32(0.9)  # a network before it that has lost a tenth
    weight = rng.normal(0, 1, (3, 8)).astype(np.float32)
    (objective,) = objectives(weight, covariances(node, weight, quantized, floats))
    np.testing.assert_allclose(objective.target, weight / 0.9, rtol=0.02, atol=0.01)
    (plain,) = objectives(weight, covariances(node, weight, floats, floats))
    np.testing.assert_allclose(plain.target, weight, rtol=1e-4, atol=1e-5)
