"""Learns how to choose among variants: a selector, its table of budgets, and what it comes to on given outcomes."""

from dataclasses import dataclass, replace

import numpy as np

from compile.source.run_folder import ChoiceRecord
from runtime.choice.selector import Selector
from train.choice.budgets import BudgetRow, CascadeRow, CascadeTable, budget_table, row_within
from train.choice.escalation import CascadeRule, cascade_table
from train.choice.selector import INSIDE, train_selector
from train.choice.validation_set import ValidationSet
from train.evidence.evidence import Answers
from train.evidence.outcomes import Outcomes


@dataclass(frozen=True, eq=False)
class Choice:
    """A trained selector with its tables, and the row in force that keeps to a budget.

    cascade: None where nothing runs twice; lam, margins int64 [V]: those of the row in force; costs: float64 [V]
    relative to 8 bits; inside: float [V], share of the validation pictures near enough to a known kind for each variant
    not to fall back.
    """

    selector: Selector
    budgets: tuple[BudgetRow, ...]
    cascade: CascadeTable | None
    lam: float
    margins: np.ndarray
    costs: np.ndarray
    inside: np.ndarray

    @property
    def rows(self) -> tuple[BudgetRow, ...]:
        """The table that a budget is looked up in: that of cascades where there is one."""
        return self.budgets if self.cascade is None else self.cascade.rows

    def at(self, row: BudgetRow) -> "Choice":
        """Returns the same choice with another row of its table in force."""
        margins = row.margins if isinstance(row, CascadeRow) else (0,) * len(self.costs)
        return replace(self, lam=row.lam, margins=np.array(margins, np.int64))

    def record(self) -> ChoiceRecord:
        """Returns what run.json says of the choice."""
        cascade = None if self.cascade is None else self.cascade.to_dict()
        return ChoiceRecord(self.selector.to_dict(), tuple(row.to_dict() for row in self.budgets), cascade, self.lam)

    def first(self, features: np.ndarray) -> np.ndarray:
        """Returns the variant that each picture gets first, int64 [M], for features int32 [M, D]."""
        return self.selector.choose(features, self.lam)

    def run(self, outcomes: Outcomes) -> Answers:
        """Answers pictures whose outcomes with every variant are known."""
        up = np.arange(len(self.costs)) if self.cascade is None else np.array(self.cascade.up)
        return CascadeRule(up, self.margins).run(self.first(outcomes.features), outcomes, self.costs)


def fit_choice(
    validation: ValidationSet,
    budget: float,
    seed: int,
    *,
    escalate: bool = False,
    by_quality: bool = True,
    inside: float | np.ndarray = INSIDE,
) -> Choice:
    """Learns a choice within a mean cost; a budget below the cheapest variant's cost means that variant.

    escalate: whether a dearer variant may run after one that is unsure. by_quality: whether the first choice may depend
    on the picture; False: the best variant at its cost for all. inside: share (0..1) of these pictures near enough to a
    known kind not to fall back, of all variants or each [V]. Raises ValueError for unfit data.
    """
    selector = train_selector(validation, seed, by_quality=by_quality, inside=inside)
    choice = Choice(
        selector=selector,
        budgets=budget_table(selector, validation),
        cascade=cascade_table(selector, validation, seed) if escalate else None,
        lam=0.0,
        margins=np.zeros(len(validation.costs), np.int64),
        costs=validation.costs,
        inside=np.broadcast_to(inside, validation.costs.shape),
    )
    return choice.at(row_within(choice.rows, budget))
