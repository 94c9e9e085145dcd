"""The command line of `python -m train.report`."""

from pathlib import Path

from runtime.terminal import OneLineParser, program
from train.settings.command_line import given_path

ABOUT = "Writes a run's report, or says what several runs of different seeds gain on average."


def make_parser() -> OneLineParser:
    """Returns the parser of the command line."""
    parser = OneLineParser(prog=program("train.report"), usage="%(prog)s RUN ... [--static RUN]", description=ABOUT)
    parser.add_argument(
        "runs",
        nargs="+",
        type=given_path,
        metavar="RUN",
        help="Folder of a finished run, whose report is written; of several, equal but for their seeds: prints what "
        "they gain on average.",
    )
    parser.add_argument(
        "--static",
        action="append",
        type=given_path,
        metavar="RUN",
        default=[],
        help="Another run of the same seed and pictures, whose static variants count too, for example one trained with "
        "--kinds 1; may be given several times, as often for each seed.",
    )
    return parser


def parse(arguments: list[str] | None = None) -> tuple[list[Path], list[Path]]:
    """Returns the folders of the runs, and those of --static."""
    words = make_parser().parse_args(arguments)
    return words.runs, words.static
