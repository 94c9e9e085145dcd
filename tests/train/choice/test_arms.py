"""Arms of invented runs: what each takes, what is left out, and that controls lose where the picture matters."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.worlds import TRAINED, VIEWS, Evidence, World, alike
from train.choice import selector
from train.choice.arms import answer_with_arms, best_static
from train.choice.fit import fit_choice
from train.choice.oracle import pick_within_budget
from train.choice.scores import FULL_COST, make_results, score_arms
from train.choice.validation_set import ValidationSet
from train.evidence.results import Result
from train.report.compare import TRAINED as KNOWN
from train.report.compare import arm_named, compare

pytestmark = pytest.mark.slow

ACCURACY = {
    "w8a8": alike(0.85),
    "w4a4": alike(0.80),
    **{f"w4a4-q{k}": {**alike(0.70), f: 0.84} for k, f in enumerate(TRAINED)},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(selector, "STEPS", 200)  # these kinds lie far apart


def with_arms(world: World, budget: float, escalate: bool = False) -> Evidence:
    evidence = world.evidence()
    choice = fit_choice(ValidationSet.of_evidence(evidence), budget, 0, escalate=escalate)
    return answer_with_arms(evidence, choice, budget, 0)


def test_private_variants_found_by_quality_and_lost_by_controls():
    evidence = with_arms(World(ACCURACY, {"w4a4": TRAINED}, pictures=400), 0.3)
    assert list(evidence.arms) == ["static", "private", "bits", "cascade", "adaptive", "shuffled", "oracle"]
    names = [v.name for v in evidence.variants]
    c = compare(evidence)[KNOWN]
    arm = {name: arm_named(c.accuracy, name) for name in (*evidence.arms, "random")}
    assert arm["static"] == ("static", "w4a4") and c.cost[arm["private"]][0] == pytest.approx(0.3)
    assert c.gain(arm["private"]).value > 0.03 and c.gain(arm["private"]).verdict == 1
    assert c.gain(arm["bits"]).verdict == 0
    for control in ("shuffled", "random"):
        assert c.difference(arm["adaptive"], arm[control]).verdict == 1
    assert c.accuracy[arm["oracle"]][0] == pytest.approx(0.84, abs=0.005)
    unseen = [j for j, (f, _) in enumerate(VIEWS) if f == "pixelate"]
    assert {names[k] for k in np.unique(evidence.by_view(evidence.arms["oracle"].variant)[unseen])} == {"w4a4"}
    curve = evidence.curve
    assert curve.accuracy.shape == curve.cost.shape and (np.diff(curve.cost.mean(1)) > -0.05).all()


def test_records_are_counts_with_their_errors():
    evidence = with_arms(World(ACCURACY, {"w4a4": TRAINED}, pictures=400), 0.3)
    results = make_results(evidence, seed=7)
    keys = {"arm", "variant", "family", "severity", "heldout", "pictures", "correct", "cost", "seed", "stderr"}
    assert all(keys <= set(r.to_dict()) and r.seed == 7 and r.pictures == 400 for r in results)
    assert [Result.from_dict(r.to_dict()) for r in results] == results
    assert len(results) == len(VIEWS) * (1 + 5 + 8)  # float, variants, arms
    alone = next(r for r in results if r.variant == "w4a4-q1" and r.family == "blur")
    assert (alone.correct, alone.cost) == (336, 0.3)
    assert alone.stderr == pytest.approx((0.84 * 0.16 / 400) ** 0.5)
    floats = next(r for r in results if r.arm == "fp32")
    assert (floats.correct, floats.cost, floats.stderr) == (400, FULL_COST, 0)
    for r in (r for r in results if r.arm == "adaptive"):
        assert sum(r.chosen.shares.values()) == pytest.approx(1)
        assert sum(v for k, v in r.to_dict().items() if k.startswith("share/")) == pytest.approx(1)
    total = {arm: sum(r.cost for r in results if r.arm == arm) for arm in ("adaptive", "random")}
    ran = evidence.costs[evidence.arms["adaptive"].variant].mean() * len(VIEWS)  # without second passes
    assert total["random"] == pytest.approx(ran) and ran <= total["adaptive"]
    assert score_arms(evidence)["random", "shares"].correct.shape == (len(VIEWS), 400)


def test_arms_without_sense_are_left_out():
    one = with_arms(World({"w4a4": alike(0.8)}, {}, pictures=200), 0.5)
    assert list(one.arms) == ["static", "adaptive"] and not arm_named(score_arms(one), "random")
    level = with_arms(World({n: a for n, a in ACCURACY.items() if n != "w8a8"}, {"w4a4": TRAINED}, pictures=200), 0.5)
    assert list(level.arms) == ["static", "adaptive", "shuffled", "oracle"]  # private would be adaptive again
    plain = World({n: ACCURACY[n] for n in ("w8a8", "w4a4")}, {}, pictures=200)
    assert list(with_arms(plain, 0.5).arms) == ["static", "cascade", "adaptive", "shuffled", "oracle"]
    assert "bits" in with_arms(plain, 0.5, escalate=True).arms


def test_best_static_keeps_to_the_budget_and_has_its_own_weights():
    evidence = World({**ACCURACY, "w2a2": alike(0.80)}, {"w4a4": TRAINED}, pictures=200).evidence()
    name = {budget: evidence.variants[best_static(evidence, budget)].name for budget in (1.0, 0.5, 0.05)}
    assert name == {1.0: "w8a8", 0.5: "w2a2", 0.05: "w2a2"}  # of equals the cheaper; none is cheaper than the cheapest


def test_oracle_picks_as_trying_all_would():
    rng, costs = np.random.default_rng(0), np.array([1.0, 0.3, 0.1, 0.3])
    for budget in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0):
        accuracy, weights = rng.random((4, 4)), rng.dirichlet(np.ones(4))
        chosen = pick_within_budget(accuracy, weights, costs, budget)
        assert weights @ costs[chosen] <= max(budget, 0.1) + 1e-9
        lambdas = [
            lam
            for lam in np.linspace(0, 20, 20001)
            if weights @ costs[(accuracy - lam * costs).argmax(1)] <= max(budget, 0.1) + 1e-9
        ]
        by_grid = (accuracy - lambdas[0] * costs).argmax(1) if lambdas else np.full(4, 2)
        got, other = ((weights * accuracy[range(4), pick]).sum() for pick in (chosen, by_grid))
        assert got >= other - 1e-9


def test_variants_in_another_order_gain_the_same():
    """Which variant comes first must not matter."""
    evidence = World({n: ACCURACY[n] for n in ("w8a8", "w4a4")}, {}, pictures=200).evidence()
    turned = replace(
        evidence,
        variants=evidence.variants[::-1],
        test=evidence.test.of_variants([1, 0]),
        validation=evidence.validation.of_variants([1, 0]),
    )
    gains = []
    for e in (evidence, turned):
        choice = fit_choice(ValidationSet.of_evidence(e), 0.5, 0)
        compared = compare(answer_with_arms(e, choice, 0.5, 0))[KNOWN]
        names = ("static", "adaptive", "oracle")
        gains.append([compared.gain(arm_named(compared.accuracy, name)).value for name in names])
    assert gains[0] == pytest.approx(gains[1])
