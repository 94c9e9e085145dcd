"""Compares all arms on the families of a panel, resampled together, with static variants at equal cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from train.choice.scores import Scores, score_arms
from train.evidence.evidence import Evidence, VariantFacts
from train.evidence.results import Arm, Point
from train.report.bootstrap import Estimate, resampled
from train.report.frontier import cost_on_line, hull_corners, over_line

SEED = 0  # of the resamples
FIXED = "fixed"  # method of variants whose bits were written by hand, not learned
RIVAL = "rival"  # arm of another run's variant, "VARIANT of RUN"
TRAINED, HELD_OUT, CLEAN = "training families", "held-out families", "clean"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Accuracy (0..1) and cost of each arm, [1 + R]: on the test pictures, then on every resample of them.

    corners: arms on the hull of the static variants by rising cost, picked on validation pictures, so that none of them
    profits here from having been picked here; among them those of other runs, where such are given. fixed: the same
    among variants whose bits were not learned. families: how many families are in the panel.
    """

    accuracy: dict[Arm, np.ndarray]
    cost: dict[Arm, np.ndarray]
    corners: tuple[Arm, ...]
    fixed: tuple[Arm, ...] = ()
    families: int = 1

    def gain(self, arm: Arm) -> Estimate:
        """Returns the accuracy above that of static variants at the same mean cost."""
        return Estimate.of(over_line(self.accuracy[arm], self.cost[arm], *self._line(self.corners)))

    def gain_over_fixed(self, arm: Arm) -> Estimate:
        """Returns the accuracy above that of static variants of fixed bits at the same mean cost."""
        return Estimate.of(over_line(self.accuracy[arm], self.cost[arm], *self._line(self.fixed)))

    def cost_ratio(self, arm: Arm) -> Estimate:
        """Returns the cost at which static variants reach the arm's accuracy, as a multiple of the arm's.

        It is infinite where they never do.
        """
        return Estimate.of(cost_on_line(self.accuracy[arm], *self._line(self.corners)) / self.cost[arm])

    def difference(self, arm: Arm, other: Arm) -> Estimate:
        """Returns the accuracy of an arm less that of another."""
        return Estimate.of(self.accuracy[arm] - self.accuracy[other])

    def cost_difference(self, arm: Arm, other: Arm) -> Estimate:
        """Returns the cost of an arm less that of another."""
        return Estimate.of(self.cost[arm] - self.cost[other])

    def with_panel(self, other: "Comparison") -> "Comparison":
        """Returns the comparison on both panels' families together, every family weighing alike; none is in both."""
        count = self.families + other.families

        def merged(here: dict[Arm, np.ndarray], there: dict[Arm, np.ndarray]) -> dict[Arm, np.ndarray]:
            return {arm: (self.families * here[arm] + other.families * there[arm]) / count for arm in here}

        accuracy = merged(self.accuracy, other.accuracy)
        return replace(self, accuracy=accuracy, cost=merged(self.cost, other.cost), families=count)

    def line(self) -> list[Point]:
        """Returns the corners as (cost, accuracy in percent)."""
        costs, corners = self._line(self.corners)
        return list(zip(costs.tolist(), (100 * corners[0]).tolist(), strict=True))

    def _line(self, corners: tuple[Arm, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Costs [C] and accuracies [1 + R, C]."""
        return np.array([self.cost[arm][0] for arm in corners]), np.stack([self.accuracy[arm] for arm in corners], 1)


def panel_weights(evidence: Evidence) -> dict[str, np.ndarray]:
    """Returns panel -> weight of each view [J], sum 1: families weigh alike, and so do severities of a family."""
    families = list(dict.fromkeys(family for family, _ in evidence.views))
    panels = {
        TRAINED: [f for f in families if f not in evidence.held_out],
        HELD_OUT: [f for f in families if f in evidence.held_out],
        CLEAN: [f for f in families if f == "clean"],
    }
    severities = {f: sum(family == f for family, _ in evidence.views) for f in families}
    weights = {}
    for panel, members in panels.items():
        if members:
            weight = np.array([1 / severities[f] if f in members else 0.0 for f, _ in evidence.views])
            weights[panel] = weight / weight.sum()
    return weights


def compare(evidence: Evidence, rivals: Mapping[str, Evidence] | None = None) -> dict[str, Comparison]:
    """Returns panel -> comparison of all arms there, every panel resampled alike.

    rivals: other runs by name, whose static variants count among the static ones; say, a run that gave all of its steps
    to these. Raises ValueError where their test pictures are not the same.
    """
    rivals = rivals or {}
    scores = score_arms(evidence)
    for name, rival in rivals.items():
        scores |= _rival_scores(evidence, name, rival)
    weights = panel_weights(evidence)
    parts = [weight @ values for weight in weights.values() for score in scores.values() for values in _both(score)]
    columns = iter(resampled(np.stack(parts, 1), SEED).T)
    corners = static_corners(evidence, evidence.statics, rivals)
    fixed = static_corners(evidence, [k for k in evidence.statics if evidence.variants[k].method == FIXED])
    compared = {}
    for panel, weight in weights.items():
        accuracy = {}
        cost = {}
        for arm in scores:
            accuracy[arm] = next(columns)
            cost[arm] = next(columns)
        families = {f for (f, _), share in zip(evidence.views, weight, strict=True) if share}
        compared[panel] = Comparison(accuracy, cost, corners, fixed, len(families))
    return compared


def _both(score: Scores) -> tuple[np.ndarray, np.ndarray]:
    return score.correct, score.cost


def _rival_scores(evidence: Evidence, run: str, rival: Evidence) -> dict[Arm, Scores]:
    """What another run's static variants score on the same test pictures."""
    same = evidence.views == rival.views and np.array_equal(evidence.labels, rival.labels)
    if not same or not np.array_equal(evidence.test.features, rival.test.features):
        raise ValueError(
            f"{run}: expected a run with the same test pictures in the same qualities, got others; give "
            "it the same --dataset, --families, --hold-out, --test-pictures and --seed"
        )
    scores = score_arms(replace(rival, arms={}))
    variants = [rival.variants[k] for k in rival.statics]
    return {_rival_arm(run, v): scores[v.method, v.name] for v in variants}


def _rival_arm(run: str, variant: VariantFacts) -> Arm:
    return RIVAL, f"{variant.name} of {run}"


def budget_curves(evidence: Evidence) -> dict[str, list[Point]]:
    """Returns panel -> (cost, accuracy in percent) of the exported choice at all of its budgets."""
    return {
        panel: list(
            zip((evidence.curve.cost @ weight).tolist(), (100 * evidence.curve.accuracy @ weight).tolist(), strict=True)
        )
        for panel, weight in panel_weights(evidence).items()
    }


def static_corners(
    evidence: Evidence, statics: list[int], rivals: Mapping[str, Evidence] | None = None
) -> tuple[Arm, ...]:
    """Returns those of the static variants, and of the rivals' ones, that are corners on validation pictures."""
    by_point: dict[Point, Arm] = {}
    for k in statics:
        by_point.setdefault(_validation_point(evidence, k), (evidence.variants[k].method, evidence.variants[k].name))
    for run, rival in (rivals or {}).items():
        for k in rival.statics:
            by_point.setdefault(_validation_point(rival, k), _rival_arm(run, rival.variants[k]))
    return tuple(by_point[point] for point in hull_corners(list(by_point)))


def _validation_point(evidence: Evidence, k: int) -> Point:
    """Cost and accuracy of a variant on validation pictures."""
    return evidence.variants[k].cost, float(evidence.validation.correct[:, k].mean())


def arm_named(arms: Iterable[Arm] | Mapping[Arm, Any], name: str) -> Arm | None:
    """Returns the arm of this name; None where the run has none."""
    return next((arm for arm in arms if arm[0] == name), None)
