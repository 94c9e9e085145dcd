"""Tables of budgets: what choosing at each price of cost gives, and which entry serves a budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from runtime.choice.selector import MAX_LAMBDA
from runtime.fields import Fields

ROUNDING = 1 + 1e-9  # a budget read back from text still serves the entry that it was written for


class Entry(Protocol):
    """What an entry of a table of budgets tells: its mean cost and accuracy."""

    @property
    def budget(self) -> float:
        """Mean cost of a picture, relative to 8 bits everywhere."""

    @property
    def accuracy(self) -> float:
        """Share of pictures classified correctly, in 0..1."""


AnyEntry = TypeVar("AnyEntry", bound=Entry)


@dataclass(frozen=True)
class Budget:
    """Choosing at the price `lam` costs `budget` on average, relative to 8 bits everywhere, and gives `accuracy`.

    lam: the accuracy that one unit of cost must bring; accuracy: in 0..1.
    """

    budget: float
    lam: float
    accuracy: float


def parse_budget(fields: Fields) -> Budget:
    """Reads one entry of a manifest's table. Raises BundleError for anything else."""
    return Budget(fields.real("budget", 0), fields.real("lambda", 0, MAX_LAMBDA), fields.real("accuracy", 0, 1))


def entry_for(table: Sequence[AnyEntry], budget: float) -> AnyEntry:
    """Returns the most accurate entry whose mean cost is within the budget, the cheapest of equally accurate ones.

    Raises ValueError when every entry costs more. The table has one entry or more.
    """
    entries = [entry for entry in table if entry.budget <= budget * ROUNDING]
    if not entries:
        least = rounded_up(min(entry.budget for entry in table))
        raise ValueError(f"budget {budget!r}: expected at least {least}, the mean cost of the cheapest choice")
    return max(entries, key=lambda entry: (entry.accuracy, -entry.budget))


def rounded_up(cost: float) -> str:
    """Returns a cost as text of at most four decimals, rounded up, so that typing it as a budget allows the cost."""
    return f"{math.ceil(cost * 10000) / 10000:.10g}"
