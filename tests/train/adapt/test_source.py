"""Float ONNX files as what is adapted: clamps, branches, pools and gates; fits mend poor pictures there too."""

import numpy as np
import pytest

from compile.calibrate.settings import WIDTHS
from compile.qdq.importer import from_model
from tests.compile.calibrate.networks import SIZE, WHOLE, chain, fire, gated, photos, saved
from train.adapt.prepared import Prepared
from train.adapt.source import open_source
from train.adapt.walk import Plan, Twins, fit
from train.integers.evaluate import evaluate
from train.settings.options import SettingsError

COUNT = 24


def poor(pictures: np.ndarray) -> np.ndarray:
    """The same with less contrast and more light."""
    return (pictures * 0.4 + 90).round().astype(np.uint8)


def twins(pictures: np.ndarray) -> Twins:
    origin = np.arange(COUNT)
    return Twins(pictures, origin, np.ones(COUNT), origin % 4 == 3)


@pytest.mark.parametrize("make", [chain, lambda: chain(2.0), fire, gated], ids=["chain", "clipped", "fire", "gated"])
def test_poor_pictures_of_onnx_files_get_nearer_to_their_clean_twins(tmp_path, make):
    source = open_source(saved(tmp_path, make()), preprocessing=WHOLE)
    assert (source.size, source.classes, source.crop) == ((SIZE, SIZE), 6, None)
    clean, other = photos(COUNT), photos(40, seed=1)
    everything = np.concatenate([clean, poor(clean)])
    prepared = Prepared.of(source.network, source.normalization, WIDTHS["8"], everything)
    plans = [Plan(twins(clean), gains=False), Plan(twins(poor(clean))), Plan(twins(poor(clean)), weights=True)]
    plain, *mended = fit(prepared, clean, plans, lambda _: None)

    def logits(fitted, pictures):
        return evaluate(from_model(prepared.model(fitted.layers, "any")), pictures).astype(np.float64)

    wanted = logits(plain, other)
    before = np.square(logits(plain, poor(other)) - wanted).mean()
    for fitted in mended:
        assert np.square(logits(fitted, poor(other)) - wanted).mean() < 0.5 * before


def test_a_file_that_does_not_say_how_it_sees_pictures_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"expected --preprocess.*does not say how it sees pictures"):
        open_source(saved(tmp_path, chain()))
