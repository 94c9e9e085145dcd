"""Parses the command line of `python -m runtime`, and finds the bundle that it means."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.bundle.manifest import FILE
from runtime.bundle.opened import newest_bundle
from runtime.fields import BundleError
from runtime.pictures.files import is_picture_name, pictures_inside
from runtime.terminal import OneLineParser, program

COMMANDS = {
    "check": "Replays the golden pictures: do all logits come out the same here?",
    "infer": "Classifies picture files.",
    "bench": "Measures latency.",
    "info": "Lists what is in the bundle, and which of its code runs here.",
}


@dataclass(frozen=True)
class Request:
    """What a command line asks for. bundle: None for the newest; json: a file's name, "-" for standard output."""

    command: str
    bundle: Path | None
    json: str | None
    pictures: tuple[Path, ...] = ()
    variant: str | None = None
    escalate: bool = True
    budget: float | None = None
    level: str | None = None
    threads: int = 1
    calls: int = 200


def make_parser() -> OneLineParser:
    """Returns the parser of all commands."""
    parser = OneLineParser(prog=program("runtime"), description="Runs a bundle on this device.")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(parser=command)  # which refuses what is wrong behind the command's name
        command.add_argument(
            "bundle", nargs="?", type=Path, help="The bundle's folder (default: the newest under ./bundles)."
        )
        command.add_argument(
            "--json", metavar="FILE", help="Also writes the result to FILE, as JSON; `-`: only to standard output."
        )
        if name == "infer":
            _add_infer_options(command)
        if name in ("infer", "bench"):
            _add_engine_options(command)
        if name == "bench":
            command.add_argument(
                "--calls", type=_parse_count, default=200, metavar="N", help="Calls of each step (default 200)."
            )
    return parser


def _add_infer_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "pictures", nargs="*", type=Path, help="PNG, PPM, PGM, BMP or .npy, with Pillow any; or folders of them."
    )
    command.add_argument("--variant", metavar="NAME", help="Runs this variant whatever the quality.")
    command.add_argument(
        "--no-escalate", dest="escalate", action="store_false", help="Runs one pass per picture, sure or not."
    )


def _add_engine_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--budget",
        type=float,
        metavar="X",
        help="Mean cost a picture may take, 1 for 8 bits everywhere, inf for any (default: that of the bundle's run).",
    )
    command.add_argument(
        "--level", metavar="NAME", help="The level whose code runs (default: the best that this machine can run)."
    )
    command.add_argument(
        "--threads", type=int, default=1, metavar="N", help="Threads that work on a picture together (default 1)."
    )


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def parse_arguments(argv: Sequence[str] | None) -> Request | None:
    """Returns what the words ask for, None where they name no command; wrong words end the program with status 2.

    argv: None for those of the process. The first word of `infer` is a picture unless it names a bundle.
    """
    parser = make_parser()
    args, left_over = parser.parse_known_args(argv)
    words = vars(args)
    command: OneLineParser = words.pop("parser", parser)
    if left_over and (args.command != "infer" or any(word.startswith("-") for word in left_over)):
        command.refuse(left_over)
    if args.command is None:
        return None
    request = Request(**words)
    if request.command != "infer":
        return request
    # argparse leaves over the pictures that stand behind an option
    pictures = (*request.pictures, *map(Path, left_over))
    if request.bundle is not None and not _may_be_bundle(request.bundle):
        return replace(request, bundle=None, pictures=(request.bundle, *pictures))
    return replace(request, pictures=pictures)


def _may_be_bundle(path: Path) -> bool:
    """Whether the first word of `infer` names a bundle; a folder without a manifest may hold pictures."""
    try:
        return (path / FILE).is_file() or (path.is_dir() and not pictures_inside(path))
    except OSError:  # a name that no file system takes
        return False


def find_newest(request: Request) -> Path:
    """Returns the newest bundle for a request that names none. Raises BundleError where there is none.

    The error says when the first word was taken for a picture although it may have been meant as a bundle.
    """
    try:
        return newest_bundle()
    except BundleError as error:
        if not request.pictures:
            raise
        first, *others = request.pictures
        if os.path.exists(first):
            problem, pictures = "this is no bundle", request.pictures
        else:
            problem = "there is no such bundle or picture"
            pictures = request.pictures if is_picture_name(first) else tuple(others)
        names = " ".join(map(str, pictures)) or "PICTURE"
        raise BundleError(
            f"{first}: {problem}, and no bundle under ./bundles; give the bundle first: {program('runtime')} infer "
            f"BUNDLE {names}"
        ) from error
