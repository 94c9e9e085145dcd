"""The command line of `python -m train.recost`; needs no torch."""

import argparse
from pathlib import Path

from runtime.terminal import OneLineParser, program
from train.recost.changes import Changes
from train.settings.bits import COSTS
from train.settings.command_line import given_path

ABOUT = "Chooses anew among the variants of a finished run, for another cost, target or budget, without any training."


def make_parser() -> OneLineParser:
    """Returns the parser of the command line."""
    parser = OneLineParser(
        prog=program("train.recost"),
        usage="%(prog)s RUN --out DIR [options]",
        description=ABOUT,
        epilog="The default of every other option is what the run had.",
    )
    parser.add_argument("run", type=given_path, metavar="RUN", help="Folder of a finished run, with its outcomes.npz.")
    parser.add_argument("--out", type=given_path, required=True, metavar="DIR", help="Folder of the run that is made.")
    parser.add_argument(
        "--cost", choices=COSTS, help="What the budget counts (default: the run's own; so for the options below)."
    )
    parser.add_argument("--target", metavar="NAME", help="Hardware whose table of times --cost latency takes.")
    parser.add_argument(
        "--budget", type=float, metavar="X", help="Mean cost that a picture may have, relative to 8 bits everywhere."
    )
    parser.add_argument(
        "--escalate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="Lets a dearer variant run too where the answer of the first is unsure.",
    )
    parser.add_argument(
        "--unseen-loss", type=float, metavar="X", help="Accuracy (0..1) that a kind of quality never seen may lose."
    )
    return parser


def parse(arguments: list[str] | None = None) -> tuple[Path, Path, Changes]:
    """Returns the run folder, the new folder and the changes that a command line asks for."""
    words = vars(make_parser().parse_args(arguments))
    return words.pop("run"), words.pop("out"), Changes(**words)
