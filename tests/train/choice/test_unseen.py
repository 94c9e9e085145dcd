"""How much a kind of quality never seen may lose decides how near to a known one a picture must be."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support import worlds
from tests.support.worlds import specialists
from train.choice.fit import fit_choice
from train.choice.selector import INSIDE
from train.choice.unseen_kinds import careful_inside
from train.choice.validation_set import ValidationSet

pytestmark = pytest.mark.slow


def world(monkeypatch, apart: int, loss: float):
    """Private variants that gain a point on their own kind and lose `loss` on others, whose features lie so apart."""
    monkeypatch.setattr(worlds, "CENTRE", {"clean": 0, "blur": apart, "noise": -apart, "pixelate": 7 * apart // 4})
    return specialists(0.01, loss).evidence()


def shares(evidence, most: float) -> np.ndarray:
    return careful_inside(ValidationSet.of_evidence(evidence), 0, most=most)


def test_kinds_far_from_others_cost_no_care(monkeypatch):
    assert (shares(world(monkeypatch, 4000, 0.05), 0.005) == INSIDE).all()


def test_kinds_close_to_others_make_it_careful(monkeypatch):
    evidence = world(monkeypatch, 400, 0.05)
    inside = [shares(evidence, most) for most in (0.0, 0.005, 0.02, 1.0)]
    means = [s[~evidence.shared].mean() for s in inside]
    assert means == sorted(means) and inside[1].min() < 0.5 and (inside[-1] == INSIDE).all()
    assert all((s[evidence.shared] == INSIDE).all() and s.min() >= 0 for s in inside)


def test_harmless_variants_cost_no_care(monkeypatch):
    assert (shares(world(monkeypatch, 400, 0.0), 0.005) == INSIDE).all()


def test_a_kind_never_seen_then_loses_less(monkeypatch):
    """Pixelation beyond blur, whose private variant it would get, and which knows nothing of it."""
    evidence = world(monkeypatch, 400, 0.05)
    unseen = np.repeat([family == "pixelate" for family, _ in evidence.views], evidence.pictures)
    lost = []
    for most in (0.005, 1.0):
        choice = fit_choice(ValidationSet.of_evidence(evidence), 1.0, 0, inside=shares(evidence, most))
        w4a4 = [k for k, v in enumerate(evidence.variants) if v.name.startswith("w4a4")]
        predicted = choice.selector.predict(evidence.test.features[unseen])[:, w4a4]
        right = evidence.test.correct[unseen][:, w4a4]
        lost.append(float((right[:, 0].astype(float) - right[np.arange(len(right)), predicted.argmax(1)]).mean()))
    assert lost[0] < 0.01 < 0.02 < lost[1], lost


@pytest.mark.parametrize("alone", ["no private variants", "one kind"])
def test_nothing_to_be_careful_of(monkeypatch, alone):
    evidence = world(monkeypatch, 400, 0.05)
    validation = ValidationSet.of_evidence(evidence)
    if alone == "one kind":
        validation = replace(validation, kinds=np.zeros_like(validation.kinds))
    else:
        validation = validation.of_variants(evidence.statics)
    assert (careful_inside(validation, 0, most=0.0) == INSIDE).all()
