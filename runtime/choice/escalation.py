"""Second passes: where the variant that ran is unsure, a dearer one runs too, and its answer counts.

How sure a variant is of a picture is the margin of its integer logits, so every device escalates the same pictures.
"""

from dataclasses import dataclass

import numpy as np

from runtime.fields import Fields

MOST = 1 << 32  # a margin of int32 logits is below it


@dataclass(frozen=True)
class EscalationBudget:
    """Choosing with `lam`, then once more below `margins`, costs `budget` on average and gives `accuracy`.

    budget counts both passes; worst: the most that one picture costs; margins: of each variant, 0 for never.
    """

    budget: float
    lam: float
    accuracy: float
    worst: float
    margins: tuple[int, ...]


@dataclass(frozen=True)
class Escalation:
    """up: of each variant the one that runs after it, itself for none; budgets: the table to choose from."""

    up: tuple[int, ...]
    budgets: tuple[EscalationBudget, ...]


def margin(logits: np.ndarray) -> np.ndarray:
    """int64 [N]: the largest less the second largest of logits int32 [N, classes]; of a single class the most."""
    if logits.shape[1] < 2:
        return np.full(len(logits), MOST - 1, np.int64)
    top = np.partition(logits, -2, axis=1)[:, -2:].astype(np.int64)
    return top[:, 1] - top[:, 0]


def again(ran: np.ndarray, margins: np.ndarray, up, below) -> np.ndarray:
    """int64 [N]: the variant whose answer counts, of the one that ran [N] and its margins [N].

    up, below: [V], the variant that runs after each, and the margin below which it does.
    """
    return np.where(margins < np.asarray(below)[ran], np.asarray(up)[ran], ran)


def parse_escalation(f: Fields, variants: int) -> Escalation:
    """Of the JSON object of a manifest; raises BundleError."""
    up = _whole(f, "up", variants, variants - 1)
    return Escalation(up, tuple(_budget(b, up) for b in f.objects("budgets", least=1)))


def _budget(f: Fields, up: tuple[int, ...]) -> EscalationBudget:
    margins = _whole(f, "margins", len(up), MOST)
    looped = [v for v, m in enumerate(margins) if m and up[v] == v]
    f.require(not looped, f"margins of 0 for variants {looped}, which none runs after", list(margins))
    budget = f.real("budget", 0)
    return EscalationBudget(budget, f.real("lambda", 0), f.real("accuracy", 0, 1), f.real("worst", budget), margins)


def _whole(f: Fields, key: str, count: int, most: int) -> tuple[int, ...]:
    values = f.get(key, list, "a list")
    f.require(
        len(values) == count and all(type(v) is int and 0 <= v <= most for v in values),
        f"{key} to be {count} whole numbers in 0..{most}, one a variant",
        values,
    )
    return tuple(values)
