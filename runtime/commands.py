"""What the commands of `python -m runtime` find out about a bundle, as records for tables and JSON."""

import math
import time
from pathlib import Path

import numpy as np

from runtime.bundle.manifest import Budget
from runtime.bundle.opened import open_bundle, runnable
from runtime.choice.escalation import EscalationBudget
from runtime.choice.selector import entry_for
from runtime.engine import Engine
from runtime.execution.library import Loaded
from runtime.machine import cpu
from runtime.pictures.arrays import as_picture
from runtime.pictures.files import PictureError, read_picture

US = 1e6


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
            rows.append(
                {
                    "variant": name,
                    "level": level.name,
                    "pictures": len(pictures),
                    "logits": got.size,
                    "differing": differing,
                }
            )
    return rows


def info(bundle: Path) -> dict:
    """{"name", "target", "level", "budget", "variants", "budgets"}.

    level: what runs here. budget: the bundle's own, None for any. variants: {"variant", "cost", "accuracy", "bytes",
    "macs", "then"}, of which accuracy is None where nobody measured, and then is the variant that may run after it,
    None for none. budgets: {"budget", "accuracy", "worst", "default"}, the table that an engine chooses from; worst:
    the most that one picture costs, None where each runs once; default: whether an engine takes it that is not told.
    """
    opened = open_bundle(bundle)
    manifest, names = opened.manifest, [v.name for v in opened.variants]
    up = range(len(names)) if manifest.escalation is None else manifest.escalation.up
    variants = [
        {
            "variant": v.name,
            "cost": v.cost,
            "accuracy": v.mean_accuracy,
            "bytes": v.bytes,
            "macs": v.macs,
            "then": names[then] if names[then] != v.name else None,
        }
        for v, then in zip(opened.variants, up, strict=True)
    ]
    table = manifest.budgets if manifest.escalation is None else manifest.escalation.budgets
    return {
        "name": manifest.name,
        "target": manifest.target.name,
        "level": opened.level().name,
        "budget": manifest.budget,
        "variants": variants,
        "budgets": _budgets(table, manifest.budget),
    }


def _budgets(table: tuple[Budget | EscalationBudget, ...], own: float | None) -> list[dict]:
    rows = [{"budget": b.budget, "accuracy": b.accuracy, "worst": getattr(b, "worst", None)} for b in table]
    if not rows:
        return []
    taken = entry_for(rows, math.inf if own is None else max(own, min(b.budget for b in table)))
    return [{**row, "default": row is taken} for row in rows]


def bench(bundle: Path, calls: int, **options) -> list[dict]:
    """Microseconds of each variant's code, of the selector, of a variant and the one that runs after it where it is
    unsure (both), and of a whole `infer`, over golden pictures.

    Records {"step", "variant", "level", "threads", "cpu", "calls", "min_us", "median_us", "p99_us"}. Steps take turns,
    so that a busy machine slows all alike. Options are the engine's.
    """
    with Engine(bundle, **options) as engine:
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
        rows.append(
            {
                "step": step,
                "variant": variant,
                "level": engine.level,
                "threads": engine.threads,
                "cpu": cpu.model(),
                "calls": calls,
                "min_us": float(low),
                "median_us": float(middle),
                "p99_us": float(high),
            }
        )
    return rows


def infer(engine: Engine, files: list[Path]) -> tuple[list[dict], list[str]]:
    """A record of each file, and an error for each that is no picture.

    Records {"picture", "label", "index", "score", "scores", "logits", "variant", "first", "escalated", "level", "ms",
    "quality"}: numbers as such; first is what ran before the variant where that was unsure, else the same; quality is
    {feature: integer} as in runtime.choice.quality, None where no selector looked.
    """
    rows, errors = [], []
    for file in files:
        try:
            picture = as_picture(read_picture(file))
        except PictureError as error:
            errors.append(str(error))
            continue
        except (ValueError, TypeError) as error:  # of .npy files, which hold anything
            errors.append(f"{file}: {error}")
            continue
        try:
            p = engine.infer(picture)
        except MemoryError:
            errors.append(
                f"{file}: expected a picture that fits into memory when it is resized, this one does not; "
                "make it smaller"
            )
            continue
        rows.append(
            {
                "picture": str(file),
                "label": p.label,
                "index": p.index,
                "score": float(p.scores[p.index]),
                "scores": p.scores.tolist(),
                "logits": p.logits.tolist(),
                "variant": p.variant,
                "first": p.first,
                "escalated": p.escalated,
                "level": engine.level,
                "ms": 1000 * p.seconds,
                "quality": p.quality,
            }
        )
    return rows, errors
