"""Published quantized files: which come in, which build, whether the integers are exact, and what they answer.

    python -m benchmarks.published FILES --pictures PLACE --json FILE
    python -m benchmarks.published --torchvision --timm 50 --exporter PYTHON --pictures PLACE --json FILE

Each file is judged in a process of its own. `--exporter` names a Python that has torchvision, timm and onnxruntime;
files that it exported are kept in --exports and taken again.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.published.exports import MEAN, STD
from benchmarks.published.guarded import Limits, record_of, run
from benchmarks.published.record import Record, messages, short, table, write_into
from compile.qdq.normalization import Normalization
from runtime.files import write_json
from runtime.terminal import OneLineParser, say, terminal

SUFFIXES = (".onnx", ".tflite")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = OneLineParser(prog="python -m benchmarks.published", description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="ONNX and TFLite files, or folders of them")
    parser.add_argument("--pictures", type=Path, required=True, help="a folder or zip of real pictures")
    parser.add_argument("--count", type=int, default=200, help="pictures asked (default 200)")
    parser.add_argument("--mean", type=_numbers, default=MEAN, help="of float pictures (default ImageNet's)")
    parser.add_argument("--std", type=_numbers, default=STD, help="of float pictures (default ImageNet's)")
    parser.add_argument("--torchvision", action="store_true", help="exports torchvision's classifiers first")
    parser.add_argument("--timm", type=int, default=0, metavar="N", help="exports N of timm's classifiers first")
    parser.add_argument("--only", type=_words, default=(), metavar="A,B", help="exports only networks of these names")
    parser.add_argument("--exporter", default=sys.executable, metavar="PYTHON", help="a Python that has them")
    parser.add_argument("--exports", type=Path, default=Path("build/published"), metavar="DIR")
    parser.add_argument("--seconds", type=float, default=600.0, help="for each file (default 600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the records there, after each file")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help='writes the table below the heading "Files"')
    return parser


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def files_in(places: Sequence[Path]) -> list[Path]:
    """Returns the files themselves, and those in folders, in the order of names; raises FileNotFoundError."""
    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"{place}: expected a file or folder, nothing of that name is there")
        files += sorted(p for p in place.iterdir() if p.suffix in SUFFIXES) if place.is_dir() else [place]
    return files


def exported(args: argparse.Namespace, limits: Limits) -> Iterator[tuple[Path, str]]:
    """Yields the file of each network to export, and why there is none, "" where there is."""
    networks = [*(_names("torchvision", args, limits) if args.torchvision else [])]
    if args.timm:
        every = _names("timm", args, limits)
        networks += sorted(random.Random(0).sample(every, min(args.timm, len(every))))
    for network in (n for n in networks if not args.only or n.partition("/")[2] in args.only):
        words = [args.exporter, "-m", "benchmarks.published.exports", network, "--out", str(args.exports.resolve())]
        line, end = run([*words, "--pictures", str(args.pictures.resolve())], limits)
        yield (Path(network), f"export: {end}") if end else (Path(json.loads(line)), "")


def _names(library: str, args: argparse.Namespace, limits: Limits) -> list[str]:
    """The networks of a library; raises ValueError where the exporter does not have it."""
    line, end = run([args.exporter, "-m", "benchmarks.published.exports", library, "--list"], limits)
    if end:
        raise ValueError(f"--{library}: expected a Python with {library} to export with, {args.exporter}: {end}")
    return list(json.loads(line))


def records(args: argparse.Namespace) -> Iterator[Record]:
    """Yields the record of each file as it is judged; raises ValueError and FileNotFoundError."""
    limits, normalization = Limits(args.seconds), Normalization(args.mean, args.std)
    for path in files_in(args.files):
        yield record_of(path, normalization, args.pictures, args.count, limits)
    for path, failure in exported(args, limits):
        if failure:
            yield Record(str(path), message=short(failure))
        else:
            yield record_of(path, Normalization(MEAN, STD), args.pictures, args.count, limits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 where every file was judged, or 2 after one line that says what went wrong."""
    args = make_parser().parse_args(arguments)
    judged: list[Record] = []
    try:
        if args.into:
            write_into(args.into, [])
        for record in records(args):
            judged.append(record)
            end = record.message or f"{record.agree} of {record.pictures} agree"
            say(f"{len(judged)}: {record.file}: {end} ({record.seconds:.0f} s)")
            if args.json:
                write_json(args.json, [one.to_dict() for one in judged])
            if args.into:
                write_into(args.into, judged)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    say("")
    say(table(judged).render(120))
    say("")
    for line in messages(judged):
        say(line)
    return 0


if __name__ == "__main__":
    with terminal():
        status = main()
    sys.exit(status)
