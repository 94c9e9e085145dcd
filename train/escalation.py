"""Fits escalation: which variant runs after which, below which margins, and what each budget then gives.

After variant v ran, the dearer up[v] is worth its cost while it is right for more pictures than v by lambda * cost.
That gain falls as v's margin rises; the margin at which a falling curve fitted to it by least squares (isotonic
regression) meets lambda * cost is where the sum of gain - lambda * cost over all pictures below it is largest, so that
sum is all that is looked at.
"""

from dataclasses import dataclass

import numpy as np

from runtime.escalation import again
from runtime.selector import decide
from train.outcomes import Outcomes

LEAST = 50  # pictures that a variant must have been chosen for, to learn when it is unsure
SECOND = (0.0, 0.25, 0.5, 1.0, 2.0)  # lambda of a second pass, of that of the first choice


@dataclass(frozen=True, eq=False)
class Rule:
    """Below which margins int64 [V] (0: never) the variant up[v] runs after variant v."""

    up: np.ndarray
    margins: np.ndarray

    def run(self, first: np.ndarray, seen: Outcomes, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(variant int64 [M] whose answer counts, cost float [M] of both passes) after first choices int64 [M]."""
        last = again(first, seen.margin[np.arange(len(first)), first], self.up, self.margins)
        return last, costs[first] + np.where(last != first, costs[last], 0)


def fit_up(accuracy: np.ndarray, seen: Outcomes, costs: np.ndarray, integer_costs: np.ndarray,
           lambdas: list[float]) -> np.ndarray:
    """The best variant to run after each, int64 [V], itself where no dearer one ever pays.

    Of the pictures that get v at any of the lambdas by predicted accuracy int64 [M, V], the one with the largest gain
    less lambda * cost, in the mean over the lambdas.
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
        for w in np.flatnonzero(costs > costs[v]):
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


def escalation_table(accuracy: np.ndarray, crossed: np.ndarray, half: np.ndarray, seen: Outcomes, costs: np.ndarray,
                     integer_costs: np.ndarray, lambdas: list[float]) -> dict:
    """{"up", "budgets": [{"budget", "lambda", "accuracy", "worst", "margins"}, ...]} by rising budget and accuracy.

    accuracy int64 [M, V]: as the selector predicts; crossed int64 [M, V]: as one predicts that has not seen the
    picture; half bool [M]: which half of the pictures each is of. What is kept is fitted to all pictures and costs what
    it costs on them; its accuracy is that of the same rule, fitted to one half each, on the other.
    """
    up = fit_up(accuracy, seen, costs, integer_costs, lambdas)
    parts = [(seen.of_pictures(half == h), np.flatnonzero(half == h)) for h in (False, True)]
    ups = [fit_up(accuracy[mine], part, costs, integer_costs, lambdas) for part, mine in parts]
    rows, entries = np.arange(len(seen)), []
    for lam in lambdas:
        first, other = decide(accuracy, integer_costs, lam), decide(crossed, integer_costs, lam)
        for second in sorted({share * lam for share in SECOND}):
            rule = Rule(up, fit_margins(first, seen, up, costs, second))
            price = rule.run(first, seen, costs)[1]
            right = 0
            for (fitted, own), (judged, theirs), its_up in zip(parts, parts[::-1], ups, strict=True):
                crossed_rule = Rule(its_up, fit_margins(other[own], fitted, its_up, costs, second))
                last = crossed_rule.run(other[theirs], judged, costs)[0]
                right += int(judged.correct[rows[:len(last)], last].sum())
            used = np.unique(first)
            worst = (costs[used] + np.where(rule.margins[used] > 0, costs[up[used]], 0)).max()
            entries.append({"budget": float(price.mean()), "lambda": lam, "accuracy": right / len(seen),
                            "worst": float(worst), "margins": rule.margins.tolist()})
    return {"up": up.tolist(), "budgets": rising(entries)}


def rising(entries: list[dict]) -> list[dict]:
    """Those that no other beats: by rising budget, each more accurate than the one before."""
    kept: list[dict] = []
    for entry in sorted(entries, key=lambda entry: (entry["budget"], -entry["accuracy"])):
        if not kept or entry["accuracy"] > kept[-1]["accuracy"]:
            kept.append(entry)
    return kept
