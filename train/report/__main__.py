"""Writes a run's report, or says what several runs of different seeds gain on average."""

import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.terminal import say, terminal
from train.report.command_line import parse
from train.report.over_seeds import over_seeds, read_rivals
from train.report.write import write_report


def report(runs: Sequence[Path], others: Sequence[Path] = ()) -> None:
    """Writes the report of one run and prints where; of several of different seeds, prints what they gain on average.

    others: folders of runs whose static variants count too, each beside the run of its seed.
    """
    if len(runs) == 1:
        say(str(write_report(runs[0], rivals=read_rivals(runs[0], others))))
    else:
        say("\n".join(over_seeds(runs, others)))


if __name__ == "__main__":
    with terminal():
        try:
            report(*parse())
        except (ValueError, OSError) as problem:
            sys.exit(str(problem))
