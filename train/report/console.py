"""Prints the table of accuracies that ends a run."""

import numpy as np
from rich.console import Console
from rich.table import Table

from train.choice.arms import BY_RULE
from train.evidence.measure import accuracy_by_family, mean_cost
from train.report.plots import IN_FAMILIES


def show(records: list[dict], console: Console, hidden: set[str]) -> None:
    """Accuracy in percent per family (mean of its severities) and each arm's mean cost; some variants are left out."""
    held = {r["family"] for r in records if r["heldout"]}
    arms = {
        (arm, variant): accuracy_by_family(records, arm, variant)
        for arm, variant in dict.fromkeys((r["arm"], r["variant"]) for r in records)
        if arm in IN_FAMILIES or (variant not in hidden and arm not in BY_RULE)
    }
    table = Table(title="accuracy in %, integer arithmetic (fp32: float)")
    table.add_column("family")
    for arm, variant in arms:
        table.add_column(arm if arm in BY_RULE else variant, justify="right")
    for family in dict.fromkeys(r["family"] for r in records):
        table.add_row(family + (" *" if family in held else ""), *(f"{100 * a[family]:.1f}" for a in arms.values()))
    table.add_section()
    for name, left_out in (("mean", set()), ("mean without *", held)):
        means = [np.mean([v for f, v in a.items() if f not in left_out]) for a in arms.values()]
        table.add_row(name, *(f"{100 * m:.1f}" for m in means))
    table.add_row("cost, of 8 bits", *(f"{mean_cost(records, *arm):.3f}" for arm in arms))
    console.print(table)
    if held:
        console.print("* held out: never seen in training")
