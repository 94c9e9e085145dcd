"""The command line of `python -m train.adapt`; needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile.calibrate.errors import CalibrationError
from compile.calibrate.presets import find_preprocessing
from compile.calibrate.settings import WIDTHS
from runtime.terminal import OneLineParser, program
from train.adapt.settings import FITTED_PICTURES, JUDGED_LARGE, JUDGED_SMALL, WEIGHTS, AdaptSettings
from train.data.names import HELD_OUT
from train.network.architectures import ARCHITECTURES
from train.settings.command_line import given_path
from train.settings.options import SettingsError
from train.settings.training import CACHE

ABOUT = (
    "Adapts a network to pictures of every quality, without training and without labels: a family in a run folder, "
    "which compile.build takes."
)


@dataclass(frozen=True)
class AdaptRequest:
    """A command line: the network, the pictures, the run folder, and how the network is adapted.

    arch, classes, size: see train.adapt.source.open_source. labels: text file with a class a line. labelled: whether
    the folder of pictures has a sub-folder for each class.
    """

    network: Path
    pictures: Path
    out: Path
    settings: AdaptSettings
    arch: str | None
    classes: int
    size: int | None
    labels: Path | None
    labelled: bool


def make_parser() -> OneLineParser:
    """Returns the parser of the command line."""
    parser = OneLineParser(
        prog=program("train.adapt"), usage="%(prog)s NETWORK --pictures FOLDER --out RUN [options]", description=ABOUT
    )
    add = parser.add_argument
    add("network", type=given_path, metavar="NETWORK", help="A float ONNX file, or a checkpoint of --arch.")
    add(
        "--pictures", type=given_path, required=True, metavar="FOLDER", help="Good pictures, as the network knows them."
    )
    add("--out", type=given_path, required=True, metavar="RUN", help="Folder of the run that is made.")
    add("--bits", default="8", metavar="A,B", help=f"Widths, some of {', '.join(WIDTHS)} (default: 8).")
    add(
        "--weights",
        choices=WEIGHTS,
        default="fitted",
        help="kept: kinds of quality differ in tables of biases and multipliers alone; fitted: over weights that suit "
        "all kinds; private: every kind has weights of its own (default: fitted).",
    )
    add(
        "--preprocess",
        metavar="NAME | FILE.json",
        help="For ONNX files: how photos were cropped and normalized in training, as torchvision:resnet50, timm:NAME "
        '(installed), or a JSON file such as {"mean": [0.5], "std": [0.5], "crop": null}.',
    )
    add("--arch", choices=tuple(ARCHITECTURES), help="For checkpoints: the architecture that they are of.")
    add("--classes", type=int, default=10, metavar="N", help="For checkpoints: classes of the network (default: 10).")
    add("--size", type=int, metavar="N", help="Side of the picture, where the file leaves it open.")
    add("--labels", type=given_path, metavar="FILE", help="Text file with the names of the classes, one a line.")
    add(
        "--labelled",
        action="store_true",
        help="FOLDER has a sub-folder for each class, in the network's order: accuracy is counted by them, instead of "
        "agreement with the network's answers to the pictures as they are.",
    )
    add(
        "--fitted",
        type=int,
        default=FITTED_PICTURES,
        metavar="N",
        help=f"Pictures that fits are made of, at most half of all (default: {FITTED_PICTURES}).",
    )
    add(
        "--judged",
        type=int,
        metavar="N",
        help=f"Pictures that the selector learns from, and as many for the report (default: {JUDGED_SMALL}, or "
        f"{JUDGED_LARGE} of large ones).",
    )
    add("--budget", type=float, default=1.0, metavar="X", help="Mean cost relative to 8 bits (default: 1).")
    add(
        "--hold-out",
        default=",".join(HELD_OUT),
        metavar="A,B",
        help=f"Degradations that only the report has (default: {','.join(HELD_OUT)}).",
    )
    add("--seed", type=int, default=0, metavar="N", help="Of all chance: one seed gives one result (default: 0).")
    add("--cache", type=given_path, default=None, metavar="PATH", help="Where degraded pictures are kept.")
    return parser


def parse(arguments: Sequence[str] | None = None) -> AdaptRequest:
    """Returns what a command line asks for; a bad one ends the program with one line that says what is wrong."""
    parser = make_parser()
    words: dict[str, Any] = vars(parser.parse_args(arguments))
    try:
        preprocess, cache = words.pop("preprocess"), words.pop("cache")
        settings = AdaptSettings(
            bits=_words(words.pop("bits")),
            hold_out=_words(words.pop("hold_out")),
            preprocessing=None if preprocess is None else find_preprocessing(preprocess),
            cache=cache or CACHE,
            **{name: words.pop(name) for name in ("weights", "fitted", "judged", "budget", "seed")},
        )
        return AdaptRequest(settings=settings, **words)
    except (SettingsError, CalibrationError) as error:
        parser.error(str(error))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)
