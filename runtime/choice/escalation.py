"""Cascades of two variants: when the first is unsure of a picture, a costlier one runs too, and its answer counts.

How sure a variant is shows in the margin of its integer logits, so every device escalates the same pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.choice.selector import MAX_LAMBDA
from runtime.fields import Fields

MOST = 1 << 32  # above the margin of any int32 logits


@dataclass(frozen=True)
class EscalationBudget:
    """Choosing at the price `lam` and escalating below `margins` costs `budget` on average and gives `accuracy`.

    budget: relative to 8 bits everywhere, both passes counted; worst: the most that one picture costs; margins: the
    margin of each variant below which its pictures escalate, 0 for never.
    """

    budget: float
    lam: float
    accuracy: float
    worst: float
    margins: tuple[int, ...]


@dataclass(frozen=True)
class Escalation:
    """Which variant runs after each (its own index where none does), and the table of budgets to choose from."""

    up: tuple[int, ...]
    budgets: tuple[EscalationBudget, ...]


def margin(logits: np.ndarray) -> np.ndarray:
    """Returns the largest less the second largest logit, int64 [N], of int32 [N, classes]; MOST - 1 for one class."""
    if logits.shape[1] < 2:
        return np.full(len(logits), MOST - 1, np.int64)
    top = np.partition(logits, -2, axis=1)[:, -2:].astype(np.int64)
    margins: np.ndarray = top[:, 1] - top[:, 0]
    return margins


def escalate(
    first: np.ndarray, margins: np.ndarray, up: Sequence[int] | np.ndarray, below: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Returns the variant whose answer counts for each picture, int64 [N], after the first pass.

    first, margins: int64 [N], the variant that ran on each picture and the margin of its logits. up, below: [V], the
    variant that runs after each, and the margin below which it does.
    """
    return np.where(margins < np.asarray(below)[first], np.asarray(up)[first], first)


def parse_escalation(fields: Fields, variants: int) -> Escalation:
    """Reads the JSON object of a manifest with that many variants. Raises BundleError for anything else."""
    up = _whole_numbers(fields, "up", variants, variants - 1)
    return Escalation(up, tuple(_parse_entry(entry, up) for entry in fields.objects("budgets", least=1)))


def _parse_entry(fields: Fields, up: tuple[int, ...]) -> EscalationBudget:
    margins = _whole_numbers(fields, "margins", len(up), MOST)
    dead_ends = [v for v, below in enumerate(margins) if below and up[v] == v]
    fields.require(not dead_ends, f"margins of 0 for variants {dead_ends}, after which none runs", list(margins))
    budget = fields.real("budget", 0)
    return EscalationBudget(
        budget=budget,
        lam=fields.real("lambda", 0, MAX_LAMBDA),
        accuracy=fields.real("accuracy", 0, 1),
        worst=fields.real("worst", budget),
        margins=margins,
    )


def _whole_numbers(fields: Fields, key: str, count: int, largest: int) -> tuple[int, ...]:
    values = fields.get(key, list, "a list")
    fields.require(
        len(values) == count and all(type(v) is int and 0 <= v <= largest for v in values),
        f"{key} to be {count} whole numbers in 0..{largest}, one for each variant",
        values,
    )
    return tuple(values)
