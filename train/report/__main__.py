"""Writes a run's report, or says what several runs of different seeds gain on average."""

from collections.abc import Sequence
from pathlib import Path

from compile.source.run_folder import require_run
from runtime.terminal import fail, say, terminal
from train.report.command_line import parse


def report(runs: Sequence[Path], others: Sequence[Path] = ()) -> None:
    """Writes the report of one run and prints where; of several of different seeds, prints what they gain on average.

    others: folders of runs whose static variants count too, each beside the run of its seed.
    """
    for folder in (*runs, *others):
        require_run(folder)
    # Here, so that a wrong command line or folder is told before torch has loaded.
    from train.report.over_seeds import over_seeds, read_rivals
    from train.report.write import write_report

    if len(runs) == 1:
        say(str(write_report(runs[0], rivals=read_rivals(runs[0], others))))
    else:
        say("\n".join(over_seeds(runs, others)))


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line, and ends the program with one line where that fails."""
    runs, others = parse(arguments)
    try:
        report(runs, others)
    except (ValueError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    with terminal():
        main()
