"""What arms come to on the families of a panel, resampled together, and how far each is above the static variants."""

from dataclasses import dataclass, replace

import numpy as np

from train.choice.arms import Answers, answers
from train.evidence.evidence import Evidence, Measured
from train.report.bootstrap import Estimate, resampled
from train.report.frontier import cost_on_line, mix, over_line

SEED = 0  # of the resamples
GIVEN = "fixed"  # method of variants whose bits were given
RIVAL = "rival"  # arm of another run's variant, "VARIANT of RUN"
TRAINED, HELD_OUT, CLEAN = "training families", "held-out families", "clean"

Arm = tuple[str, str]  # (arm, variant)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Accuracy (0..1) and cost of each arm, [1 + R]: on the test pictures, then on every resample of them.

    corners: arms of the static frontier by rising cost, picked on validation pictures: none of them profits here from
    having been picked here; among them those of other runs, where such are given. given: the same among variants whose
    bits were given, not learned. families: their number.
    """

    accuracy: dict[Arm, np.ndarray]
    cost: dict[Arm, np.ndarray]
    corners: tuple[Arm, ...]
    given: tuple[Arm, ...] = ()
    families: int = 1

    def gain(self, arm: Arm) -> Estimate:
        """Accuracy above that of static variants at the same mean cost."""
        return Estimate.of(over_line(self.accuracy[arm], self.cost[arm], *self._line(self.corners)))

    def gain_over_given(self, arm: Arm) -> Estimate:
        """The same over static variants of given bits."""
        return Estimate.of(over_line(self.accuracy[arm], self.cost[arm], *self._line(self.given)))

    def cost_ratio(self, arm: Arm) -> Estimate:
        """The cost at which static variants reach the arm's accuracy, of the arm's; infinite where they never do."""
        return Estimate.of(cost_on_line(self.accuracy[arm], *self._line(self.corners)) / self.cost[arm])

    def difference(self, arm: Arm, other: Arm) -> Estimate:
        return Estimate.of(self.accuracy[arm] - self.accuracy[other])

    def with_panel(self, other: "Comparison") -> "Comparison":
        """Of the families of both panels together, which have none in common; every family weighs alike."""
        count = self.families + other.families
        accuracy, cost = (
            {arm: (self.families * mine[arm] + other.families * theirs[arm]) / count for arm in mine}
            for mine, theirs in ((self.accuracy, other.accuracy), (self.cost, other.cost))
        )
        return replace(self, accuracy=accuracy, cost=cost, families=count)

    def line(self) -> list[tuple[float, float]]:
        """Corners as (cost, accuracy in percent)."""
        costs, corners = self._line(self.corners)
        return list(zip(costs.tolist(), (100 * corners[0]).tolist(), strict=True))

    def _line(self, corners: tuple[Arm, ...]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([self.cost[arm][0] for arm in corners]), np.stack([self.accuracy[arm] for arm in corners], 1)


def panel_weights(evidence: Evidence) -> dict[str, np.ndarray]:
    """Panel -> weight of each view [J], sum 1: families of a panel weigh alike, and severities of a family."""
    within = {
        TRAINED: lambda f: f not in evidence.held_out,
        HELD_OUT: lambda f: f in evidence.held_out,
        CLEAN: lambda f: f == "clean",
    }
    out = {}
    for panel, belongs in within.items():
        views = [f for f, _ in evidence.places if belongs(f)]
        if views:
            out[panel] = np.array([1 / views.count(f) if belongs(f) else 0.0 for f, _ in evidence.places])
            out[panel] /= out[panel].sum()
    return out


def compare(evidence: Evidence, rivals: dict[str, Evidence] | None = None) -> dict[str, Comparison]:
    """Panel -> comparison of all arms there, every panel resampled alike.

    rivals: of other runs by name, whose variants that are no private ones count among the static ones; say, of one that
    gave all of its steps to these. Raises ValueError where their test pictures are not the same.
    """
    taken, weights = answers(evidence), panel_weights(evidence)
    for name, rival in (rivals or {}).items():
        taken |= _of_rival(evidence, name, rival)
    parts = [weight @ part for weight in weights.values() for pair in taken.values() for part in pair]
    columns = iter(resampled(np.stack(parts, 1), SEED).T)
    out, ladder = {}, evidence.ladder
    corners = static_corners(evidence, ladder, rivals)
    given = static_corners(evidence, [k for k in ladder if evidence.variants[k].method == GIVEN])
    for panel, weight in weights.items():
        families = {f for (f, _), share in zip(evidence.places, weight, strict=True) if share}
        pairs = {arm: (next(columns), next(columns)) for arm in taken}
        accuracy, cost = ({arm: pair[i] for arm, pair in pairs.items()} for i in range(2))
        out[panel] = Comparison(accuracy, cost, corners, given, len(families))
    return out


def _of_rival(evidence: Evidence, run: str, rival: Evidence) -> Answers:
    """What another run's shared variants make of the same test pictures."""
    if evidence.places != rival.places or not all(
        np.array_equal(a, b)
        for a, b in ((evidence.labels, rival.labels), (evidence.test.features, rival.test.features))
    ):
        raise ValueError(
            f"{run}: expected a run with the same test pictures in the same qualities, got others; give "
            "it the same --dataset, --families, --hold-out, --test-pictures and --seed"
        )
    theirs = answers(replace(rival, arms={}))
    return {_rival(run, v): theirs[v.method, v.name] for v in (rival.variants[k] for k in rival.ladder)}


def _rival(run: str, variant: Measured) -> Arm:
    return RIVAL, f"{variant.name} of {run}"


def curves(evidence: Evidence) -> dict[str, list[tuple[float, float]]]:
    """Panel -> (cost, accuracy in percent) of the exported choice at all of its budgets."""
    return {
        panel: list(zip((cost @ weight).tolist(), (100 * accuracy @ weight).tolist(), strict=True))
        for panel, weight in panel_weights(evidence).items()
        for accuracy, cost in [evidence.curve]
    }


def static_corners(evidence: Evidence, ladder: list[int], rivals: dict[str, Evidence] | None = None) -> tuple[Arm, ...]:
    """Those of the variants `ladder` and of the rivals' shared ones that are corners of their validation frontier."""
    by_point = {}
    for k in ladder:
        by_point.setdefault(_in_validation(evidence, k), (evidence.variants[k].method, evidence.variants[k].name))
    for run, rival in (rivals or {}).items():
        for k in rival.ladder:
            by_point.setdefault(_in_validation(rival, k), _rival(run, rival.variants[k]))
    return tuple(by_point[point] for point in mix(list(by_point)))


def _in_validation(evidence: Evidence, k: int) -> tuple[float, float]:
    """Cost and accuracy of a variant."""
    return evidence.variants[k].cost, float(evidence.seen.correct[:, k].mean())


def arms_of(given: Answers | dict[Arm, np.ndarray], name: str) -> Arm | None:
    """The arm of this name, None where the run has none."""
    return next((arm for arm in given if arm[0] == name), None)
