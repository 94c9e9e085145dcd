"""Fits escalation: which variant runs after which, below which margins, and what each budget then gives.

After variant v ran, the dearer up[v] is worth its cost while it is right for more pictures than v by lambda * cost.
That gain falls as v's margin rises; the margin at which a falling curve fitted to it by least squares (isotonic
regression) meets lambda * cost is where the sum of gain - lambda * cost over all pictures below it is largest, so that
sum is all that is looked at.
"""

from dataclasses import dataclass

import numpy as np

from runtime.choice.escalation import escalate
from runtime.choice.selector import decide
from train.evidence.outcomes import Outcomes

LEAST = 50  # pictures that a variant must have been chosen for, to learn when it is unsure
SECOND = (0.0, 0.25, 0.5, 1.0, 2.0)  # lambda of a second pass, of that of the first choice


@dataclass(frozen=True, eq=False)
class Rule:
    """Below which margins int64 [V] (0: never) the variant up[v] runs after variant v."""

    up: np.ndarray
    margins: np.ndarray

    def run(self, first: np.ndarray, seen: Outcomes, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(variant int64 [M] whose answer counts, cost float [M] of both passes) after first choices int64 [M]."""
        last = escalate(first, seen.margin[np.arange(len(first)), first], self.up, self.margins)
        return last, costs[first] + np.where(last != first, costs[last], 0)

    def gain(self, first: np.ndarray, seen: Outcomes, costs: np.ndarray) -> float:
        """Accuracy after both passes less that of the first choices."""
        rows, last = np.arange(len(first)), self.run(first, seen, costs)[0]
        return float(seen.correct[rows, last].mean() - seen.correct[rows, first].mean())


def fit_up(
    accuracy: np.ndarray,
    seen: Outcomes,
    costs: np.ndarray,
    integer_costs: np.ndarray,
    lambdas: list[float],
    shared: np.ndarray,
) -> np.ndarray:
    """The best variant to run after each, int64 [V], itself where no dearer one ever pays.

    Of the pictures that get v at any of the lambdas by predicted accuracy int64 [M, V], the one with the largest gain
    less lambda * cost, in the mean over the lambdas. Only a shared one, bool [V], follows a shared one: pictures of
    unseen kinds get those first, and nothing here tells how a private variant does on such.
    """
    given = np.zeros(accuracy.shape, bool)
    for lam in lambdas:
        given[np.arange(len(given)), decide(accuracy, integer_costs, lam)] = True
    up = np.arange(len(costs))
    for v in range(len(costs)):
        mine, best = np.flatnonzero(given[:, v]), 0.0
        if len(mine) < LEAST:
            continue
        order = mine[np.argsort(seen.margin[mine, v], kind="stable")]
        steps = np.arange(1, len(order) + 1)
        for w in np.flatnonzero((costs > costs[v]) & (shared | ~shared[v])):
            gained = np.cumsum(seen.correct[order, w].astype(np.int64) - seen.correct[order, v])
            worth = sum(max(0.0, (gained - lam * costs[w] * steps).max()) for lam in lambdas)
            if worth > best:
                best, up[v] = worth, w
    return up


def fit_margins(first: np.ndarray, seen: Outcomes, up: np.ndarray, costs: np.ndarray, lam: float) -> np.ndarray:
    """int64 [V]: the margin below which up[v] is worth `lam` times its cost after v, for pictures first given to v."""
    margins = np.zeros(len(up), np.int64)
    for v in np.unique(first):
        mine = np.flatnonzero(first == v)
        if up[v] == v or len(mine) < LEAST:
            continue
        margin = seen.margin[mine, v]
        order = np.argsort(margin, kind="stable")
        gain = seen.correct[mine, up[v]].astype(np.float64) - seen.correct[mine, v] - lam * costs[up[v]]
        total, sorted_margin = np.cumsum(gain[order]), margin[order]
        ends = np.append(sorted_margin[1:] > sorted_margin[:-1], True)  # pictures of equal margins go together
        best = np.where(ends, total, -np.inf).argmax()
        margins[v] = sorted_margin[best] + 1 if total[best] > 0 else 0
    return margins


def escalation_table(
    accuracy: np.ndarray,
    half: np.ndarray,
    seen: Outcomes,
    costs: np.ndarray,
    integer_costs: np.ndarray,
    lambdas: list[float],
    shared: np.ndarray,
) -> dict:
    """{"up", "budgets": [{"budget", "lambda", "accuracy", "worst", "margins"}, ...]} by rising budget and accuracy.

    accuracy int64 [M, V]: as the selector predicts; half bool [M]: which half of the pictures each is of; shared bool
    [V]: variants for pictures of every kind. What is kept is fitted to all pictures; budget is what it costs on them,
    and accuracy that on them less what two such rules, each fitted to one half, gain there more than on the other.
    worst: the most that a picture costs which gets a variant that any of these got.
    """
    up = fit_up(accuracy, seen, costs, integer_costs, lambdas, shared)
    parts = [(seen.of_pictures(half == h), np.flatnonzero(half == h)) for h in (False, True)]
    ups = [fit_up(accuracy[mine], part, costs, integer_costs, lambdas, shared) for part, mine in parts]
    entries = []
    for lam in lambdas:
        first = decide(accuracy, integer_costs, lam)
        for second in sorted({share * lam for share in SECOND}):
            rule = Rule(up, fit_margins(first, seen, up, costs, second))
            last, price = rule.run(first, seen, costs)
            right, flattered = seen.correct[np.arange(len(seen)), last].mean(), 0.0
            for (fitted, own), (judged, theirs), its_up in zip(parts, parts[::-1], ups, strict=True):
                half_rule = Rule(its_up, fit_margins(first[own], fitted, its_up, costs, second))
                flattered += half_rule.gain(first[own], fitted, costs) - half_rule.gain(first[theirs], judged, costs)
            used = np.unique(first)
            worst = (costs[used] + np.where(rule.margins[used] > 0, costs[up[used]], 0)).max()
            accuracy_elsewhere = float(np.clip(right - flattered / 2, 0, 1))
            entries.append(
                {
                    "budget": float(price.mean()),
                    "lambda": lam,
                    "accuracy": accuracy_elsewhere,
                    "worst": float(worst),
                    "margins": rule.margins.tolist(),
                }
            )
    return {"up": up.tolist(), "budgets": rising(entries)}


def rising(entries: list[dict]) -> list[dict]:
    """Those that no other beats: by rising budget, each more accurate than the one before."""
    kept: list[dict] = []
    for entry in sorted(entries, key=lambda entry: (entry["budget"], -entry["accuracy"])):
        if not kept or entry["accuracy"] > kept[-1]["accuracy"]:
            kept.append(entry)
    return kept
