"""Adapts trained networks without labels, and counts what single networks and families get right on CIFAR-10.

    python -m benchmarks.adapt --data CIFAR10 --checkpoint resnet20=FILE.th --bits 8 4 --json adapt.json

Nothing is fitted to labels: they only count. Fits are made of --fitted validation pictures and their twins, the
selector learns from others, and --pictures test pictures are asked in every degradation at every severity. Arms: "one"
is a single calibration on clean pictures, "all" one network fitted to all kinds of quality, "adaptive" the family with
its selector. "all" is the strongest single network, which the family has to beat; each comparison has a bootstrap
interval over test pictures.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from runtime.files import write_json
from runtime.terminal import OneLineParser, say, terminal
from train.adapt.adapt import adapt
from train.adapt.pictures import AdaptPictures
from train.adapt.settings import FITTED_PICTURES, WEIGHTS, AdaptSettings
from train.adapt.source import open_source
from train.data.cifar10 import CIFAR_LABELS, read_cifar10
from train.data.dataset import Dataset
from train.data.datasets import spread
from train.evidence.evidence import Evidence

DRAWS = 1000  # of a bootstrap
CALIBRATED, UNSEEN, CLEAN = "calibrated", "unseen", "clean"


@dataclass(frozen=True)
class Record:
    """How many pictures of one kind of quality an arm gets right, over all severities; cost: mean, relative to W8A8."""

    network: str
    data: str
    bits: str
    weights: str
    arm: str
    kind: str
    calibrated: bool
    pictures: int
    correct: int
    cost: float


@dataclass(frozen=True, eq=False)
class Arm:
    """Whether each picture of each view was right, bool [J, N], and at what cost, float64 [J, N]."""

    right: np.ndarray
    cost: np.ndarray


def arms_of(evidence: Evidence) -> dict[str, Arm]:
    """Returns the arms of an adapted family of one width."""
    names = [v.name for v in evidence.variants]
    chosen = {"one": 0} | ({"all": 1} if names[1].endswith("-all") else {})
    rows = np.arange(len(evidence.test))
    answers = {name: np.full(len(rows), index) for name, index in chosen.items()}
    answers["adaptive"] = evidence.arms["adaptive"].variant
    return {
        name: Arm(evidence.by_view(evidence.test.correct[rows, variant]), evidence.by_view(evidence.costs[variant]))
        for name, variant in answers.items()
    }


def means(evidence: Evidence, right: np.ndarray) -> dict[str, float]:
    """Returns accuracy in percent on calibrated kinds, unseen ones and clean pictures, of bool [J, N].

    Each family counts alike, and each severity of a family.
    """
    families = list(dict.fromkeys(family for family, _ in evidence.views))
    by_family = {
        name: 100 * float(np.mean([right[j].mean() for j, (family, _) in enumerate(evidence.views) if family == name]))
        for name in families
    }
    groups = {
        CALIBRATED: [value for name, value in by_family.items() if name not in evidence.held_out],
        UNSEEN: [value for name, value in by_family.items() if name in evidence.held_out],
        CLEAN: [by_family["clean"]],
    }
    return {name: float(np.mean(values)) for name, values in groups.items()}


def intervals(evidence: Evidence, first: Arm, second: Arm) -> dict[str, tuple[float, float, float]]:
    """Returns by group the difference of two arms in points, and its 95 % interval over test pictures (bootstrap)."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, evidence.pictures, evidence.pictures) for _ in range(DRAWS)]
    whole = _difference(evidence, first.right, second.right)
    samples = [_difference(evidence, first.right[:, rows], second.right[:, rows]) for rows in drawn]
    ends = {name: np.quantile([sample[name] for sample in samples], (0.025, 0.975)).tolist() for name in whole}
    return {name: (value, ends[name][0], ends[name][1]) for name, value in whole.items()}


def _difference(evidence: Evidence, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    one, other = means(evidence, first), means(evidence, second)
    return {name: one[name] - other[name] for name in one}


def measure(network: str, path: Path, dataset: Dataset, bits: str, args: argparse.Namespace) -> list[Record]:
    """Adapts one network at one width, prints what came of it, and returns the records."""
    source = open_source(path, arch=network)
    settings = AdaptSettings(bits=(bits,), weights=args.weights, fitted=args.fitted)
    rows = spread(len(dataset.test_y), args.pictures)
    judged = slice(args.fitted, args.fitted + args.judged)
    pictures = AdaptPictures(
        dataset.val_x[: args.fitted], dataset.val_x[judged], dataset.test_x[rows], None, dataset.test_y[rows]
    )
    out = args.runs / f"{network}-{bits}-{args.weights}-{args.fitted}"
    evidence = adapt(source, pictures, settings, CIFAR_LABELS, out)
    arms = arms_of(evidence)
    for name, arm in arms.items():
        shown = "  ".join(f"{group} {value:.2f}" for group, value in means(evidence, arm.right).items())
        say(f"{network} {bits} {args.weights}: {name:9} {shown}")
    for other in ("one", "all"):
        if other in arms:
            differences = intervals(evidence, arms["adaptive"], arms[other])
            shown = "  ".join(f"{g} {d:+.2f} [{low:+.2f}, {high:+.2f}]" for g, (d, low, high) in differences.items())
            say(f"{network} {bits} {args.weights}: adaptive less {other}: {shown}")
    return [
        record for name, arm in arms.items() for record in _records(network, bits, args.weights, name, arm, evidence)
    ]


def _records(network: str, bits: str, weights: str, name: str, arm: Arm, evidence: Evidence) -> list[Record]:
    families = dict.fromkeys(family for family, _ in evidence.views)
    records = []
    for family in families:
        views = [j for j, (other, _) in enumerate(evidence.views) if other == family]
        right, cost = arm.right[views], arm.cost[views]
        calibrated = family not in evidence.held_out
        entry = (network, "cifar10", bits, weights, name, family, calibrated)
        records.append(Record(*entry, right.size, int(right.sum()), float(cost.mean())))
    return records


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = OneLineParser(prog="python -m benchmarks.adapt", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10's batches.")
    parser.add_argument(
        "--checkpoint", type=_named, action="append", required=True, metavar="ARCH=FILE", help="A trained network."
    )
    parser.add_argument("--bits", nargs="+", default=["8"], metavar="B", help="Widths, each a family (default: 8).")
    parser.add_argument("--weights", choices=WEIGHTS, default="fitted", help="See train.adapt (default: fitted).")
    parser.add_argument("--fitted", type=int, default=FITTED_PICTURES, metavar="N", help="Pictures that fits are of.")
    parser.add_argument("--judged", type=int, default=500, metavar="N", help="Pictures that the selector learns from.")
    parser.add_argument("--pictures", type=int, default=2000, metavar="N", help="Test pictures (default: 2000).")
    parser.add_argument("--runs", type=Path, default=Path("build/adapt"), metavar="FOLDER", help="Of the run folders.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Adds the records to this file.")
    return parser


def _named(text: str) -> tuple[str, Path]:
    arch, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected ARCH=FILE, got {text!r}")
    return arch, Path(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Adapts every network at every width, and writes the records after each."""
    args = make_parser().parse_args(arguments)
    dataset = read_cifar10(args.data)
    records = json.loads(args.json.read_text()) if args.json and args.json.is_file() else []
    for network, path in args.checkpoint:
        for bits in args.bits:
            records += [asdict(record) for record in measure(network, path, dataset, bits, args)]
            if args.json:
                write_json(args.json, records)


if __name__ == "__main__":
    with terminal():
        main()
