"""Decides which variant runs on each picture: one for all, or by the picture's quality within a budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol

import numpy as np

from runtime.bundle.manifest import Variant
from runtime.bundle.opened import Bundle
from runtime.choice import quality
from runtime.choice.budgets import ROUNDING, entry_for, rounded_up
from runtime.choice.escalation import escalate, margin
from runtime.choice.selector import Selector
from runtime.fields import REBUILD, BundleError

Quality = dict[str, int]  # feature -> integer, in the order of runtime.choice.quality.NAMES


@dataclass(frozen=True)
class Choices:
    """The variant that runs first on each picture, by name, and the picture's quality, None where nobody looked."""

    variants: list[str]
    qualities: list[Quality | None]


class Policy(Protocol):
    """How an engine chooses a variant for each picture."""

    @property
    def budget(self) -> float | None:
        """Mean cost a picture may take, math.inf for any, None where a variant was named."""

    @property
    def selects(self) -> bool:
        """Whether the choice depends on the picture."""

    @property
    def escalates(self) -> dict[str, str]:
        """Variant -> the one that runs after it where it is unsure; empty where every picture runs once."""

    def choose(self, pictures: np.ndarray) -> Choices:
        """Returns the first variant for each picture uint8 [N, H, W, 3] of the input's size."""

    def second_passes(self, first: Sequence[str], logits: np.ndarray) -> dict[int, str]:
        """Returns index -> the variant that runs next, for the pictures of which the first variant is unsure.

        first: the variant that ran on each picture; logits: int32 [N, classes], its answers.
        """


@dataclass(frozen=True)
class OneForAll:
    """Runs the same variant for every picture."""

    variant: Variant
    budget: float | None

    @property
    def selects(self) -> bool:
        """Whether the choice depends on the picture: never."""
        return False

    @property
    def escalates(self) -> dict[str, str]:
        """No variant runs after another."""
        return {}

    def choose(self, pictures: np.ndarray) -> Choices:
        """Returns that variant for each picture uint8 [N, H, W, 3]."""
        return Choices([self.variant.name] * len(pictures), [None] * len(pictures))

    def second_passes(self, first: Sequence[str], logits: np.ndarray) -> dict[int, str]:  # noqa: ARG002 (as Policy has it)
        """Returns nothing, whatever the logits [N, classes] are."""
        return {}


@dataclass(frozen=True, eq=False)
class ByQuality:
    """Lets a selector look at each picture, at a price of cost that keeps a budget; a second variant may follow.

    names: of the variants, in the selector's order. lam: accuracy that one unit of cost must bring. up, below: the
    index of the variant that runs after each, and the margin of logits below which it does, 0 for never.
    """

    names: tuple[str, ...]
    budget: float
    selector: Selector
    lam: float
    up: tuple[int, ...] = ()
    below: tuple[int, ...] = ()

    @property
    def selects(self) -> bool:
        """Whether the choice depends on the picture: always."""
        return True

    @property
    def escalates(self) -> dict[str, str]:
        """Variant -> the one that runs after it where it is unsure; empty where every picture runs once."""
        return {self.names[v]: self.names[self.up[v]] for v, below in enumerate(self.below) if below}

    def choose(self, pictures: np.ndarray) -> Choices:
        """Returns the first variant and the quality of each picture uint8 [N, H, W, 3] of the input's size."""
        features = quality.features(pictures)
        chosen = self.selector.choose(features, self.lam)
        qualities: list[Quality | None] = [dict(zip(quality.NAMES, row, strict=True)) for row in features.tolist()]
        return Choices([self.names[v] for v in chosen], qualities)

    def second_passes(self, first: Sequence[str], logits: np.ndarray) -> dict[int, str]:
        """Returns index -> the variant that runs next, for pictures whose logits int32 [N, classes] are unsure."""
        if not any(self.below):
            return {}
        ran = np.array([self.names.index(name) for name in first])
        last = escalate(ran, margin(logits), self.up, self.below)
        return {int(i): self.names[last[i]] for i in np.flatnonzero(last != ran)}


def make_policy(bundle: Bundle, budget: float | None, variant: str | None, may_escalate: bool) -> Policy:
    """Returns the policy for a bundle; see Engine for the parameters.

    Raises ValueError for a budget that is no number or below the smallest, and for a budget beside a variant;
    BundleError for an unknown variant, and where the bundle has no table of budgets to serve one.
    """
    _require_budget_or_variant(budget, variant)
    if variant is not None:
        return OneForAll(bundle.variant(variant), None)
    selector = bundle.manifest.selector
    if selector is None or len(bundle.variants) == 1:
        served = _served_budget(bundle, budget, min(v.cost for v in bundle.variants))
        return OneForAll(_best_variant(bundle.variants, served), served)
    names = tuple(v.name for v in bundle.variants)
    escalation = bundle.manifest.escalation
    if escalation is not None and may_escalate:
        served = _served_budget(bundle, budget, min(row.budget for row in escalation.budgets))
        row = entry_for(escalation.budgets, served)
        return ByQuality(names, served, selector, row.lam, escalation.up, row.margins)
    table = bundle.manifest.budgets
    served = _served_budget(bundle, budget, min((row.budget for row in table), default=0.0))
    if table:
        return ByQuality(names, served, selector, entry_for(table, served).lam)
    if served != math.inf:
        raise BundleError(
            f"{bundle.folder}: expected a table of budgets to serve a budget of {served}, it has none; "
            f"leave the budget out, or {REBUILD}"
        )
    return ByQuality(names, served, selector, lam=0.0)


def _require_budget_or_variant(budget: float | None, variant: str | None) -> None:
    """Raises ValueError for a budget beside a variant, and for one that is no number."""
    if budget is None:
        return
    if variant is not None:
        raise ValueError(f"expected a budget or a variant, got both ({budget}, {variant!r}); leave one out")
    if not isinstance(budget, Real) or isinstance(budget, bool) or math.isnan(budget):
        raise ValueError(f"expected a budget as a number, math.inf for any cost, got {budget!r}")


def _served_budget(bundle: Bundle, budget: float | None, least: float) -> float:
    """Returns the budget given, or the bundle's own, math.inf where it has none.

    An own budget below the least that can be had means that, as in the report of the run.
    """
    if budget is not None:
        return budget
    own = bundle.manifest.budget
    return math.inf if own is None else max(own, least)


def _best_variant(variants: tuple[Variant, ...], budget: float) -> Variant:
    """Returns the most accurate variant within the budget, or the costliest where one's accuracy is not measured.

    Raises ValueError where every variant costs more.
    """
    within = [v for v in variants if v.cost <= budget * ROUNDING]
    if not within:
        least = rounded_up(min(v.cost for v in variants))
        raise ValueError(f"budget {budget!r}: expected at least {least}, the cost of the cheapest variant")
    accuracies = {v.name: v.mean_accuracy for v in variants}
    if None in accuracies.values():
        return max(within, key=lambda v: v.cost)
    return max(within, key=lambda v: (accuracies[v.name], -v.cost))
