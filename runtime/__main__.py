"""The bundle on the command line: `python -m runtime check | infer | bench | info [BUNDLE]`."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from runtime import cpu
from runtime.bundle import newest_bundle, open_bundle, runnable
from runtime.engine import Engine
from runtime.fields import BundleError
from runtime.library import Loaded
from runtime.pictures import PictureError, read_picture

US = 1e6


def table(rows: list[dict]) -> str:
    """Plain text with a line per row, under the keys of the first; numbers to the right."""
    keys = list(rows[0])
    cells = [keys] + [[f"{r[k]:.1f}" if isinstance(r[k], float) else str(r[k]) for k in keys] for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    right = [isinstance(rows[0][k], (int, float)) for k in keys]
    lines = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)] for row in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def check(bundle: Path) -> list[dict]:
    """Runs the golden pictures through every variant, by the code of every level that this machine can run.

    Records {"variant", "level", "pictures", "logits", "differing"}.
    """
    opened = open_bundle(bundle)
    (pictures, expected), rows = opened.golden(), []
    for level in runnable(opened.manifest):
        loaded = Loaded(opened, opened.variants, level.name)
        for name, logits in expected.items():
            got = np.array([loaded.run(name, p) for p in pictures], np.int32).reshape(logits.shape)
            differing = int((got != logits).sum())
            rows.append({"variant": name, "level": level.name, "pictures": len(pictures), "logits": got.size,
                         "differing": differing})
    return rows


def info(bundle: Path) -> list[dict]:
    """A record {"variant", "level", "cost", "accuracy", "bytes", "macs", "unsure, then"} of each, with the level that
    runs here, and the variant that may run after it, "" for none."""
    opened = open_bundle(bundle)
    level, escalation = opened.level().name, opened.manifest.escalation
    names = [v.name for v in opened.variants]
    after = [""] * len(names) if escalation is None else [
        names[w] if w != v else "" for v, w in enumerate(escalation.up)]
    return [{"variant": v.name, "level": level, "cost": f"{v.cost:.3f}", "bytes": v.bytes, "macs": v.macs,
             "accuracy": "not measured" if v.mean_accuracy is None else f"{v.mean_accuracy:.1%}", "unsure, then": then}
            for v, then in zip(opened.variants, after, strict=True)]


def bench(bundle: Path, calls: int, level: str | None = None, threads: int = 1) -> list[dict]:
    """Microseconds of each variant's code, of the selector, of a variant and the one that runs after it where it is
    unsure (both), and of a whole `infer`, over golden pictures.

    Records {"step", "variant", "level", "threads", "cpu", "calls", "min_us", "median_us", "p99_us"}. Steps take turns,
    so that a busy machine slows all alike.
    """
    with Engine(bundle, level=level, threads=threads) as engine:
        pictures, _ = engine.bundle.golden()
        steps = {("run", name): lambda p, n=name: engine.logits(p, n) for name in engine.variants}
        if engine.selects:
            steps["select", ""] = lambda p: engine.choose(p[None])
        for first, then in engine.escalates.items():
            steps["both", f"{first}, {then}"] = lambda p, n=(first, then): [engine.logits(p, name) for name in n]
        steps["infer", ""] = engine.infer
        times = {key: [] for key in steps}
        for i in range(calls + 1):
            for key, step in steps.items():
                began = time.perf_counter()
                step(pictures[i % len(pictures)])
                times[key].append((time.perf_counter() - began) * US)
    rows = []
    for (step, variant), us in times.items():
        low, middle, high = np.percentile(us[1:], (0, 50, 99))  # the first call warms caches
        rows.append({"step": step, "variant": variant, "level": engine.level, "threads": threads, "cpu": cpu.model(),
                     "calls": calls, "min_us": float(low), "median_us": float(middle), "p99_us": float(high)})
    return rows


def infer(bundle: Path, files: list[Path], **options) -> list[dict]:
    """A record {"picture", "label", "score", "variant", "first", "ms", "quality"} of each file; first: what ran before
    where that was unsure. Options are the engine's."""
    rows = []
    with Engine(bundle, **options) as engine:
        for file in files:
            p = engine.infer(read_picture(file))
            quality = " ".join(f"{k}={v}" for k, v in p.quality.items()) if p.quality else ""
            rows.append({"picture": str(file), "label": p.label, "score": f"{p.scores[p.index]:.3f}",
                         "variant": p.variant, "first": p.first if p.escalated else "", "ms": 1000 * p.seconds,
                         "quality": quality})
    return rows


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime", description="Runs a bundle on this device.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("check", "replay the golden pictures: do all logits come out the same here?"),
                        ("infer", "classify picture files"), ("bench", "measure latency"),
                        ("info", "what is in the bundle, and which of its code runs here?")):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("bundle", nargs="?", type=Path, help="its folder; left out: the newest under ./bundles")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
        if name == "infer":
            command.add_argument("pictures", nargs="*", type=Path, help="PNG, PPM, PGM, BMP, .npy; with Pillow any")
            command.add_argument("--budget", type=float, help="mean cost a picture may take, 1 = 8 bits everywhere")
            command.add_argument("--variant", help="run this one whatever the quality")
            command.add_argument("--no-escalate", action="store_true", help="one pass a picture, sure or not")
        if name in ("infer", "bench"):
            command.add_argument("--level", help="whose code to run; left out: the best that this machine can run")
            command.add_argument("--threads", type=int, default=1, help="that work on a picture together (default 1)")
        if name == "bench":
            command.add_argument("--calls", type=int, default=200, help="calls of each step (default 200)")
    return parser


def _opened(args) -> Path:
    """The bundle that was named, or the newest; `infer` without a bundle takes its first word for a picture."""
    if args.command == "infer" and args.bundle is not None and not args.bundle.is_dir():
        args.pictures.insert(0, args.bundle)
        args.bundle = None
    if args.bundle is None:
        args.bundle = newest_bundle()
        print(f"bundle: {args.bundle}")
    return args.bundle


def _write(path: Path | None, rows: list[dict]) -> None:
    if path is not None:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(rows, indent=1) + "\n")
        os.replace(partial, path)


def main(argv: list[str] | None = None) -> int:
    """0 when all went well, 1 when golden logits differ, 2 for an error, which is printed."""
    parser = _arguments()
    args, rest = parser.parse_known_args(argv)
    if rest and (args.command != "infer" or any(word.startswith("-") for word in rest)):
        parser.error(f"expected other arguments than {' '.join(rest)}; see --help")
    if args.command == "infer":
        args.pictures += map(Path, rest)  # those behind an option, which argparse leaves over
    try:
        bundle = _opened(args)
        if args.command == "infer":
            if not args.pictures:
                raise PictureError("expected the files of pictures to classify, got none; name at least one")
            rows = infer(bundle, args.pictures, budget=args.budget, variant=args.variant, level=args.level,
                         threads=args.threads, escalate=not args.no_escalate)
        elif args.command == "bench":
            rows = bench(bundle, max(1, args.calls), args.level, args.threads)
        else:
            rows = check(bundle) if args.command == "check" else info(bundle)
        _write(args.json, rows)
    except (BundleError, ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    if args.command != "check":
        return 0
    differing = sum(r["differing"] for r in rows)
    advice = "; this device computes something else: do not use this bundle here" if differing else ""
    print(f"{differing} logits differ{advice}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
