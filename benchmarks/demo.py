"""`make demo`: train on handwritten digits, compile for this machine and ARM, classify pictures of many qualities."""

import argparse
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from runtime import Engine
from runtime.files import write_json
from targets import TargetError
from targets.arm import toolchain as arm
from targets.x86 import toolchain as x86
from train.data.datasets import load
from train.data.names import FAMILIES, HELD_OUT
from train.data.views import mixed_views
from train.settings.training import CACHE

PICTURES = 600  # of the test set, each degraded at random
SEED = 7
WIDTH = 120  # of the table where there is no terminal


def run(*words: str) -> None:
    """One of the README's commands, shown and run."""
    print(f"\n$ python -m {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


def unlinkable() -> dict[str, str]:
    """Targets of the demo that this machine cannot link for, each with what to install."""
    lacking = {}
    for target, toolchain in (("x86", x86), ("arm", arm)):
        try:
            toolchain.linker()
        except TargetError as error:
            lacking[target] = str(error)
    return lacking


def classify(engine: Engine, pictures: np.ndarray) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Class index [N], variant names, and seconds [N], one picture at a time as on a board."""
    predictions = [engine.infer(picture) for picture in pictures]
    return (
        np.array([p.index for p in predictions]),
        [p.variant for p in predictions],
        np.array([p.seconds for p in predictions]),
    )


def table(engine: Engine, pictures: np.ndarray, labels: np.ndarray, families: np.ndarray) -> list[dict]:
    """One record a family: accuracy of the engine's choice and of each variant alone, shares, latency."""
    index, variants, seconds = classify(engine, pictures)
    alone = {v: np.array([engine.infer(p, variant=v).index for p in pictures]) == labels for v in engine.variants}
    records = []
    for k, family in enumerate(FAMILIES):
        of = families == k
        share = Counter(v for v, chosen in zip(variants, of, strict=True) if chosen)
        records.append(
            {
                "family": family,
                "heldout": family in HELD_OUT,
                "pictures": int(of.sum()),
                "accuracy": float((index == labels)[of].mean()),
                "alone": {v: float(right[of].mean()) for v, right in alone.items()},
                "shares": {v: share[v] / int(of.sum()) for v in engine.variants},
                "median_us": float(np.median(seconds[of]) * 1e6),
            }
        )
    return records


def show(console: Console, records: list[dict], names: list[str]) -> None:
    out = Table(
        "quality", "pictures", "chosen", *[f"only {n}" for n in names], "shares " + "/".join(names), "median us"
    )
    for r in records:
        out.add_row(
            r["family"] + (" (unseen)" if r["heldout"] else ""),
            str(r["pictures"]),
            f"{r['accuracy']:.1%}",
            *[f"{r['alone'][n]:.1%}" for n in names],
            " ".join(f"{r['shares'][n]:.0%}" for n in names),
            f"{r['median_us']:.0f}",
        )
    console.print(out)


def draw(engine: Engine, pictures: np.ndarray, labels: np.ndarray, families: np.ndarray, path: Path) -> None:
    """Four pictures a family with what the engine said of them, and which variant said it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(4, len(FAMILIES), figsize=(1.35 * len(FAMILIES), 6.4), layout="constrained")
    for k, family in enumerate(FAMILIES):
        for row, i in enumerate(np.flatnonzero(families == k)[:4]):
            p, axis = engine.infer(pictures[i]), axes[row, k]
            axis.imshow(pictures[i])
            axis.set_xticks([]), axis.set_yticks([])
            axis.set_xlabel(f"{p.label}, {p.variant}", color="black" if p.index == labels[i] else "crimson", fontsize=8)
            if row == 0:
                axis.set_title(family.replace("_", "\n"), fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's records there")
    args = parser.parse_args()
    console, started = Console(), time.perf_counter()
    console = console if console.is_terminal else Console(width=WIDTH)
    if platform.machine() not in ("x86_64", "aarch64"):
        parser.error(
            f"the demo runs on x86_64 or aarch64, this is {platform.machine()}; build for one with compile.build"
        )
    here = "x86" if platform.machine() == "x86_64" else "arm"
    lacking = unlinkable()
    if here in lacking:
        parser.error(lacking[here])
    run("train.run", "--dataset", "digits", "--out", "runs/demo")
    for target in dict.fromkeys((here, "arm")):
        if target in lacking:
            print(f"\nNOT compiled for {target}: {lacking[target]}", flush=True)
            continue
        run("compile.build", "runs/demo", "--target", target, "--out", f"bundles/demo-{target}")
    run("runtime", "check", f"bundles/demo-{here}")
    data = load("digits", None, CACHE)
    count = min(PICTURES, len(data.test_x))
    pictures, families, _ = mixed_views(data.test_x[:count], FAMILIES, SEED, CACHE, 2)
    with Engine(f"bundles/demo-{here}") as engine:
        records = table(engine, pictures, data.test_y[:count], families)
        draw(engine, pictures, data.test_y[:count], families, Path("runs/demo/plots/demo.png"))
        console.print(
            f"\n{count} test pictures the training never saw, each degraded at random, through runtime.Engine:"
        )
        show(console, records, list(engine.variants))
    if args.json:
        write_json(args.json, records)
    console.print(
        f"runs/demo/plots/demo.png shows some of them; runs/demo/report.md is training's report. "
        f"{time.perf_counter() - started:.0f} s in all."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
