"""What the benchmark of adaptations counts: arms by view, means by family, and differences over the same pictures."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.adapt import CALIBRATED, CLEAN, UNSEEN, Arm, arms_of, intervals, make_parser, means
from tests.support.worlds import specialists
from train.evidence.evidence import Answers

VIEWS = (("clean", 0), ("jpeg", 1), ("jpeg", 5), ("pixelate", 1))


@pytest.fixture(scope="module")
def evidence():
    """Evidence over four views, of which one family is held out."""
    known = specialists(0.1).evidence()
    count = known.pictures
    rows = np.arange(len(VIEWS) * count)
    test = known.test.of_pictures(rows)
    answers = Answers(np.ones(len(rows), np.int64), np.full(len(rows), known.costs[1]))
    names = ["w8a8", "w8a8-all", *[v.name for v in known.variants[2:]]]
    variants = tuple(replace(v, name=name) for v, name in zip(known.variants, names, strict=True))
    return replace(known, variants=variants, views=VIEWS, held_out=("pixelate",), test=test, arms={"adaptive": answers})


def test_families_count_alike_whatever_their_severities(evidence):
    right = np.zeros((4, evidence.pictures), bool)
    right[0], right[1] = True, True
    assert means(evidence, right) == {CALIBRATED: 75.0, UNSEEN: 0.0, CLEAN: 100.0}


def test_arms_are_the_variants_that_their_names_say(evidence):
    arms = arms_of(evidence)
    assert list(arms) == ["one", "all", "adaptive"]
    correct = evidence.by_view(evidence.test.correct)
    np.testing.assert_array_equal(arms["one"].right, correct[..., 0])
    np.testing.assert_array_equal(arms["all"].right, arms["adaptive"].right)
    assert arms["one"].cost.shape == arms["one"].right.shape


def test_an_interval_is_over_pictures_that_both_answer(evidence):
    right = np.zeros((4, evidence.pictures), bool)
    better = right.copy()
    better[:, ::2] = True
    cost = np.ones(right.shape)
    found = intervals(evidence, Arm(better, cost), Arm(right, cost))
    for difference, low, high in found.values():
        assert difference == pytest.approx(50, abs=0.2) and low < difference < high
    same = intervals(evidence, Arm(better, cost), Arm(better, cost))
    assert set(same.values()) == {(0.0, 0.0, 0.0)}


def test_a_checkpoint_is_named_with_its_architecture(capsys):
    parser = make_parser()
    known = parser.parse_args(["--data", "x", "--checkpoint", "resnet20=a.th", "--bits", "8", "4"])
    assert known.checkpoint[0][0] == "resnet20" and known.bits == ["8", "4"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--data", "x", "--checkpoint", "a.th"])
    assert "expected ARCH=FILE, got 'a.th'" in capsys.readouterr().err
