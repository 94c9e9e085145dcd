"""Test pictures, degraded at random, through a bundle's compiled code against the integer reference: how many differ?

    python -m benchmarks.exact bundles/a --data DIR --count 10000 --json exact.json

The reference is computed from the ONNX files that travel with the bundle. A bundle for another machine runs emulated.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from compile.qdq.importer import load as load_onnx
from runtime import Bundle, BundleError, open_bundle
from runtime.bundle.manifest import Variant
from runtime.bundle.opened import newest_bundle, runnable
from runtime.execution.library import Loaded
from runtime.files import write_json
from runtime.machine import cpu
from runtime.pictures.arrays import resize
from runtime.terminal import OneLineParser
from targets import find
from targets.family import load
from targets.reference import interpreter
from targets.reference.graph import Graph
from train.data.datasets import load as load_data
from train.data.names import FAMILIES
from train.data.views import MIXED_SEED, mixed_views
from train.settings.training import CACHE

CHUNK = 250  # pictures between two steps of the progress bar

Run = Callable[[np.ndarray], np.ndarray]  # picture uint8 [H, W, 3] -> logits int32 [classes]


def compiled(bundle: Bundle, variant: Variant) -> tuple[Run, str]:
    """The variant's compiled code and the name of what executes it: this machine's processor, or an emulated one."""
    try:
        runnable(bundle.manifest)
    except BundleError:
        return _emulated(bundle, variant)
    loaded = Loaded(bundle, [variant])
    return lambda picture: loaded.run(variant.name, picture), cpu.model()


def _emulated(bundle: Bundle, variant: Variant) -> tuple[Run, str]:
    build = variant.builds[0]
    level = find(build.level)
    run = load(level.family).runner(bundle.path(variant.library), level, build.function)
    weights, table, classes = bundle.weights(build), bundle.table(build), len(bundle.manifest.labels)
    n = bundle.manifest.pictures

    def alone(picture: np.ndarray) -> np.ndarray:
        return run(np.tile(picture.reshape(-1), n), weights, table, build.workspace, n * classes)[:classes]

    return alone, f"emulated {level.cpu or level.family}"


def graph_of(bundle: Bundle, variant: Variant) -> Graph:
    """Returns the variant's integer graph, from the bundle's copy of its ONNX file; raises BundleError without one."""
    if variant.onnx is None or variant.onnx not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.folder}: expected an ONNX file of {variant.name} in the bundle, it has none; "
            "build the bundle again with `python -m compile.build`"
        )
    return load_onnx(bundle.path(variant.onnx))


def compare(graph: Graph, run: Run, pictures: np.ndarray, labels: np.ndarray, title: str) -> dict:
    """Returns {"pictures", "differing", "correct"}: pictures with any logit unlike the reference's, and right classes.

    pictures: uint8 [N, H, W, C]; labels: int64 [N].
    """
    differing = correct = 0
    for begin in track(range(0, len(pictures), CHUNK), title, console=Console(stderr=True)):
        part = slice(begin, begin + CHUNK)
        got = np.stack([run(picture) for picture in pictures[part]])
        differing += int((got != interpreter.run(graph, pictures[part])).any(1).sum())
        correct += int((got.argmax(1) == labels[part]).sum())
    return {"pictures": len(pictures), "differing": differing, "correct": correct}


def exact(bundle: Bundle, pictures: np.ndarray, labels: np.ndarray, names: list[str]) -> list[dict]:
    """Returns a record {"variant", "target", "cpu", "pictures", "differing", "correct"} of each variant named.

    pictures: uint8 [N, H, W, C] of any size; labels: int64 [N].
    """
    size, records = bundle.manifest.shape[:2], []
    pictures = np.stack([resize(p, size) for p in pictures])
    for variant in map(bundle.variant, names):
        run, name = compiled(bundle, variant)
        counts = compare(graph_of(bundle, variant), run, pictures, labels, variant.name)
        records.append({"variant": variant.name, "target": bundle.manifest.target.name, "cpu": name, **counts})
    return records


def counted_by_training(bundle: Bundle, pictures: int, seed: int) -> dict[str, int]:
    """Right answers that training counted in its own integer evaluation, where it was on these very pictures."""
    variants = json.loads((bundle.folder / "manifest.json").read_text())["variants"]
    mixed = {v["name"]: v.get("mixed", {}) for v in variants}
    return {n: m["correct"] for n, m in mixed.items() if (m.get("pictures"), m.get("seed")) == (pictures, seed)}


def show(records: list[dict], seed: int, training: dict[str, int]) -> None:
    """Prints records as a table."""
    table = Table(
        "variant",
        "target",
        "runs on",
        "pictures",
        "differing",
        "correct",
        "in training",
        title_justify="left",
        title=f"compiled code against the integer reference, pictures degraded at random (seed {seed})",
    )
    for r in records:
        share = f"{r['correct']} ({r['correct'] / r['pictures']:.2%})"
        table.add_row(
            r["variant"],
            r["target"],
            r["cpu"],
            str(r["pictures"]),
            str(r["differing"]),
            share,
            str(training.get(r["variant"], "")),
        )
    Console().print(table)


def main(argv: list[str] | None = None) -> int:
    """0 when nothing differs, 1 when anything does, 2 for an error."""
    parser = OneLineParser(prog="python -m benchmarks.exact", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="its folder; left out: the newest under ./bundles")
    parser.add_argument("--dataset", default="cifar10", help="digits, cifar10 or folder:PATH (default cifar10)")
    parser.add_argument("--data", type=Path, help="where the data set is")
    parser.add_argument("--count", type=int, default=1000, help="test pictures (default 1000)")
    parser.add_argument("--seed", type=int, default=MIXED_SEED, help=f"of the degradations (default {MIXED_SEED})")
    parser.add_argument("--variants", metavar="NAME,NAME", help="only these (default all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    args = parser.parse_args(argv)
    try:
        bundle = open_bundle(args.bundle or newest_bundle(), here=False)
        print(f"bundle: {bundle.folder}")
        names = args.variants.split(",") if args.variants else [v.name for v in bundle.variants]
        data = load_data(args.dataset, args.data, CACHE)
        count = min(max(1, args.count), len(data.test_x))
        pictures, _, _ = mixed_views(data.test_x[:count], FAMILIES, args.seed, CACHE)
        records = exact(bundle, pictures, data.test_y[:count], names)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        write_json(args.json, records)
    show(records, args.seed, counted_by_training(bundle, count, args.seed))
    return 1 if any(r["differing"] for r in records) else 0


if __name__ == "__main__":
    sys.exit(main())
