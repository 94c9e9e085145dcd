"""What a report says of invented runs whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from runtime.choice.quality import NAMES
from tests.support.worlds import HELD_OUT, OWN, TRAINED, VIEWS, World, alike, answers_by_family, routed, specialists
from train.choice.scores import make_results
from train.evidence.evidence import BudgetCurve, Evidence
from train.kinds.kinds import Kinds
from train.report.at_budgets import at_budgets
from train.report.chosen_bits import chosen_bits
from train.report.compare import CLEAN, compare, panel_weights, static_corners
from train.report.compare import HELD_OUT as UNSEEN
from train.report.compare import TRAINED as KNOWN
from train.report.does_it_pay import does_it_pay
from train.report.swap_test import swap_test

pytestmark = pytest.mark.slow


def test_a_gain_of_one_point_is_found_and_covered():
    evidence = routed(specialists(0.01, 0.05), OWN)
    compared = compare(evidence)
    for panel, truth in ((KNOWN, 0.01), (CLEAN, 0.01), (UNSEEN, 0.0)):
        gain = compared[panel].gain(("private", "selector"))
        assert gain.value == pytest.approx(truth, abs=1e-9) and gain.low - 1e-9 <= truth <= gain.high + 1e-9
        assert gain.verdict == (truth > 0)
    text = "\n".join(does_it_pay(evidence, compared))
    assert "On the training families, this pays: private, adaptive." in text
    assert "better than static variants at equal cost by 1.00 points [" in text
    assert "held-out families: not better than these (+0.00 points [" in text
    # 0.80 to 0.85 costs 0.7 more, so that 0.81 is reached at 0.44: 1.47 times 0.3
    assert "at 1.47 times its cost [" in text and "| × 1.47 [" in text
    lost = compared[KNOWN].difference(("adaptive", "selector"), ("shuffled", "selector"))
    assert lost.verdict == 1 and "adaptive is better than itself with the quality of other pictures by" in text
    assert "better than the same variants at random by" in text


def test_the_whole_is_held_against_full_precision():
    """On three families 0.81 against 1, on one 0.80: all four lose 0.1925, families weighing alike."""
    evidence = routed(specialists(0.01, 0.05), OWN)
    compared = compare(evidence)
    both = compared[KNOWN].with_panel(compared[UNSEEN])
    assert [c.families for c in (compared[KNOWN], compared[UNSEEN], compared[CLEAN], both)] == [3, 1, 1, 4]
    assert both.difference(("adaptive", "selector"), ("fp32", "fp32")).value == pytest.approx(-0.1925, abs=1e-9)
    text = "\n".join(does_it_pay(evidence, compared))
    assert "Against the network of full precision, adaptive is, on all 4 families: worse than that by 19.25" in text
    assert "; training families: worse than that by 19.00" in text


def test_another_runs_static_variants_raise_the_line():
    """0.80 at 0.3 is 0.82 in a run that trained nothing else: private variants with 0.81 are worse than that one."""
    evidence = routed(specialists(0.01, 0.05), OWN)
    rival = World({"w8a8": alike(0.85), "w4a4": alike(0.82), "w2a2": alike(0.70)}, {}).evidence()
    compared = compare(evidence, {"twin": rival})
    assert compared[KNOWN].corners == (("fixed", "w2a2"), ("rival", "w4a4 of twin"), ("fixed", "w8a8"))
    gain = compared[KNOWN].gain(("private", "selector"))
    assert gain.value == pytest.approx(-0.01) and gain.verdict == -1
    text = "\n".join(does_it_pay(evidence, compared))
    assert "| `w4a4 of twin` | 82.00 ±" in text and "through `w2a2`, `w4a4 of twin`, `w8a8`" in text
    with pytest.raises(ValueError, match="twin: expected a run with the same test pictures"):
        compare(evidence, {"twin": replace(rival, test=replace(rival.test, features=rival.test.features + 1))})
    better = World({"w8a8": alike(0.85), "w4a4": alike(0.83), "w2a2": alike(0.72)}, {}).evidence()
    assert compare(evidence, {"twin": rival, "third": better})[KNOWN].corners == (
        ("rival", "w2a2 of third"),
        ("rival", "w4a4 of third"),
        ("fixed", "w8a8"),
    )


def test_nothing_to_gain_is_said_so():
    evidence = routed(specialists(0.0), OWN)
    text = "\n".join(does_it_pay(evidence, compare(evidence)))
    assert "On the training families nothing pays: no arm is better than static variants at equal cost." in text
    assert "adaptive is not better than itself with the quality of other pictures" in text


def test_worse_is_said_so():
    wrong = {**OWN, "blur": OWN["noise"], "noise": OWN["blur"]}
    evidence = routed(specialists(0.01, 0.05), wrong)
    text = "\n".join(does_it_pay(evidence, compare(evidence)))
    assert "worse than static variants at equal cost by 3.00 points [" in text and "nothing pays" in text
    assert "adaptive is worse than" in text or "adaptive is not better than itself" in text


def test_mixing_two_rungs_at_random_gains_nothing_over_their_line():
    """Clean pictures at 8 bits, others at 4: nothing of a picture matters here, and the line goes through the point."""
    world = World({"w8a8": alike(0.9), "w4a4": alike(0.8)}, {})
    evidence = world.evidence()
    evidence = replace(
        evidence,
        arms={
            "static": answers_by_family(evidence, dict.fromkeys(OWN, "w4a4")),
            "adaptive": answers_by_family(evidence, {**dict.fromkeys(OWN, "w4a4"), "clean": "w8a8"}),
        },
    )
    c = compare(evidence)[KNOWN]
    arm = ("adaptive", "selector")
    assert c.cost[arm][0] == pytest.approx((1 + 0.3 + 0.3) / 3) and c.accuracy[arm][0] == pytest.approx(2.5 / 3)
    assert c.gain(arm).value == pytest.approx(0, abs=1e-9) and c.gain(arm).verdict == 0
    assert c.cost_ratio(arm).value == pytest.approx(1)


def test_other_budgets_are_told_from_the_curve():
    """0.8 at 0.3 and 0.9 at 1 are the static line; 0.85 at 0.3 is 0.05 above it, had elsewhere at 0.65."""
    evidence = World({"w8a8": alike(0.9), "w4a4": alike(0.8)}, {}).evidence()
    assert (
        at_budgets(
            evidence,
            compare(replace(evidence, arms={"static": answers_by_family(evidence, dict.fromkeys(OWN, "w4a4"))})),
        )
        == []
    )
    accuracy, cost = (np.repeat([[a], [b], [c]], len(VIEWS), 1) for a, b, c in ((0.8, 0.85, 0.95), (0.3, 0.3, 1)))
    static = answers_by_family(evidence, dict.fromkeys(OWN, "w4a4"))
    evidence = replace(evidence, curve=BudgetCurve(accuracy, cost), arms={"static": static})
    text = "\n".join(at_budgets(evidence, compare(evidence)))
    for row in ("| 0.300 | 80.00 % | +0.00 | × 1.00 |", "| 1.000 | 95.00 % | +5.00 | never reached |"):
        assert row in text
    accuracy[0] = 0.85
    text = "\n".join(at_budgets(replace(evidence, curve=BudgetCurve(accuracy, cost)), compare(evidence)))
    assert "| 0.300 | 85.00 % | +5.00 | × 2.17 |" in text


def test_families_weigh_alike_and_panels_are_apart():
    weights = panel_weights(specialists(0).evidence())
    assert list(weights) == [KNOWN, UNSEEN, CLEAN]
    for panel, families in ((KNOWN, TRAINED), (UNSEEN, HELD_OUT), (CLEAN, ("clean",))):
        for family in (*TRAINED, *HELD_OUT):
            weight = [w for w, (f, _) in zip(weights[panel], VIEWS, strict=True) if f == family]
            assert sum(weight) == pytest.approx((family in families) / len(families))


def test_corners_are_picked_on_validation_pictures():
    evidence = World({"w8a8": alike(0.9), "w4a4": alike(0.8), "w2a2": alike(0.79)}, {}).evidence()
    names = [name for _, name in static_corners(evidence, evidence.statics)]
    assert names == ["w2a2", "w8a8"]  # 0.8 at 0.3 lies below the line from 0.79 at 0.1 to 0.9 at 1
    test = replace(evidence.test, correct=~evidence.test.correct)
    assert [name for _, name in static_corners(replace(evidence, test=test), evidence.statics)] == names


@pytest.mark.parametrize(
    "accuracy,words",
    [
        (0.86, "better than given bits at equal cost by 3.78 points ["),
        (0.8222, "not better than given bits at equal cost (-0.00 points ["),
        (0.81, "worse than given bits at equal cost by 1.22 points ["),
    ],
)
def test_learned_bits_are_judged_by_the_line_of_given_ones(accuracy, words):
    """0.8 at 0.1 and 0.9 at 1 make 0.8222 at 0.3, also where the learned one is a corner of the whole frontier."""
    evidence = World({"w8a8": alike(0.9), "w4a4": alike(accuracy), "w2a2": alike(0.8)}, {}, 5000).evidence()
    evidence = replace(
        evidence,
        arms={
            "static": answers_by_family(evidence, dict.fromkeys(OWN, "w4a4")),
            "adaptive": answers_by_family(evidence, dict.fromkeys(OWN, "w4a4")),
        },
    )
    assert "Learned bits" not in "\n".join(does_it_pay(evidence, compare(evidence)))
    learned = replace(
        evidence, variants=tuple(replace(v, method="ilp") if v.name == "w4a4" else v for v in evidence.variants)
    )
    text = "\n".join(does_it_pay(learned, compare(learned)))
    assert "Learned bits against the given ones of `w2a2`, `w8a8`:" in text
    (line,) = (line for line in text.splitlines() if line.startswith("* `w4a4`"))
    assert line.startswith(f"* `w4a4` (by `ilp`, cost 0.300): training families: {words}") and line.count(";") == 2
    every = replace(evidence, variants=tuple(replace(v, method="ilp") for v in evidence.variants))
    assert "Learned bits" not in "\n".join(does_it_pay(every, compare(every)))  # there is nothing to judge by


def kinds() -> Kinds:
    """One around each training family."""
    count, d = len(TRAINED), len(NAMES)
    means = np.zeros((count, d))
    means[:, 0] = (0, 4, -4)
    return Kinds(np.zeros(d), np.full(d, 1000.0), np.full(count, 1 / count), means, np.stack([9 * np.eye(d)] * count))


def test_swap_table():
    world = specialists(0.02, 0.05)
    lines = swap_test(routed(world, OWN), kinds())
    text = "\n".join(lines)
    assert "3 of 3 private variants are better on their own kind than the shared one and all others." in text
    assert "| variant | kind 0 | kind 1 | kind 2 |" in text
    assert "* kind 0: 100 % clean\n* kind 1: 100 % blur\n* kind 2: 100 % noise\n" in text
    assert "| `w4a4` (shared) | 80.00 | 80.00 | 80.00 |" in text
    assert "| `w4a4-q1` | 75.00 | **82.00** | 75.00 |" in text
    assert "`w4a4-q1` on its own kind is better than the shared `w4a4` by 2.00 points [" in text
    text = "\n".join(swap_test(routed(specialists(0.0, 0.05), OWN), kinds()))
    assert "0 of 3 private variants" in text and "not better than the shared `w4a4` (+0.00 points" in text
    plain = World({"w8a8": alike(0.9), "w4a4": alike(0.8)}, {}).evidence()
    assert swap_test(plain, kinds()) == []


@pytest.mark.parametrize("poor, words", [("w8a8", "more bits than"), ("w2a2", "fewer bits than")])
def test_bits_by_severity_have_no_built_in_direction(poor, words):
    world = World({n: alike(0.8) for n in ("w8a8", "w4a4", "w2a2")}, {})
    evidence = world.evidence()
    number = {v.name: k for k, v in enumerate(evidence.variants)}
    variant = np.repeat([number[poor if s == 5 else "w4a4"] for _, s in VIEWS], evidence.pictures)
    variant[::7] = number["w4a4"]
    arm = replace(
        answers_by_family(evidence, dict.fromkeys(OWN, "w4a4")), variant=variant, cost=evidence.costs[variant]
    )
    evidence = replace(
        evidence, arms={"static": answers_by_family(evidence, dict.fromkeys(OWN, "w4a4")), "adaptive": arm}
    )
    text = "\n".join(chosen_bits(make_results(evidence, 0), set(HELD_OUT), evidence))
    assert f"Pictures of severity 5 get {words} clean ones: " in text
    assert ("with severity they rise" if poor == "w8a8" else "with severity they fall") in text
    same = replace(evidence, arms={**evidence.arms, "adaptive": evidence.arms["static"]})
    assert "The bits do not differ with quality" in "\n".join(chosen_bits(make_results(same, 0), set(HELD_OUT), same))


def test_evidence_comes_back_from_disk(tmp_path):
    evidence = routed(specialists(0.01), OWN)
    points = np.random.default_rng(0).random((4, len(VIEWS)))
    evidence = replace(evidence, curve=BudgetCurve(points, points))
    path = evidence.write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["outcomes.npz"]
    back = Evidence.read(tmp_path)
    for name in ("variants", "views", "held_out", "trained"):
        assert getattr(back, name) == getattr(evidence, name)
    for name in ("labels", "full_precision", "families", "severities"):
        assert np.array_equal(getattr(back, name), getattr(evidence, name))
    for read, written in ((back.test, evidence.test), (back.validation, evidence.validation)):
        for name in ("features", "correct", "margin"):
            a, b = getattr(read, name), getattr(written, name)
            assert np.array_equal(a, b) and a.dtype == b.dtype
    assert (
        back.arms.keys() == evidence.arms.keys()
        and np.array_equal(back.curve.accuracy, points)
        and np.array_equal(back.curve.cost, points)
    )
    for name, arm in back.arms.items():
        assert np.array_equal(arm.variant, evidence.arms[name].variant)
        assert np.array_equal(arm.cost, evidence.arms[name].cost)
    assert does_it_pay(back, compare(back)) == does_it_pay(evidence, compare(evidence))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="outcomes.npz: expected outcomes of format 1"):
        Evidence.read(tmp_path)
