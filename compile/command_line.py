"""The command lines of `python -m compile.build` and `python -m compile.profile`; needs neither TVM nor onnx."""

import argparse
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path

from compile.calibrate.errors import CalibrationError
from compile.calibrate.preprocessing import Preprocessing
from compile.calibrate.presets import find_preprocessing
from compile.calibrate.settings import ROUNDINGS, WIDTHS, CalibrationSettings
from compile.forms.options import FormOptions, Size
from compile.qdq.normalization import Normalization, NormalizationError
from compile.settings import BuildError, BuildSettings, ProfileSettings
from runtime.machine import cpu
from runtime.terminal import OneLineParser, program
from targets import ALIASES, Target, TargetError, find, targets
from targets.costs.shapes import format_bits, parse_bits
from targets.costs.table import CostsError
from targets.reference.nodes import BITS


def parse_build(arguments: Sequence[str] | None = None) -> BuildSettings:
    """Returns the settings of a command line; a bad one ends the program with one line that says what is wrong."""
    parser = make_build_parser()
    args = parser.parse_args(arguments)
    try:
        return BuildSettings(
            target=args.target,
            sources=tuple(args.sources),
            out=args.out,
            dump=args.dump,
            source_only=args.source_only,
            golden=args.golden,
            times=not args.no_times,
            batch=args.batch,
            form=FormOptions(args.output, args.size),
            normalization=None if args.calibrate else _normalization(args.mean, args.std),
            calibration=_calibration(args),
            labels=args.labels,
            report=args.report,
            every_table=args.verbose,
        )
    except (BuildError, CalibrationError, NormalizationError) as error:
        parser.error(str(error))


def make_build_parser() -> argparse.ArgumentParser:
    """Returns the parser of `python -m compile.build`."""
    parser = OneLineParser(
        prog=program("compile.build"),
        usage="%(prog)s [RUN | FILE ...] [options]",
        description="Compiles the networks of a run, or quantized ONNX and TFLite files, into a bundle for one target.",
        allow_abbrev=False,
    )
    here = _target_of_this_machine()
    names = ", ".join(t.name for t in targets())
    parser.add_argument(
        "sources",
        nargs="*",
        type=Path,
        metavar="RUN | FILE",
        help="A run folder, or .onnx and .tflite files of networks with the same input and classes (default: the "
        "newest run under runs/).",
    )
    parser.add_argument(
        "--target",
        type=_target,
        default=here,
        required=here is None,
        metavar="NAME",
        help=f"What the bundle runs on: {names}; or a board: {', '.join(ALIASES)}"
        + (f" (default: {here}, this machine)." if here else "."),
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="The bundle (default: bundles/<run>-<target>).")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="Leaves a readable file of each stage there.")
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="Writes a page: the ladder, differences and costs by layer."
    )
    parser.add_argument(
        "--source-only", action="store_true", help="For cuda without nvcc: leaves the source for the board to compile."
    )
    parser.add_argument(
        "--golden",
        type=int,
        default=4,
        metavar="N",
        help="Golden pictures that the compiled code must reproduce now (default: 4).",
    )
    parser.add_argument("--no-times", action="store_true", help="Does not time the kernels.")
    _add_onnx_arguments(parser)
    _add_calibration_arguments(parser)
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="For cuda: pictures that run together.")
    parser.add_argument("--verbose", action="store_true", help="Prints the whole table of layers of every variant.")
    return parser


def _add_onnx_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that say what files of other tools do not."""
    parser.add_argument(
        "--mean",
        type=_numbers,
        metavar="R,G,B",
        help="For files whose picture is float, or int8 of an unusual range: (u8 / 255 - mean) / std, such as "
        "0.485,0.456,0.406.",
    )
    parser.add_argument("--std", type=_numbers, metavar="R,G,B", help="Belongs to --mean: such as 0.229,0.224,0.225.")
    parser.add_argument(
        "--size", type=_size, metavar="N | HxW", help="For ONNX files of any size: the picture's height and width."
    )
    parser.add_argument("--output", metavar="NAME", help="For ONNX files of several outputs: that of the logits.")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="For files: the classes' names, one per line.")


def _add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of float ONNX files, which are quantized with pictures first."""
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FOLDER",
        help="For float ONNX files: quantizes them with the pictures in this folder, which need no labels.",
    )
    parser.add_argument(
        "--bits",
        choices=tuple(WIDTHS),
        help="With --calibrate: of weights and activations, w4a8 for 4 and 8; the first and last layer have 8 "
        "(default: 8).",
    )
    parser.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        help="With --calibrate: weights below 8 bits go to the nearest code, or where the layer's output changes "
        "least (default: nearest).",
    )
    parser.add_argument(
        "--preprocess",
        metavar="NAME | FILE.json",
        help="With --calibrate, instead of --mean and --std: how photos were cropped and normalized in training, as "
        "torchvision:resnet50, timm:NAME (installed), or a preprocessor_config.json or timm's config.json.",
    )


