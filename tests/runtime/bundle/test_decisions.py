"""What training decided is read with a bundle, or refused when the bundle is opened."""

import math
import shutil

import pytest

from runtime import BundleError, Engine, open_bundle
from tests.runtime.changes import read_manifest, refusal, rewrite, write_manifest

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(small_bundle, tmp_path):
    return shutil.copytree(small_bundle, tmp_path / "copy")


@pytest.mark.parametrize("own", ["0.5", -1, float("nan"), float("inf"), True, [0.5], {}])
def test_an_own_budget_that_is_none(copy, own):
    rewrite(copy, budget=own)
    assert "budget" in refusal(copy)
    rewrite(copy, budget=0.5)
    assert open_bundle(copy).manifest.budget == 0.5
    rewrite(copy, selector={})  # and no table of budgets
    assert "expected a table of budgets" in refusal(copy)


def test_an_input_too_small_for_the_selector(copy):
    rewrite(copy, input__shape=[7, 16, 3])
    open_bundle(copy, verify=False)
    rewrite(copy, selector={})
    assert "expected an input of 8 pixels a side or more" in refusal(copy)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"format": 1}, "expected format 3"),
        ({"costs": [1, 2]}, "costs"),
        ({"offset": None}, "offset"),
        ({"threshold": 1.5}, "threshold"),
        ({"features": ["noise"]}, "features"),
    ],
)
def test_damaged_selectors_are_refused(selecting, change, words):
    manifest = read_manifest(selecting)
    manifest["selector"].update(change)
    write_manifest(selecting, manifest)
    with pytest.raises(BundleError, match=words):
        Engine(selecting)


def test_selector_for_other_variants_is_refused(selecting):
    manifest = read_manifest(selecting)
    del manifest["variants"][2]
    write_manifest(selecting, manifest)
    with pytest.raises(BundleError, match="selector: expected one among 2 variants, got one among 3"):
        Engine(selecting)


def test_a_bundle_older_than_the_own_budget_opens(selecting):
    manifest = read_manifest(selecting)
    del manifest["budget"]
    write_manifest(selecting, manifest)
    with Engine(selecting) as engine:
        assert engine.budget == math.inf
