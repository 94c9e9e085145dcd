"""Runs the demo: trains on digits, compiles for this machine and ARM, classifies pictures of many qualities."""

import argparse
import platform
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from runtime import Engine
from runtime.files import write_json
from runtime.terminal import OneLineParser
from targets import TargetError
from targets.arm import toolchain as arm
from targets.x86 import toolchain as x86
from train.data.datasets import load
from train.data.names import FAMILIES, HELD_OUT
from train.data.views import mixed_views
from train.settings.training import CACHE

PICTURES = 600  # of the test set, each degraded at random
SEED = 7
WIDTH = 80  # columns of the table where there is no terminal
SHOWN = 4  # pictures of each family in the plot


@dataclass(frozen=True)
class FamilyRecord:
    """How the engine and each variant alone did on pictures of one family; shares and accuracies in 0..1."""

    family: str
    heldout: bool
    pictures: int
    accuracy: float
    alone: dict[str, float]
    shares: dict[str, float]
    median_us: float


@dataclass(frozen=True)
class DegradedPictures:
    """Test pictures uint8 [N, H, W, 3], each degraded at random, their labels int64 [N] and families int64 [N]."""

    pictures: np.ndarray
    labels: np.ndarray
    families: np.ndarray


def run_module(*words: str) -> None:
    """Shows one of the README's commands and runs it. Raises CalledProcessError where it fails."""
    print(f"\n$ python -m {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


def unlinkable() -> dict[str, str]:
    """Returns the targets of the demo that this machine cannot link for, each with what to install."""
    lacking = {}
    for target, toolchain in (("x86", x86), ("arm", arm)):
        try:
            toolchain.linker()
        except TargetError as error:
            lacking[target] = str(error)
    return lacking


def classify(engine: Engine, data: DegradedPictures) -> list[FamilyRecord]:
    """Classifies the pictures one at a time, as on a board; returns a record a family."""
    predictions = [engine.infer(picture) for picture in data.pictures]
    index = np.array([p.index for p in predictions])
    seconds = np.array([p.seconds for p in predictions])
    alone = {
        name: np.array([engine.infer(picture, variant=name).index for picture in data.pictures]) == data.labels
        for name in engine.variants
    }
    records = []
    for k, family in enumerate(FAMILIES):
        rows = data.families == k
        count = int(rows.sum())
        chosen = Counter(p.variant for p, chosen in zip(predictions, rows, strict=True) if chosen)
        records.append(
            FamilyRecord(
                family,
                family in HELD_OUT,
                count,
                float((index == data.labels)[rows].mean()),
                {name: float(right[rows].mean()) for name, right in alone.items()},
                {name: chosen[name] / count for name in engine.variants},
                float(np.median(seconds[rows]) * 1e6),
            )
        )
    return records


def show(console: Console, records: list[FamilyRecord], names: list[str]) -> None:
    """Prints the records as a table."""
    table = Table(
        "quality", "n", "chosen", *names, "shares", "us", title="accuracy in %: chosen by quality, or one alone"
    )
    for r in records:
        table.add_row(
            r.family + (" *" if r.heldout else ""),
            str(r.pictures),
            f"{100 * r.accuracy:.1f}",
            *[f"{100 * r.alone[name]:.1f}" for name in names],
            " ".join(f"{r.shares[name]:.0%}" for name in names),
            f"{r.median_us:.0f}",
        )
    console.print(table)
    console.print(
        f"* never seen in training; shares: of {', '.join(names)}; us: median time of a picture", highlight=False
    )


def draw(engine: Engine, data: DegradedPictures, path: Path) -> None:
    """Draws pictures of each family with the engine's answer and the variant that gave it; wrong answers are red."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(SHOWN, len(FAMILIES), figsize=(1.35 * len(FAMILIES), 1.6 * SHOWN), layout="constrained")
    for k, family in enumerate(FAMILIES):
        axes[0, k].set_title(family.replace("_", "\n"), fontsize=8)
        for row, i in enumerate(np.flatnonzero(data.families == k)[:SHOWN]):
            p = engine.infer(data.pictures[i])
            axis = axes[row, k]
            axis.imshow(data.pictures[i])
            axis.set_xticks([])
            axis.set_yticks([])
            color = "black" if p.index == data.labels[i] else "crimson"
            axis.set_xlabel(f"{p.label}, {p.variant}", color=color, fontsize=8)
    figure.savefig(path, dpi=130)


def degraded_digits() -> DegradedPictures:
    """Returns test pictures that the training never saw, each degraded at random."""
    dataset = load("digits", None, CACHE)
    count = min(PICTURES, len(dataset.test_x))
    pictures, families, _ = mixed_views(dataset.test_x[:count], FAMILIES, SEED, CACHE, 2)
    return DegradedPictures(np.asarray(pictures), dataset.test_y[:count], families)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = OneLineParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's records there")
    return parser


def main() -> int:
    """Runs the demo; 0 where all of it went well."""
    parser = make_parser()
    args = parser.parse_args()
    started = time.perf_counter()
    here = {"x86_64": "x86", "aarch64": "arm"}.get(platform.machine())
    if here is None:
        parser.error(
            f"expected a machine of x86_64 or aarch64, got {platform.machine()}; build for one with compile.build"
        )
    lacking = unlinkable()
    if here in lacking:
        parser.error(lacking[here])
    run_module("train.run", "--dataset", "digits", "--out", "runs/demo")
    for target in dict.fromkeys((here, "arm")):
        if target in lacking:
            print(f"\nNOT compiled for {target}: {lacking[target]}", flush=True)
            continue
        run_module("compile.build", "runs/demo", "--target", target, "--out", f"bundles/demo-{target}")
    run_module("runtime", "check", f"bundles/demo-{here}")
    data = degraded_digits()
    with Engine(f"bundles/demo-{here}") as engine:
        records = classify(engine, data)
        draw(engine, data, Path("runs/demo/plots/demo.png"))
        names = list(engine.variants)
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    console.print(f"\n{len(data.labels)} test pictures that the training never saw, through runtime.Engine:")
    show(console, records, names)
    if args.json:
        write_json(args.json, [asdict(r) for r in records])
    console.print(
        f"runs/demo/plots/demo.png shows some of them; runs/demo/report.md is training's report. "
        f"{time.perf_counter() - started:.0f} s in all."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
