"""Trains a family of integer networks: pictures in, a run folder with one ONNX file a variant out."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from train import checkpoint, phases, private
from train.batches import Batches
from train.configs import Configs
from train.cost import layer_cost, relative
from train.data import DataError, Dataset, load
from train.degrade import FAMILIES
from train.export import export_run
from train.journal import Journal
from train.loop import Run, TrainingError
from train.lowering import lower
from train.measure import Measured, accuracy_by_family, bit_operations, choose, measure
from train.memory import keep_freed_memory
from train.networks import Network
from train.outcomes import outcomes
from train.parallel import Group, join, leave, pick_device
from train.plots import SPECIAL
from train.report import write_report
from train.search import Held
from train.settings import Settings, parse
from train.views import MIXED_SEED, evaluation_views, mixed_views, training_views

HELD_PICTURES = 1000  # of mixed quality, to watch training
GOLDEN = 32
SAMPLE = 0  # the test picture that the report shows degraded
MIRRORED = {"digits": False}  # data sets whose classes a mirror would change


def main(settings: Settings) -> None:
    """The way of one run. Raises what its parts raise."""
    learned = learn(settings)
    if learned is not None:
        finish(settings, *learned)


def learn(settings: Settings):
    """All up to training's end: (dataset, teacher, student, configurations, device), None where another writes."""
    device = pick_device(settings.device)
    group = join(device)
    console = Console(stderr=True, quiet=not group.writes)
    saved = checkpoint.load(settings.folder) if settings.resume else None
    if saved is not None:
        checkpoint.check_same_run(saved[1]["settings"], settings.record())
    _show(settings, device, console)

    with group.writer_first():
        dataset = thin(load(settings.dataset, settings.data, settings.cache), settings.limit)
        teacher = phases.full_network(settings, dataset, device)
        bits = phases.Bits.of(settings, teacher.arch)
        views, held = training_pictures(settings, dataset)
    batches = Batches(views, dataset.train_y, batch=settings.batch, pictures=settings.epoch_pictures,
                      seed=settings.seed, flip=MIRRORED.get(dataset.name, True), device=device,
                      share=(group.rank, group.processes))
    run = Run(settings.folder, settings.record(), group, journal(settings, group, saved),
              60 * settings.checkpoint_minutes, console)
    resumed = None
    if saved is not None:
        resumed = {**saved[1], "tensors": saved[0]}
        run.last_checkpoint = run.folder / checkpoint.NAME
    phases.full_precision(settings, run, batches, teacher, held, resumed)
    bits.find(run, batches, teacher, held, resumed)
    student = phases.joint(settings, run, batches, teacher, held, resumed)
    private.specialize(settings, run, batches, teacher, student, held, resumed)
    if not group.writes:
        return None
    run.journal.close()
    return dataset, teacher, student, run.configs, device


def thin(dataset: Dataset, limit: int) -> Dataset:
    """At most `limit` pictures of each part, spread over it; all for 0."""
    parts = {}
    for part in ("train", "val", "test"):
        x, y = getattr(dataset, f"{part}_x"), getattr(dataset, f"{part}_y")
        chosen = spread(len(y), limit)
        parts |= {f"{part}_x": x[chosen], f"{part}_y": y[chosen]}
    return dataclasses.replace(dataset, **parts)


def spread(count: int, limit: int) -> np.ndarray:
    """At most `limit` indices below `count`, evenly spread; all for 0."""
    return np.arange(count) if not 0 < limit < count else np.linspace(0, count - 1, limit).astype(np.int64)


def training_pictures(settings: Settings, dataset: Dataset) -> tuple[np.ndarray, Held]:
    """Degraded training pictures uint8 [F, N, H, W, 3], and held ones."""
    chosen = spread(len(dataset.val_y), HELD_PICTURES)
    options = (settings.training_families, settings.seed, settings.cache, settings.workers)
    views = training_views(dataset, *options)
    mixed = mixed_views(dataset.val_x[chosen], *options)[0]
    return views, Held(np.asarray(mixed), dataset.val_y[chosen])


def journal(settings: Settings, group: Group, saved) -> Journal | None:
    """The journal of the writing process; without --resume an earlier run in the folder is no longer one."""
    if not group.writes:
        return None
    folder = settings.folder
    if saved is None:
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        for name in ("run.json", "results.json", "configs.json"):
            (folder / name).unlink(missing_ok=True)
    opened = Journal(folder, 0 if saved is None else saved[1]["journal"])
    write_json(folder / "settings.json", settings.record())
    return opened


