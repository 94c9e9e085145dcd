"""The oracle: what one could get within the budget if every picture's true degradation were known."""

import numpy as np

from train.evidence.evidence import Answers, Evidence

EQUAL = 1e-12  # at a slope two values are equal but for rounding


def answer_as_oracle(evidence: Evidence, static: int, budget: float) -> Answers:
    """Gives every true family and severity one variant, picked on validation pictures within a mean cost.

    It knows family and severity, not the label; where none was seen in validation, the variant `static` answers.
    """
    cells = sorted(set(zip(evidence.families.tolist(), evidence.severities.tolist(), strict=True)))
    members = [(evidence.families == f) & (evidence.severities == s) for f, s in cells]
    accuracy = np.stack([evidence.validation.correct[rows].mean(0) for rows in members])
    weights = np.array([rows.mean() for rows in members])
    best = dict(zip(cells, pick_within_budget(accuracy, weights, evidence.costs, budget), strict=True))
    number = {name: k for k, name in enumerate(evidence.trained)}
    chosen = [best.get((number.get(family, -1), severity), static) for family, severity in evidence.views]
    variant = np.repeat(np.array(chosen), evidence.pictures)
    return Answers(variant, evidence.costs[variant])


def pick_within_budget(accuracy: np.ndarray, weights: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray:
    """Picks the variant of each of G groups, int64 [G], that argmax(accuracy - lambda * cost) gives.

    accuracy: [G, V]; weights: shares of the groups [G]; costs: [V]. lambda is the least that keeps the mean cost within
    the budget, which below the cheapest variant's cost means that one; of equals the cheaper is taken.
    """
    order = np.argsort(costs, kind="stable")
    by_cost = accuracy[:, order]
    gains = by_cost[..., :, None] - by_cost[..., None, :]
    prices = np.broadcast_to(costs[order][:, None] - costs[order][None, :], gains.shape)
    slopes = gains[prices > 0] / prices[prices > 0]
    lambdas = np.unique(np.concatenate([[0.0], slopes[slopes > 0]]))
    low = 0
    high = len(lambdas) - 1  # mean cost falls with lambda
    while low < high:
        middle = (low + high) // 2
        chosen = _best_at(lambdas[middle], accuracy, costs, order)
        if weights @ costs[chosen] <= budget * (1 + 1e-9):
            high = middle
        else:
            low = middle + 1
    return _best_at(lambdas[low], accuracy, costs, order)


def _best_at(lam: float, accuracy: np.ndarray, costs: np.ndarray, order: np.ndarray) -> np.ndarray:
    value = accuracy[:, order] - lam * costs[order]
    nearly = value >= value.max(1, keepdims=True) - EQUAL
    return order[nearly.argmax(1)]
