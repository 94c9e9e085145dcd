"""How a run chooses among variants: a selector, its table of budgets, and what it comes to on given outcomes."""

from dataclasses import dataclass

import numpy as np

from runtime.selector import Selector, lambda_for
from train.outcomes import Outcomes
from train.selector import budget_table, train_selector


@dataclass(frozen=True)
class Choice:
    """A trained selector, its table of budgets, and the lambda that keeps to the budget where it was trained.

    A budget below the cheapest variant's cost means that variant. static: index of the one variant that, for every
    picture, gets most right within the budget there. costs: float [V] relative to 8 bits.
    """

    selector: dict
    budgets: list[dict]
    lam: float
    static: int
    costs: np.ndarray

    def first(self, features: np.ndarray) -> np.ndarray:
        """Index of the variant that each picture is given to, int64 [M], of features int32 [M, D]."""
        return Selector.from_dict(self.selector).choose(features, self.lam)

    def run(self, seen: Outcomes) -> tuple[np.ndarray, np.ndarray]:
        """(index int64 [M] of the variant whose answer counts, cost float64 [M] of all that was run for it)."""
        last = self.first(seen.features)
        return last, self.costs[last]


def fit_choice(seen: Outcomes, groups: np.ndarray, costs, budget: float, seed: int, *, shared: np.ndarray,
               escalate: bool = False, by_quality: bool = True, pictures: np.ndarray | None = None) -> Choice:
    """From pictures that no variant was trained on.

    groups: int64 [M], the kind of quality each is of. shared: bool [V], which variants are for pictures of every kind:
    only they get one of an unseen kind. escalate: whether a variant that is unsure may be followed by a dearer one.
    by_quality: whether the first choice may depend on the picture; False: the same variant for all, the best at its
    cost. pictures: int64 [M], which picture each is a view of; None: the k-th of every group are views of the same.
    """
    if escalate or not by_quality:
        raise NotImplementedError("to come")
    costs = np.asarray(costs, np.float64)
    selector = train_selector(seen.features, seen.correct, groups, costs, seed)
    table = budget_table(selector, seen.features, seen.correct, costs)
    budget = max(budget, table[0]["budget"])
    within = np.flatnonzero(costs <= max(budget, costs.min()) * (1 + 1e-9))
    best = max(within, key=lambda v: (seen.correct[:, v].mean(), -costs[v]))
    return Choice(selector, table, lambda_for(table, budget), int(best), costs)
