"""Prints the table of accuracies that ends a run, within the 80 columns of a terminal."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from train.choice.scores import ARMS
from train.evidence.results import Arm, Result, accuracy_by_family, mean_cost

SHOWN = ("fp32", "static", "adaptive", "random")  # arms beside single variants: more are in the report
WIDTH = 80
LONGEST = 20  # letters of a name; longer ones are shortened in the middle
GAP = 2  # columns between two columns of a table


def print_accuracies(results: Sequence[Result], console: Console, hidden: Collection[str]) -> None:
    """Prints accuracies in percent per family (mean over severities) and mean costs, a column an arm.

    hidden: variants that have no column. Where the columns need more than WIDTH, the rest follow in further tables.
    """
    held_out = {r.family for r in results if r.heldout}
    arms = [arm for arm in dict.fromkeys(r.key for r in results) if _is_shown(arm, hidden)]
    families = list(dict.fromkeys(r.family for r in results))
    for block in _blocks(arms, families):
        console.print(_table(results, block, families, held_out), crop=False)
    if held_out:
        console.print("* held out: never seen in training")


def shortened(name: str, longest: int = LONGEST) -> str:
    """Returns a name with an ellipsis in its middle where it is longer than so many letters."""
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[head + 1 - longest :]}"


def _is_shown(arm: Arm, hidden: Collection[str]) -> bool:
    way, variant = arm
    return way in SHOWN or (way not in ARMS and variant not in hidden)


def _title(arm: Arm) -> str:
    way, variant = arm
    return way if way in ARMS else shortened(variant)


def _blocks(arms: Sequence[Arm], families: Sequence[str]) -> Iterator[list[Arm]]:
    """Arms whose columns fit beside each other."""
    first = max(len(label) for label in ("mean without *", *(f"{shortened(f)} *" for f in families)))
    block: list[Arm] = []
    used = first + GAP
    for arm in arms:
        needed = max(len(_title(arm)), len("16.000")) + GAP
        if block and used + needed > WIDTH:
            yield block
            block = []
            used = first + GAP
        block.append(arm)
        used += needed
    yield block


def _table(results: Sequence[Result], arms: Sequence[Arm], families: Sequence[str], held_out: set[str]) -> Table:
    accuracy = {arm: accuracy_by_family(results, arm) for arm in arms}
    title = "accuracy in %, integer arithmetic (fp32: float)"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, GAP, 0, 0), pad_edge=False)
    table.add_column("family", no_wrap=True)
    for arm in arms:
        table.add_column(_title(arm), justify="right", no_wrap=True)
    for family in families:
        label = shortened(family) + (" *" if family in held_out else "")
        table.add_row(label, *(f"{100 * accuracy[arm][family]:.1f}" for arm in arms))
    table.add_section()
    for label, left_out in (("mean", set()), ("mean without *", held_out)):
        means = [np.mean([v for f, v in accuracy[arm].items() if f not in left_out]) for arm in arms]
        table.add_row(label, *(f"{100 * mean:.1f}" for mean in means))
    table.add_row("mean cost", *(f"{mean_cost(results, arm):.3f}" for arm in arms))
    return table
