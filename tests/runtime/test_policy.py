"""Which variant runs: by quality and budget, by budget alone, or the one that was named."""

import math
import shutil

import numpy as np
import pytest

from runtime import BundleError, Engine
from runtime.choice import quality
from targets.reference import interpreter
from tests.conftest import BITS
from tests.runtime.changes import read_manifest, write_manifest
from tests.support.graphs import resnet_like


@pytest.fixture(scope="module")
def graphs():
    return {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}


def test_selector_decides_by_quality(selecting, graphs):
    dark, light = np.full((16, 16, 3), 20, np.uint8), np.full((30, 30, 3), 220, np.uint8)
    with Engine(selecting) as engine:
        predictions = engine.infer_batch([dark, light, dark])
        assert [p.variant for p in predictions] == ["w4a4", "w8a8", "w4a4"]
        assert engine.infer(light).variant == "w8a8"
        assert engine.infer(light, variant="again").variant == "again"
    assert predictions[0].quality == dict(zip(quality.NAMES, quality.features(dark[None])[0].tolist(), strict=True))
    np.testing.assert_array_equal(predictions[0].logits, interpreter.run(graphs["w4a4"], dark[None])[0])


def test_budgets_of_the_selector(selecting):
    light = np.full((16, 16, 3), 220, np.uint8)
    for budget, expected in ((None, "w8a8"), (math.inf, "w8a8"), (0.8, "w8a8"), (0.79, "w4a4"), (0.5, "w4a4")):
        with Engine(selecting, budget=budget) as engine:
            assert engine.infer(light).variant == expected, budget
    with pytest.raises(ValueError, match="expected at least 0.5"):
        Engine(selecting, budget=0.49)


@pytest.mark.parametrize("own, expected", [(0.9, "w8a8"), (0.6, "w4a4"), (0.1, "w4a4"), (None, "w8a8")])
def test_the_bundle_s_own_budget_is_the_default(selecting, own, expected):
    """As where the run was reported: one below the smallest of the table means that."""
    manifest = read_manifest(selecting)
    write_manifest(selecting, manifest | {"budget": own})
    light = np.full((16, 16, 3), 220, np.uint8)
    with Engine(selecting) as engine:
        assert engine.infer(light).variant == expected and engine.budget == (max(own, 0.5) if own else math.inf)
    with Engine(selecting, budget=math.inf) as engine:
        assert engine.infer(light).variant == "w8a8" and engine.budget == math.inf
    with Engine(selecting, variant="w4a4") as engine:
        assert engine.budget is None


def test_the_own_budget_without_a_selector(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = read_manifest(folder)
    for own, expected in ((0.95, "again"), (0.1, "w4a4"), (None, "w8a8")):
        write_manifest(folder, manifest | {"budget": own})
        with Engine(folder) as engine:
            assert engine.infer(np.zeros((16, 16, 3), np.uint8)).variant == expected


def test_the_least_budget_can_be_typed(selecting):
    manifest = read_manifest(selecting)
    manifest["budgets"][1]["budget"] = 0.2765510850812211
    write_manifest(selecting, manifest)
    with pytest.raises(ValueError, match="expected at least 0.2766, the"):
        Engine(selecting, budget=0.27655)
    Engine(selecting, budget=0.2766).close()


def test_budgets_without_a_selector(small_bundle):
    for budget, expected in ((None, "w8a8"), (1.0, "w8a8"), (0.95, "again"), (0.5, "w4a4")):
        with Engine(small_bundle, budget=budget) as engine:
            assert engine.infer(np.zeros((16, 16, 3), np.uint8)).variant == expected
    with pytest.raises(ValueError, match="expected at least 0.5"):
        Engine(small_bundle, budget=0.1)


def test_one_variant_for_all(selecting):
    with Engine(selecting, variant="w4a4") as engine:
        p = engine.infer(np.full((16, 16, 3), 220, np.uint8))
        assert p.variant == "w4a4" and p.quality is None
    with pytest.raises(BundleError, match="expected a variant among w8a8, w4a4, again; got 'w2a2'"):
        Engine(selecting, variant="w2a2")
    with pytest.raises(ValueError, match="expected a budget or a variant"):
        Engine(selecting, variant="w4a4", budget=1.0)
