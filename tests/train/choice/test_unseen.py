"""How much a kind of quality never seen may lose decides how near to a known one a picture must be."""

import numpy as np
import pytest

from runtime.choice.selector import Selector
from tests.support import worlds
from tests.support.worlds import specialists
from train.choice.fit import fit_choice
from train.choice.selector import INSIDE
from train.choice.unseen_kinds import careful_inside


def world(monkeypatch, apart: int, loss: float):
    """Private variants that gain a point on their own kind and lose `loss` on others, whose features lie so apart."""
    monkeypatch.setattr(worlds, "CENTRE", {"clean": 0, "blur": apart, "noise": -apart, "pixelate": 7 * apart // 4})
    return specialists(0.01, loss).evidence()


def shares(evidence, most: float) -> np.ndarray:
    return careful_inside(evidence.seen, evidence.kinds, evidence.costs, 0, shared=evidence.shared, most=most)


def test_kinds_far_from_others_cost_no_care(monkeypatch):
    assert (shares(world(monkeypatch, 4000, 0.05), 0.005) == INSIDE).all()


def test_kinds_close_to_others_make_it_careful(monkeypatch):
    evidence = world(monkeypatch, 400, 0.05)
    found = [shares(evidence, most) for most in (0.0, 0.005, 0.02, 1.0)]
    means = [s[~evidence.shared].mean() for s in found]
    assert means == sorted(means) and found[1].min() < 0.5 and (found[-1] == INSIDE).all()
    assert all((s[evidence.shared] == INSIDE).all() and s.min() >= 0 for s in found)


def test_harmless_variants_cost_no_care(monkeypatch):
    assert (shares(world(monkeypatch, 400, 0.0), 0.005) == INSIDE).all()


def test_a_kind_never_seen_then_loses_less(monkeypatch):
    """Pixelation beyond blur, whose private variant it would get, and which knows nothing of it."""
    evidence = world(monkeypatch, 400, 0.05)
    unseen = np.repeat([family == "pixelate" for family, _ in evidence.places], evidence.pictures)
    lost = []
    for most in (0.005, 1.0):
        choice = fit_choice(
            evidence.seen,
            evidence.kinds,
            evidence.costs,
            1.0,
            0,
            shared=evidence.shared,
            pictures=evidence.subjects,
            inside=shares(evidence, most),
        )
        w4a4 = [k for k, v in enumerate(evidence.variants) if v.name.startswith("w4a4")]
        predicted = Selector.from_dict(choice.selector).predict(evidence.test.features[unseen])[:, w4a4]
        right = evidence.test.correct[unseen][:, w4a4]
        lost.append(float((right[:, 0].astype(float) - right[np.arange(len(right)), predicted.argmax(1)]).mean()))
    assert lost[0] < 0.01 < 0.02 < lost[1], lost


@pytest.mark.parametrize("alone", ["no private variants", "one kind"])
def test_nothing_to_be_careful_of(monkeypatch, alone):
    evidence = world(monkeypatch, 400, 0.05)
    seen, kinds, shared = evidence.seen, evidence.kinds, evidence.shared
    if alone == "one kind":
        kinds = np.zeros_like(kinds)
    else:
        seen, shared = seen.of_variants(evidence.ladder), shared[evidence.ladder]
    costs = evidence.costs[: seen.correct.shape[1]] if alone == "one kind" else evidence.costs[evidence.ladder]
    assert (careful_inside(seen, kinds, costs, 0, shared=shared, most=0.0) == INSIDE).all()
