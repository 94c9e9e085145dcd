"""Decides which variant runs on each picture: one for all, or by the picture's quality within a budget."""

import math
from dataclasses import dataclass
from numbers import Real

from runtime.bundle.manifest import Variant
from runtime.bundle.opened import Bundle
from runtime.choice.budgets import ROUNDING, entry_for, rounded_up
from runtime.fields import REBUILD, BundleError


@dataclass(frozen=True)
class Policy:
    """How an engine chooses: one variant for every picture, or by the picture's quality; a second one may follow.

    names: of the bundle's variants, in its order. budget: mean cost a picture may take, math.inf for any, None where a
    variant was named. fixed: the index of the variant for all pictures, None where a selector looks at each. lam:
    accuracy that one unit of cost must bring there. up, below: the index of the variant that runs after each, and the
    margin of logits below which it does, 0 for never.
    """

    names: tuple[str, ...]
    budget: float | None
    fixed: int | None
    lam: float = 0.0
    up: tuple[int, ...] = ()
    below: tuple[int, ...] = ()

    @property
    def selects(self) -> bool:
        """Whether the choice depends on the picture."""
        return self.fixed is None

    @property
    def escalates(self) -> dict[str, str]:
        """Variant -> the one that runs after it where it is unsure; empty where every picture runs once."""
        return {self.names[v]: self.names[self.up[v]] for v, below in enumerate(self.below) if below}

    def second(self, first: int, margin: int) -> int | None:
        """Returns the variant that runs after `first`, whose logits have that margin; None where none does.

        The rule is that of runtime.choice.escalation.escalate.
        """
        if self.below and margin < self.below[first]:
            return self.up[first]
        return None


def make_policy(bundle: Bundle, budget: float | None, variant: str | None, may_escalate: bool) -> Policy:
    """Returns the policy for a bundle; see Engine for the parameters.

    Raises ValueError for a budget that is no number or below the smallest, and for a budget beside a variant;
    BundleError for an unknown variant, and where the bundle has no table of budgets to serve one.
    """
    _require_budget_or_variant(budget, variant)
    names = tuple(v.name for v in bundle.variants)
    if variant is not None:
        return Policy(names, None, names.index(bundle.variant(variant).name))
    if bundle.manifest.selector is None or len(bundle.variants) == 1:
        served = _served_budget(bundle, budget, min(v.cost for v in bundle.variants))
        return Policy(names, served, names.index(_best_variant(bundle.variants, served).name))
    escalation = bundle.manifest.escalation
    if escalation is not None and may_escalate:
        served = _served_budget(bundle, budget, min(row.budget for row in escalation.budgets))
        row = entry_for(escalation.budgets, served)
        return Policy(names, served, None, row.lam, escalation.up, row.margins)
    table = bundle.manifest.budgets
    served = _served_budget(bundle, budget, min((row.budget for row in table), default=0.0))
    if table:
        return Policy(names, served, None, entry_for(table, served).lam)
    if served != math.inf:
        raise BundleError(
            f"{bundle.folder}: expected a table of budgets to serve a budget of {served}, it has none; "
            f"leave the budget out, or {REBUILD}"
        )
    return Policy(names, served, None)


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
