"""Fits on a walk through a network: poor pictures are mended, and the same pictures give the same fits."""

import numpy as np
import pytest

from compile.calibrate.settings import WIDTHS
from compile.qdq.importer import from_model
from tests.train.adapt.test_checkpoint import trained
from train.adapt.checkpoint import float_network
from train.adapt.prepared import Prepared
from train.adapt.walk import Plan, Twins, fit
from train.integers.evaluate import evaluate

pytestmark = pytest.mark.slow

COUNT = 24


def scene(seed: int = 0) -> np.ndarray:
    """Smooth pictures uint8 [COUNT, 16, 20, 3] of all lights."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (COUNT, 4, 5, 3))
    return coarse.repeat(4, 1).repeat(4, 2).round().astype(np.uint8)


def poor(pictures: np.ndarray) -> np.ndarray:
    """The same with half of their contrast and more light."""
    return (pictures * 0.4 + 100).round().astype(np.uint8)


def twins(pictures: np.ndarray) -> Twins:
    origin = np.arange(COUNT)
    return Twins(pictures, origin, np.ones(COUNT), origin % 4 == 3)


@pytest.fixture(scope="module", params=["8", "4"])
def prepared(request) -> Prepared:
    network, normalization = float_network(trained("resnet8"))
    clean = scene()
    return Prepared.of(network, normalization, WIDTHS[request.param], np.concatenate([clean, poor(clean)]))


def logits(prepared: Prepared, fitted, pictures: np.ndarray) -> np.ndarray:
    return evaluate(from_model(prepared.model(fitted.layers, "any")), pictures).astype(np.float64)


def alike(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1])


def test_poor_pictures_get_nearer_to_their_clean_twins(prepared):
    clean, other = scene(), scene(1)
    plans = [Plan(twins(clean), gains=False), Plan(twins(poor(clean))), Plan(twins(poor(clean)), weights=True)]
    counts = []
    plain, tables, weights = fit(prepared, clean, plans, counts.append)
    wanted = logits(prepared, plain, other)
    before = alike(logits(prepared, plain, poor(other)), wanted)
    after = [alike(logits(prepared, fitted, poor(other)), wanted) for fitted in (tables, weights)]
    assert min(after) > before + 0.05 and len(counts) == 3 * len(plain.layers)
    for name, layer in plain.layers.items():
        np.testing.assert_array_equal(layer.codes, tables.layers[name].codes)  # kinds differ in their tables alone
    assert plain.weights == {} == tables.weights and weights.weights.keys() == weights.layers.keys()


def test_other_weights_may_be_the_base_of_tables(prepared):
    clean = scene()
    (fitted,) = fit(prepared, clean, [Plan(twins(poor(clean)), weights=True)], lambda _: None)
    (tables,) = fit(prepared, clean, [Plan(twins(poor(clean)), base=fitted.weights)], lambda _: None)
    for name, layer in fitted.layers.items():
        np.testing.assert_array_equal(layer.codes, tables.layers[name].codes)


def test_a_fit_is_a_function_of_its_pictures(prepared):
    clean = scene()
    plan = Plan(twins(poor(clean)), weights=True)
    first, second = (fit(prepared, clean, [plan], lambda _: None)[0] for _ in range(2))
    both = [prepared.model(f.layers, "any").SerializeToString(deterministic=True) for f in (first, second)]
    assert both[0] == both[1]


def test_plans_side_by_side_are_those_alone(prepared):
    clean = scene()
    plans = [Plan(twins(poor(clean))), Plan(twins(clean))]
    together = fit(prepared, clean, plans, lambda _: None)
    for plan, fitted in zip(plans, together, strict=True):
        (alone,) = fit(prepared, clean, [plan], lambda _: None)
        for name, layer in alone.layers.items():
            np.testing.assert_array_equal(layer.codes, fitted.layers[name].codes)
            np.testing.assert_array_equal(layer.bias, fitted.layers[name].bias)
            np.testing.assert_array_equal(layer.step, fitted.layers[name].step)
