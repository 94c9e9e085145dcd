"""How a run chooses among variants: a selector, its table of budgets, and what it comes to on given outcomes."""

from dataclasses import dataclass

import numpy as np

from runtime.choice.budgets import Budget, entry_for
from runtime.choice.selector import Selector
from train.choice.escalation import Rule, escalation_table
from train.choice.selector import INSIDE, budget_table, lambdas_of, train_selector
from train.evidence.outcomes import Outcomes


@dataclass(frozen=True, eq=False)
class Choice:
    """A trained selector, its tables, and what keeps to the budget where it was trained.

    A budget below the cheapest variant's cost means that variant. escalation: {"up", "budgets"}, None where nothing
    runs twice. lam, margins int64 [V]: those of the entry within the budget. costs: float [V] relative to
    8 bits. inside: float [V], share of these pictures near enough to a known kind for each variant not to fall back.
    """

    selector: dict
    budgets: list[dict]
    escalation: dict | None
    lam: float
    margins: np.ndarray
    costs: np.ndarray
    inside: np.ndarray

    def to_dict(self) -> dict:
        """The fields of run.json that say how to choose."""
        return {"selector": self.selector, "budgets": self.budgets, "escalation": self.escalation, "lambda": self.lam}

    def first(self, features: np.ndarray) -> np.ndarray:
        """Index of the variant that each picture is given to, int64 [M], of features int32 [M, D]."""
        return Selector.from_dict(self.selector).choose(features, self.lam)

    def run(self, seen: Outcomes) -> tuple[np.ndarray, np.ndarray]:
        """(index int64 [M] of the variant whose answer counts, cost float64 [M] of all that was run for it)."""
        up = np.arange(len(self.costs)) if self.escalation is None else np.array(self.escalation["up"])
        return Rule(up, self.margins).run(self.first(seen.features), seen, self.costs)


def fit_choice(
    seen: Outcomes,
    groups: np.ndarray,
    costs,
    budget: float,
    seed: int,
    *,
    shared: np.ndarray,
    pictures: np.ndarray,
    escalate: bool = False,
    by_quality: bool = True,
    inside: float | np.ndarray = INSIDE,
) -> Choice:
    """From pictures that no variant was trained on.

    groups: int64 [M], the kind of quality each is of. shared: bool [V], which variants are for pictures of every kind:
    only they get one of an unseen kind, at first or after another. pictures: int64 [M], which picture each is a view
    of. escalate: whether a variant that is unsure may be followed by a dearer one. by_quality: whether the first choice
    may depend on the picture; False: the same variant for all, the best at its cost. inside: share of these pictures
    near enough to a known kind not to fall back, of all variants or each [V].
    """
    costs = np.asarray(costs, np.float64)
    inside = np.broadcast_to(inside, costs.shape)
    selector = train_selector(
        seen.features, seen.correct, groups, costs, seed, shared=shared, by_quality=by_quality, inside=inside
    )
    table = taken = budget_table(selector, seen.features, seen.correct, costs)
    escalation = None
    if escalate:
        half = _half(pictures, seed)
        fixed = Selector.from_dict(selector)
        accuracy = fixed.predict(seen.features)
        escalation = escalation_table(
            accuracy, half, seen, costs, fixed.costs, lambdas_of(accuracy, fixed.costs), np.asarray(shared)
        )
        taken = escalation["budgets"]
    rows = [Budget(entry["budget"], entry["lambda"], entry["accuracy"]) for entry in taken]
    entry = taken[rows.index(entry_for(rows, max(budget, taken[0]["budget"])))]
    margins = np.array(entry.get("margins", [0] * len(costs)), np.int64)
    return Choice(selector, table, escalation, entry["lambda"], margins, costs, inside)


def _half(pictures: np.ndarray, seed: int) -> np.ndarray:
    """bool [M]: whether each is of the second half of the pictures, drawn at random."""
    known, number = np.unique(pictures, return_inverse=True)
    if len(known) < 2:
        raise ValueError(f"expected views of at least 2 pictures, to judge by one what the other teaches; got {known}")
    order = np.random.default_rng(seed).permutation(len(known))
    return order[number] >= len(known) // 2