def _calibration(args: argparse.Namespace) -> CalibrationSettings | None:
    """The flags of a calibration, None where there is none."""
    if args.calibrate is None:
        used = [name for name in ("bits", "rounding", "preprocess") if getattr(args, name) is not None]
        if used:
            raise BuildError(f"--{used[0]}: expected --calibrate FOLDER with it, which names the pictures; add it")
        return None
    normalization = _normalization(args.mean, args.std)
    if (args.preprocess is None) == (normalization is None):
        raise BuildError("--calibrate: expected either --preprocess, or --mean and --std; a float file tells neither")
    if normalization is not None:
        preprocessing = Preprocessing(normalization.mean, normalization.std)
    else:
        preprocessing = find_preprocessing(args.preprocess)
    bits, rounding = args.bits or "8", args.rounding or "nearest"
    return CalibrationSettings(args.calibrate, preprocessing, bits, rounding, _one_side(args.size))


def _one_side(size: Size | None) -> int | None:
    """The side of a square picture; raises BuildError for another shape."""
    if size is None:
        return None
    if size[0] != size[1]:
        raise BuildError(f"--size: expected one number with --calibrate, whose pictures are squares, got {size}")
    return size[0]


def parse_profile(arguments: Sequence[str] | None = None) -> ProfileSettings:
    """Returns the settings of a command line; a bad one ends the program with one line that says what is wrong."""
    args = make_profile_parser().parse_args(arguments)
    return ProfileSettings(
        target=args.target,
        sources=tuple(args.sources),
        bits=args.bits,
        out=args.out,
        again=args.again,
        board=args.board,
        core=args.core,
    )


def make_profile_parser() -> argparse.ArgumentParser:
    """Returns the parser of `python -m compile.profile`."""
    parser = OneLineParser(
        prog=program("compile.profile"),
        usage="%(prog)s [RUN | FILE ...] --target NAME [options]",
        description="Measures what layers cost on a target, and writes its table of costs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sources",
        nargs="*",
        type=Path,
        metavar="RUN | FILE",
        help="A run folder, or .onnx and .tflite files, whose layers are measured (default: all layers that a table "
        "knows).",
    )
    names = ", ".join(t.name for t in targets() if not t.levels)
    boards = ", ".join(alias for alias in ALIASES if not find(alias).levels)
    about = f"The processor: {names}; or a board: {boards}."
    parser.add_argument("--target", type=_target, required=True, metavar="NAME", help=about)
    parser.add_argument(
        "--bits",
        type=_pairs,
        default=(),
        metavar="2,4,8,w7a8",
        help="Widths to combine, and pairs, beside the networks' own.",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="The table (default: targets/<family>/costs-*.json).")
    parser.add_argument("--again", action="store_true", help="Measures anew what the table has already.")
    add_machine_arguments(parser)
    return parser


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what measures: a board, or a core of this machine."""
    parser.add_argument(
        "--rpc", dest="board", metavar="HOST:PORT", help="A board where `python -m tvm.exec.rpc_server` runs."
    )
    parser.add_argument(
        "--cpu", dest="core", type=_core, metavar="N", help="Stays on this processor core of this machine."
    )


def parse_pairs(text: str) -> tuple[str, ...]:
    """Returns pairs of bits: "2,4,w7a8" is every pair of the widths 2 and 4, and one pair more; raises CostsError."""
    words = text.split(",")
    widths = [int(word) for word in words if word.isdigit()]
    pairs = [word for word in words if not word.isdigit()]
    if not set(widths) <= set(BITS) or any(parse_bits(pair)[0] not in BITS for pair in pairs):
        raise CostsError(f"expected widths of {BITS.start}..{BITS.stop - 1}, or pairs such as w4a8, got {text!r}")
    return (*(format_bits(*pair) for pair in itertools.product(widths, widths)), *pairs)


def _pairs(text: str) -> tuple[str, ...]:
    try:
        return parse_pairs(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _target(text: str) -> Target:
    try:
        return find(text)
    except TargetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _core(text: str) -> int:
    count = os.cpu_count() or 1
    if not (text.isascii() and text.isdigit() and int(text) < count):
        raise argparse.ArgumentTypeError(f"expected a processor core in 0..{count - 1}, got {text!r}")
    return int(text)


def _size(text: str) -> Size:
    """Height and width: "224" or "192x256"."""
    words = text.lower().split("x")
    sides = [int(word) for word in words if word.isascii() and word.isdigit()]
    if len(sides) != len(words) or len(words) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"expected a height and width such as 224 or 192x256, got {text!r}")
    return sides[0], sides[-1]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.5,0.5,0.5, got {text!r}")
    return numbers


def _normalization(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Normalization | None:
    """Both flags as one, None where neither is given."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise BuildError("--mean and --std belong together; give both, or neither for files with a uint8 picture")
    if len(mean) != len(std):
        raise BuildError(f"--mean and --std: expected as many numbers each, got {len(mean)} and {len(std)}")
    return Normalization(mean, std)


def _target_of_this_machine() -> str | None:
    """The target of this machine's architecture with all its levels; None where there is none."""
    return next((t.name for t in targets() if t.levels and t.machine == cpu.machine()), None)