def finish(settings: Settings, dataset: Dataset, teacher: Network, student: Network, found: Configs,
           device: torch.device) -> None:
    """Lowering, selector, measurement, export and report of a trained family."""
    graphs, console = {name: lower(student, name) for name in student.bits}, Console(stderr=True)
    cost = layer_cost(settings.cost, settings.target)
    variants = [Measured(v.name, v.method, graphs[v.name], relative(cost, student.arch, v.bits), not v.groups)
                for v in found.variants]
    options = (settings.seed, settings.cache, settings.workers)
    val = dataclasses.replace(dataset, train_x=dataset.val_x, train_y=dataset.val_y)
    val = dataclasses.replace(val, **{f: getattr(val, f)[spread(len(val.train_y), settings.test_pictures)]
                                      for f in ("train_x", "train_y")})
    with console.status("selector"):
        choice = choose(variants, training_views(val, settings.training_families, *options), val.train_y,
                        settings.budget, settings.seed, device, settings.escalate)
    test = spread(len(dataset.test_y), settings.test_pictures)
    families = settings.training_families + settings.held_out
    views = evaluation_views(dataset.test_x[test], families, *options)
    with console.status("integer evaluation"):
        records = measure(variants, teacher, choice, views, dataset.test_y[test], settings.held_out, device)
        records = [{**r, "seed": settings.seed} for r in records]
        mixed = mixed_correct(settings, dataset, graphs, device)
    write_json(settings.folder / "results.json", records)
    golden = mixed_views(dataset.test_x[spread(len(dataset.test_y), GOLDEN)], families, *options)[0]
    export_run(settings.folder, graphs, about(settings, dataset, variants, records, mixed, choice), np.asarray(golden))
    write_report(settings.folder, {place: np.asarray(pictures[SAMPLE]) for place, pictures in views.items()})
    show(records, Console())
    right = ", ".join(f"{name} {count}" for name, count in mixed.items())
    Console().print(f"right among all {len(dataset.test_y)} test pictures, each degraded at random: {right}")
    Console().print(f"run: {settings.folder} (report.md, results.json, one .onnx file a variant)")


def mixed_correct(settings: Settings, dataset: Dataset, graphs, device: torch.device) -> dict[str, int]:
    """Right answers of each variant on every test picture, of every family at random: what a bundle must repeat."""
    pictures = mixed_views(dataset.test_x, FAMILIES, MIXED_SEED, settings.cache, settings.workers)[0]
    counts = outcomes(graphs, np.asarray(pictures), dataset.test_y, device).correct.sum(0)
    return {name: int(count) for name, count in zip(graphs, counts, strict=True)}


def about(settings: Settings, dataset: Dataset, measured, records: list[dict], mixed: dict[str, int], choice) -> dict:
    """What run.json says beside what the graphs say."""
    variants = [{"name": v.name, "method": v.method, "cost": v.cost, "bitops": bit_operations(v.graph),
                 "accuracy": accuracy_by_family(records, v.method, v.name),
                 "mixed": {"pictures": len(dataset.test_y), "correct": mixed[v.name], "seed": MIXED_SEED}}
                for v in measured]
    return {"name": settings.folder.name, "arch": settings.arch, "dataset": settings.dataset,
            "method": settings.method, "labels": list(dataset.labels), "variants": variants,
            "selector": choice.selector, "budgets": choice.budgets, "escalation": choice.escalation,
            "lambda": choice.lam, "settings": settings.record()}


def show(records: list[dict], console: Console) -> None:
    """Accuracy in percent per family (mean of its severities) and arm, and each arm's mean cost."""
    held = {r["family"] for r in records if r["heldout"]}
    arms = {(arm, variant): accuracy_by_family(records, arm, variant)
            for arm, variant in dict.fromkeys((r["arm"], r["variant"]) for r in records)}
    table = Table(title="accuracy in %, integer arithmetic (fp32: float)")
    table.add_column("family")
    for arm, variant in arms:
        table.add_column(arm if arm in SPECIAL else variant, justify="right")
    for family in dict.fromkeys(r["family"] for r in records):
        table.add_row(family + (" *" if family in held else ""), *(f"{100 * a[family]:.1f}" for a in arms.values()))
    table.add_section()
    for name, left_out in (("mean", set()), ("mean without *", held)):
        means = [np.mean([v for f, v in a.items() if f not in left_out]) for a in arms.values()]
        table.add_row(name, *(f"{100 * m:.1f}" for m in means))
    table.add_row("cost, of 8 bits", *(f"{mean_cost(records, *arm):.3f}" for arm in arms))
    console.print(table)
    if held:
        console.print("* held out: never seen in training")


def mean_cost(records: list[dict], arm: str, variant: str) -> float:
    mine = [r for r in records if (r["arm"], r["variant"]) == (arm, variant)]
    return sum(r["cost"] * r["pictures"] for r in mine) / sum(r["pictures"] for r in mine)


def write_json(path: Path, content) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _show(settings: Settings, device: torch.device, console: Console) -> None:
    taken = {**settings.record(), "out": settings.folder, "cache": settings.cache, "data": settings.data,
             "device": device}
    console.print("settings: " + ", ".join(f"{k}={v}" for k, v in taken.items()), highlight=False, soft_wrap=True)


def _threads() -> None:
    """All cores this process may use, unless the environment says otherwise (torchrun says one)."""
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    try:
        _threads()
        keep_freed_memory()
        main(parse())
    except (DataError, checkpoint.CheckpointError, TrainingError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    finally:
        leave()
