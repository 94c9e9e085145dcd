"""Writes a run's report, or says what several runs of different seeds gain on average."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.terminal import say, terminal
from train.report.over_seeds import over_seeds, read_rivals
from train.report.write import write_report
from train.settings.command_line import given_path


def report(runs: Sequence[Path], others: Sequence[Path] = ()) -> None:
    """Writes the report of one run and prints where; of several of different seeds, prints what they gain on average.

    others: folders of runs whose static variants count too, each beside the run of its seed.
    """
    if len(runs) == 1:
        say(str(write_report(runs[0], rivals=read_rivals(runs[0], others))))
    else:
        say("\n".join(over_seeds(runs, others)))


def parse(arguments: list[str] | None = None) -> tuple[list[Path], list[Path]]:
    """Returns the folders of the runs, and those of --static."""
    parser = argparse.ArgumentParser(prog="python -m train.report", description=sys.modules[__name__].__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=given_path,
        metavar="RUN",
        help="folder of a finished run, whose "
        "report is written; of several, equal but for their seeds: print what they gain on average",
    )
    parser.add_argument(
        "--static",
        action="append",
        type=given_path,
        metavar="RUN",
        default=[],
        help="another run of "
        "the same seed and pictures, whose static variants count too: say one with --kinds 1, which "
        "trained nothing else; may be given several times, as often for each seed",
    )
    words = parser.parse_args(arguments)
    return words.runs, words.static


if __name__ == "__main__":
    with terminal():
        try:
            report(*parse())
        except (ValueError, OSError) as problem:
            sys.exit(str(problem))
