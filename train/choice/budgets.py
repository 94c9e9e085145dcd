"""Tables of budgets: what choosing at each price of cost gives, for single passes and for cascades."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from runtime.choice.budgets import entry_for
from runtime.choice.selector import NEVER, ONE, Selector, decide
from train.choice.validation_set import ValidationSet

QUANTILES = 33  # prices that budgets are measured at, about


@dataclass(frozen=True)
class BudgetRow:
    """Choosing at the price `lam` (accuracy that one unit of cost must bring) costs `budget` on average.

    budget: relative to 8 bits; accuracy: 0..1, on validation pictures.
    """

    budget: float
    lam: float
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object."""
        return {"budget": self.budget, "lambda": self.lam, "accuracy": self.accuracy}


@dataclass(frozen=True)
class CascadeRow(BudgetRow):
    """The same with second passes. worst: the most that one picture costs; margins: of each variant, 0 for never."""

    worst: float
    margins: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object."""
        return {**super().to_dict(), "worst": self.worst, "margins": list(self.margins)}


@dataclass(frozen=True)
class CascadeTable:
    """Which variant runs after each where its answer is unsure (itself for none), and rows to choose from."""

    up: tuple[int, ...]
    rows: tuple[CascadeRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object."""
        return {"up": list(self.up), "budgets": [row.to_dict() for row in self.rows]}


Row = TypeVar("Row", bound=BudgetRow)


def keep_rising(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Keeps the rows that no other beats: by rising budget, each more accurate than the one before."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.budget, -row.accuracy)):
        if not kept or row.accuracy > kept[-1].accuracy:
            kept.append(row)
    return tuple(kept)


def row_within(rows: Sequence[Row], budget: float) -> Row:
    """Returns the most accurate row within a mean cost, the cheapest where all cost more, by the runtime's rule."""
    return entry_for(rows, max(budget, rows[0].budget))


def budget_table(selector: Selector, validation: ValidationSet) -> tuple[BudgetRow, ...]:
    """Measures what each price of cost gives, by rising budget and accuracy; rows that others beat are left out.

    The table starts with the cheapest variant for every picture and ends with the most accurate choice.
    """
    accuracy = selector.predict(validation.features)
    pictures = np.arange(len(validation))
    rows = []
    for lam in candidate_lambdas(accuracy, selector.costs):
        chosen = decide(accuracy, selector.costs, lam)
        budget = float(validation.costs[chosen].mean())
        rows.append(BudgetRow(budget, lam, float(validation.correct[pictures, chosen].mean())))
    return keep_rising(rows)


def candidate_lambdas(accuracy: np.ndarray, costs: np.ndarray) -> list[float]:
    """Returns 0, quantiles of lambdas at which pictures change their variant, and one at which all get the cheapest.

    accuracy: predicted, int64 [M, K], and costs int64 [K], both in 1/65536.
    """
    slopes = [np.zeros(1)]
    for dear in range(len(costs)):
        for cheap in range(len(costs)):
            if costs[dear] > costs[cheap]:
                slope = (accuracy[:, dear] - accuracy[:, cheap]) / (costs[dear] - costs[cheap])
                slopes.append(slope[(slope > 0) & (accuracy[:, cheap] != NEVER)])
    all_slopes = np.concatenate(slopes)
    inner = {float(np.ceil(s * ONE) / ONE) for s in np.quantile(all_slopes, np.linspace(0, 1, QUANTILES))}
    return sorted(inner | {0.0, float(np.ceil(all_slopes.max() * ONE + 1) / ONE)})
