"""Runs the demo: adapts a trained network to poor pictures, compiles it for this machine and ARM, and classifies."""

import argparse
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from runtime import Engine
from runtime.files import write_json
from runtime.terminal import OneLineParser
from targets import TargetError
from targets.arm import toolchain as arm
from targets.x86 import toolchain as x86
from train.data.cifar10 import CIFAR_LABELS
from train.data.names import FAMILIES, HELD_OUT
from train.data.views import mixed_views
from train.settings.training import CACHE

CLEAN = Path("train/zoo/clean")  # a network that has seen clean pictures alone, and photos that it has not seen
RUN = Path("runs/demo")
ADAPTED = 400  # photos that the network is adapted with; the others are classified
ONE = "w8a8"  # the variant that is one calibration on clean pictures, as other tools make it
SEED = 7
WIDTH = 80  # columns of the table where there is no terminal
SHOWN = 4  # pictures of each family in the plot


@dataclass(frozen=True)
class FamilyRecord:
    """How the engine and one calibration did on pictures of one family; accuracies in 0..1.

    variants: how many the engine chose among these pictures; median_us: of a picture, all that `infer` does.
    """

    family: str
    heldout: bool
    pictures: int
    one: float
    chosen: float
    variants: int
    one_us: float
    median_us: float


@dataclass(frozen=True)
class Photos:
    """Photos uint8 [N, 32, 32, 3] with labels int64 [N]."""

    pictures: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls) -> "Photos":
        """Returns the photos beside the network."""
        with np.load(CLEAN / "photos.npz", allow_pickle=False) as file:
            return cls(file["pictures"], file["labels"].astype(np.int64))

    def part(self, begin: int, end: int | None = None) -> "Photos":
        """Returns some of them, in their order."""
        return Photos(self.pictures[begin:end], self.labels[begin:end])

    def write(self, folder: Path) -> None:
        """Writes each as a file, into a sub-folder for its class."""
        for k, (picture, label) in enumerate(zip(self.pictures, self.labels.tolist(), strict=True)):
            place = folder / CIFAR_LABELS[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{k:03}.png")

    def degraded(self, family: str) -> np.ndarray:
        """Returns them in a degradation family, each at a severity drawn at random, uint8 [N, 32, 32, 3]."""
        return np.asarray(mixed_views(self.pictures, (family,), SEED, CACHE, 2)[0])


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


def classify(engine: Engine, photos: Photos) -> list[FamilyRecord]:
    """Classifies the photos in every family one at a time, as on a board; returns a record a family."""
    records = []
    for family in FAMILIES:
        pictures = photos.degraded(family)
        one = [engine.infer(picture, variant=ONE) for picture in pictures]
        chosen = [engine.infer(picture) for picture in pictures]
        records.append(
            FamilyRecord(
                family,
                family in HELD_OUT,
                len(pictures),
                one=float(np.mean([p.index for p in one] == photos.labels)),
                chosen=float(np.mean([p.index for p in chosen] == photos.labels)),
                variants=len({p.variant for p in chosen}),
                one_us=float(np.median([p.seconds for p in one]) * 1e6),
                median_us=float(np.median([p.seconds for p in chosen]) * 1e6),
            )
        )
    return records


def show(console: Console, records: list[FamilyRecord]) -> None:
    """Prints the records as a table, and what a picture costs."""
    table = Table(
        "quality", "one calibration", "adapted", "gain", "variants", title="accuracy in %, through the engine"
    )
    for r in records:
        name = r.family + (" *" if r.heldout else "")
        gain = f"{100 * (r.chosen - r.one):+.1f}"
        table.add_row(name, f"{100 * r.one:.1f}", f"{100 * r.chosen:.1f}", gain, str(r.variants))
    means = [100 * float(np.mean([getattr(r, arm) for r in records])) for arm in ("one", "chosen")]
    table.add_row("mean", f"{means[0]:.1f}", f"{means[1]:.1f}", f"{means[1] - means[0]:+.1f}", "", style="bold")
    console.print(table)
    times = [float(np.median([getattr(r, name) for r in records])) for name in ("one_us", "median_us")]
    count = records[0].pictures
    console.print(
        f"{count} photos in each quality, which nothing was fitted to; * a quality that nothing was fitted to either.\n"
        f"No label was used, and nothing was trained. A picture takes {times[1]:.0f} us with the choice, "
        f"{times[0]:.0f} us without.",
        highlight=False,
    )


def draw(engine: Engine, photos: Photos, path: Path) -> None:
    """Draws photos in each family with the engine's answer and one calibration's beside it; wrong answers are red."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(SHOWN, len(FAMILIES), figsize=(1.35 * len(FAMILIES), 1.8 * SHOWN), layout="constrained")
    for k, family in enumerate(FAMILIES):
        axes[0, k].set_title(family.replace("_", "\n"), fontsize=8)
        for row, picture in enumerate(photos.degraded(family)[:SHOWN]):
            one, chosen = engine.infer(picture, variant=ONE), engine.infer(picture)
            axis = axes[row, k]
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
            right = chosen.index == photos.labels[row]
            axis.set_xlabel(f"{chosen.label}\n(one: {one.label})", color="black" if right else "crimson", fontsize=7)
    figure.suptitle("the adapted family's answers, red where wrong; below them those of one calibration", fontsize=9)
    figure.savefig(path, dpi=130)


def adapt(photos: Photos) -> None:
    """Adapts the network to the photos, by the command of the README."""
    folder = RUN.with_name(f"{RUN.name}-photos")
    photos.write(folder)
    (RUN.parent / "cifar10.txt").write_text("\n".join(CIFAR_LABELS) + "\n")
    words = ["train.adapt", str(CLEAN / "resnet8.safetensors"), "--arch", "resnet8", "--pictures", str(folder)]
    run_module(
        *words, "--labels", str(RUN.parent / "cifar10.txt"), "--fitted", "128", "--judged", "100", "--out", str(RUN)
    )


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
    photos = Photos.read()
    adapt(photos.part(0, ADAPTED))
    for target in dict.fromkeys((here, "arm")):
        if target in lacking:
            print(f"\nNOT compiled for {target}: {lacking[target]}", flush=True)
            continue
        run_module("compile.build", str(RUN), "--target", target, "--out", f"bundles/demo-{target}")
    run_module("runtime", "check", f"bundles/demo-{here}")
    others = photos.part(ADAPTED)
    with Engine(f"bundles/demo-{here}") as engine:
        records = classify(engine, others)
        draw(engine, others, RUN / "plots/demo.png")
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    console.print()
    show(console, records)
    if args.json:
        write_json(args.json, [asdict(r) for r in records])
    console.print(
        f"{RUN}/plots/demo.png shows some of them; {RUN}/report.md is the report of the adaptation. "
        f"{time.perf_counter() - started:.0f} s in all."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
