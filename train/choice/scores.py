"""Scores of every arm and every variant alone on the test pictures, and the results that a run records of them."""

from dataclasses import dataclass

import numpy as np

from train.evidence.evidence import Answers, Evidence
from train.evidence.results import Arm, ChosenBits, Result

FULL_COST = 32 * 32 / (8 * 8)  # of the float network, relative to 8-bit weights and activations
ARMS = ("fp32", "static", "private", "bits", "cascade", "adaptive", "random", "shuffled", "oracle")  # in their order
FULL_PRECISION: Arm = ("fp32", "fp32")
# what stands for the variant in an arm's name; those whose answer comes from the selector have "selector"
STANDS_FOR = {"random": "shares", "oracle": "groups"}


@dataclass(frozen=True, eq=False)
class Scores:
    """Whether each picture is right, or how likely (0..1), and what it cost, float64 [J, N]: by view and picture."""

    correct: np.ndarray
    cost: np.ndarray


def score_arms(evidence: Evidence) -> dict[Arm, Scores]:
    """Scores full precision, every variant alone (named by the method that found it), and then every arm.

    random is given as its expectation: what every variant gets right, weighted with adaptive's shares over all views;
    it has no second pass, and costs none.
    """
    right = evidence.test.correct
    scores = {FULL_PRECISION: _by_view(evidence, evidence.full_precision, FULL_COST)}
    for k, v in enumerate(evidence.variants):
        scores[v.method, v.name] = _by_view(evidence, right[:, k], v.cost)
    for arm, answers in evidence.arms.items():
        correct = right[np.arange(len(right)), answers.variant]
        scores[arm, _stands_for(evidence, arm, answers)] = _by_view(evidence, correct, answers.cost)
    if "shuffled" in evidence.arms:
        adaptive = evidence.arms["adaptive"]
        shares = np.bincount(adaptive.variant, minlength=len(evidence.variants)) / len(right)
        scores["random", STANDS_FOR["random"]] = _by_view(evidence, right @ shares, shares @ evidence.costs)
    return dict(sorted(scores.items(), key=lambda item: _rank(item[0][0])))


def make_results(evidence: Evidence, seed: int) -> list[Result]:
    """Makes one result for every arm on every view, views in their order."""
    scores = score_arms(evidence)
    return [
        Result(
            arm=arm,
            variant=variant,
            family=family,
            severity=severity,
            heldout=family in evidence.held_out,
            pictures=evidence.pictures,
            correct=_count(arm, score.correct[j]),
            cost=_mean_cost(score.cost[j]),
            seed=seed,
            stderr=float(score.correct[j].std() / evidence.pictures**0.5),
            chosen=_chosen_bits(evidence, j) if arm == "adaptive" else None,
        )
        for j, (family, severity) in enumerate(evidence.views)
        for (arm, variant), score in scores.items()
    ]


def _stands_for(evidence: Evidence, arm: str, answers: Answers) -> str:
    if arm == "static":
        return evidence.variants[answers.variant[0]].name
    return STANDS_FOR.get(arm, "selector")


def _by_view(evidence: Evidence, correct: np.ndarray, cost: np.ndarray | float) -> Scores:
    right = correct.astype(np.float64)
    prices = np.broadcast_to(cost, right.shape).astype(np.float64)
    return Scores(evidence.by_view(right), evidence.by_view(prices))


def _count(arm: str, correct: np.ndarray) -> float:
    """Right answers: a whole number but for the arm that draws at random."""
    return float(correct.sum()) if arm == "random" else int(correct.sum())


def _mean_cost(cost: np.ndarray) -> float:
    """The mean; equal costs have just this mean, with no rounding."""
    return float(cost[0] if np.ptp(cost) == 0 else cost.mean())


def _chosen_bits(evidence: Evidence, view: int) -> ChosenBits:
    variants = evidence.variants
    chosen = evidence.by_view(evidence.arms["adaptive"].variant)[view]
    shares = np.bincount(chosen, minlength=len(variants)) / len(chosen)
    w_bits, a_bits = (float(bits) for bits in shares @ np.array([(v.w_bits, v.a_bits) for v in variants]))
    return ChosenBits(w_bits, a_bits, {v.name: float(s) for v, s in zip(variants, shares, strict=True)})


def _rank(arm: str) -> float:
    """Full precision first, then the variants, then the arms in their order."""
    return ARMS.index(arm) if arm in ARMS else 0.5
