"""Fits cascades: which variant runs after which, below which margins, and what each budget then gives.

After variant v ran, the dearer up[v] is worth its cost while it is right for more pictures than v by lambda * cost.
That gain falls as v's margin rises; the margin at which a falling curve fitted to it by least squares (isotonic
regression) meets lambda * cost is where the sum of gain - lambda * cost over all pictures below it is largest, so that
sum is all that is looked at.
"""

from dataclasses import dataclass

import numpy as np

from runtime.choice.escalation import escalate
from runtime.choice.selector import Selector, decide
from train.choice.budgets import CascadeRow, CascadeTable, candidate_lambdas, keep_rising
from train.choice.validation_set import ValidationSet
from train.evidence.evidence import Answers
from train.evidence.outcomes import Outcomes

LEAST = 50  # pictures that a variant must have been chosen for, to learn when it is unsure
SECOND = (0.0, 0.25, 0.5, 1.0, 2.0)  # lambda of a second pass, as a multiple of that of the first choice


@dataclass(frozen=True, eq=False)
class CascadeRule:
    """After variant v, up[v] runs too where v's margin is below margins[v]; int64 [V] each, margin 0 for never."""

    up: np.ndarray
    margins: np.ndarray

    def run(self, first: np.ndarray, outcomes: Outcomes, costs: np.ndarray) -> Answers:
        """Answers M pictures whose first choices are int64 [M]; costs: float64 [V]. The cost counts both passes."""
        ran = np.arange(len(first))
        last = escalate(first, outcomes.margin[ran, first], self.up, self.margins)
        return Answers(last, costs[first] + np.where(last != first, costs[last], 0))

    def gain(self, first: np.ndarray, validation: ValidationSet) -> float:
        """Returns the accuracy after both passes less that of the first choices int64 [M]."""
        rows = np.arange(len(first))
        last = self.run(first, validation.outcomes, validation.costs).variant
        return float(validation.correct[rows, last].mean() - validation.correct[rows, first].mean())

    def worst_cost(self, first: np.ndarray, costs: np.ndarray) -> float:
        """Returns the most that a picture can cost which first gets one of the variants int64 [M]."""
        used = np.unique(first)
        return float((costs[used] + np.where(self.margins[used] > 0, costs[self.up[used]], 0)).max())


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the selector goes by: predicted accuracy int64 [M, V] and costs int64 [V] in 1/65536, and its lambdas."""

    accuracy: np.ndarray
    costs: np.ndarray
    lambdas: list[float]

    @classmethod
    def of_selector(cls, selector: Selector, features: np.ndarray) -> "Predictions":
        """Predicts for pictures with features int32 [M, D]; lambdas: those at which choices change."""
        accuracy = selector.predict(features)
        return cls(accuracy, selector.costs, candidate_lambdas(accuracy, selector.costs))

    def first_choices(self, lam: float) -> np.ndarray:
        """Returns the variant that each picture gets first, int64 [M]."""
        return decide(self.accuracy, self.costs, lam)

    def of_pictures(self, rows: np.ndarray) -> "Predictions":
        """Returns the predictions for some pictures; rows: indices int64 [n]."""
        return Predictions(self.accuracy[rows], self.costs, self.lambdas)


def fit_up(predictions: Predictions, validation: ValidationSet) -> np.ndarray:
    """Finds the best variant to run after each, int64 [V]; itself where no dearer one ever pays.

    Of the pictures that get v at any of the lambdas, the one with the largest gain less lambda * cost, in the mean over
    the lambdas. Only a shared variant follows a shared one: pictures of unseen kinds get those first, and nothing here
    tells how a private variant does on such.
    """
    costs = validation.costs
    shared = validation.shared
    chosen = np.zeros(predictions.accuracy.shape, bool)
    for lam in predictions.lambdas:
        chosen[np.arange(len(chosen)), predictions.first_choices(lam)] = True
    up = np.arange(len(costs))
    for v in range(len(costs)):
        rows = np.flatnonzero(chosen[:, v])
        if len(rows) < LEAST:
            continue
        order = rows[np.argsort(validation.outcomes.margin[rows, v], kind="stable")]
        steps = np.arange(1, len(order) + 1)
        best = 0.0
        for w in np.flatnonzero((costs > costs[v]) & (shared | ~shared[v])):
            gained = np.cumsum(validation.correct[order, w].astype(np.int64) - validation.correct[order, v])
            benefit = sum(max(0.0, (gained - lam * costs[w] * steps).max()) for lam in predictions.lambdas)
            if benefit > best:
                best = benefit
                up[v] = w
    return up


def fit_margins(first: np.ndarray, validation: ValidationSet, up: np.ndarray, lam: float) -> np.ndarray:
    """Finds the margin below which up[v] is worth `lam` times its cost after v, int64 [V].

    first: int64 [M], the variant that each picture gets first; up: int64 [V].
    """
    costs = validation.costs
    margins = np.zeros(len(up), np.int64)
    for v in np.unique(first):
        rows = np.flatnonzero(first == v)
        if up[v] == v or len(rows) < LEAST:
            continue
        margin = validation.outcomes.margin[rows, v]
        order = np.argsort(margin, kind="stable")
        gain = validation.correct[rows, up[v]].astype(np.float64) - validation.correct[rows, v] - lam * costs[up[v]]
        total = np.cumsum(gain[order])
        sorted_margin = margin[order]
        ends = np.append(sorted_margin[1:] > sorted_margin[:-1], True)  # pictures of equal margins go together
        best = np.where(ends, total, -np.inf).argmax()
        margins[v] = sorted_margin[best] + 1 if total[best] > 0 else 0
    return margins


@dataclass(frozen=True, eq=False)
class Half:
    """One half of the validation pictures (rows int64 [n]), and which variant runs after which as fitted there."""

    rows: np.ndarray
    validation: ValidationSet
    up: np.ndarray

    @classmethod
    def fit(cls, predictions: Predictions, validation: ValidationSet, rows: np.ndarray) -> "Half":
        """Fits the order of the variants on the pictures int64 [n] alone."""
        part = validation.of_pictures(rows)
        return cls(rows, part, fit_up(predictions.of_pictures(rows), part))

    def optimism(self, other: "Half", first: np.ndarray, lam: float) -> float:
        """Returns how much more a rule fitted here gains here than on the other half; first: int64 [M]."""
        rule = CascadeRule(self.up, fit_margins(first[self.rows], self.validation, self.up, lam))
        return rule.gain(first[self.rows], self.validation) - rule.gain(first[other.rows], other.validation)


def cascade_table(selector: Selector, validation: ValidationSet, seed: int) -> CascadeTable:
    """Fits cascades to all validation pictures, by rising budget and accuracy.

    A row's accuracy is that on these pictures less what two such rules, each fitted to one half of them, gain there
    more than on the other. Raises ValueError for views of fewer than two pictures.
    """
    predictions = Predictions.of_selector(selector, validation.features)
    up = fit_up(predictions, validation)
    second_half = _second_half(validation.subjects, seed)
    halves = [Half.fit(predictions, validation, np.flatnonzero(second_half == h)) for h in (False, True)]
    rows = []
    for lam in predictions.lambdas:
        first = predictions.first_choices(lam)
        for second in sorted({share * lam for share in SECOND}):
            rule = CascadeRule(up, fit_margins(first, validation, up, second))
            answers = rule.run(first, validation.outcomes, validation.costs)
            right = validation.correct[np.arange(len(validation)), answers.variant].mean()
            optimism = 0.0
            for half, other in zip(halves, halves[::-1], strict=True):
                optimism += half.optimism(other, first, second)
            worst = rule.worst_cost(first, validation.costs)
            rows.append(
                CascadeRow(
                    budget=min(float(answers.cost.mean()), worst),  # a mean of equal costs may be rounded above them
                    lam=lam,
                    accuracy=float(np.clip(right - optimism / 2, 0, 1)),
                    worst=worst,
                    margins=tuple(rule.margins.tolist()),
                )
            )
    return CascadeTable(tuple(up.tolist()), keep_rising(rows))


def _second_half(subjects: np.ndarray, seed: int) -> np.ndarray:
    """Which views are of the second half of the pictures, drawn at random, bool [M]."""
    known, numbers = np.unique(subjects, return_inverse=True)
    if len(known) < 2:
        raise ValueError(
            f"expected views of at least 2 pictures, to judge by one what the other teaches, got {known}; "
            "give more --selector-pictures"
        )
    order = np.random.default_rng(seed).permutation(len(known))
    return order[numbers] >= len(known) // 2
