"""Trains a family of integer networks: pictures in, a run folder with one ONNX file a variant out."""

import os
import shutil
import sys

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from compile.graph import Graph
from runtime.files import write_json
from runtime.terminal import terminal
from train import checkpoint, phases, private, start
from train.arms import BY_RULE, arm_records, choose
from train.batches import Batches
from train.choice import Choice
from train.compare import compare
from train.configs import Configs
from train.data import Dataset, load, spread, thin
from train.evidence import Evidence
from train.export import export_run, stored_bytes
from train.folder import EVALUATION, SETTINGS, alone, check_own, clear, writable
from train.gather import Parts, Pictures, digest, gather
from train.groups import check_count
from train.journal import Journal
from train.loop import Run, TrainingError
from train.lowering import lower
from train.measure import accuracy_by_family, bit_operations, mean_cost
from train.memory import keep_freed_memory
from train.networks import Network
from train.parallel import Group, join, leave, pick_device
from train.plots import IN_FAMILIES
from train.report import write_report
from train.search import Held
from train.settings import SHORT, Settings, parse
from train.views import MIXED_SEED, mixed_views, training_views
from train.worth import verdicts

HELD_PICTURES = 1000  # of mixed quality, to watch training
GOLDEN = 32
SAMPLE = 0  # the test picture that the report shows degraded
MIRRORED = {"digits": False}  # data sets whose classes a mirror would change


def main(settings: Settings) -> None:
    """The way of one run. Raises what its parts raise."""
    learned = learn(settings)
    if learned is not None:
        with alone(settings.folder):
            finish(settings, *learned)


def learn(settings: Settings):
    """All up to training's end: (dataset, teacher, student, configurations, device), None where another writes."""
    device = pick_device(settings.device)
    group = join(device)
    saved = checkpoint.load(settings.folder) if settings.resume else None
    if not group.writes:
        return _learn(settings, device, group, saved)
    check_own(settings.folder)
    for flag, folder in (("--out", settings.folder), ("--cache", settings.cache)):
        writable(flag, folder)
    with alone(settings.folder):
        return _learn(settings, device, group, saved)


def _learn(settings: Settings, device: torch.device, group: Group, saved):
    console = Console(markup=False, stderr=True, quiet=not group.writes)
    _show(settings, device, console)

    with group.writer_first():
        dataset = thin(load(settings.dataset, settings.data, settings.cache, settings.size), settings.limit)
        console.print(dataset.describe(), highlight=False, soft_wrap=True)
        record = {**settings.record(), "pictures": digest({}, dataset)[:SHORT]}
        if saved is not None:
            checkpoint.check_same_run(saved[1]["settings"], record)
        teacher = phases.full_network(settings, dataset, device)
        tutor = phases.tutor(settings, dataset, teacher, device)
        bits = phases.Bits.of(settings, teacher.arch)
        begun = start.joined(settings, teacher.arch) if settings.start and saved is None else None
        check_count(settings.groups, len(dataset.train_y))
        views, held = training_pictures(settings, dataset)
    batches = Batches(views, dataset.train_y, batch=settings.batch, pictures=settings.epoch_pictures,
                      seed=settings.seed, flip=MIRRORED.get(dataset.name, True), device=device,
                      share=(group.rank, group.processes))
    run = Run(settings.folder, record, group, journal(settings, group, saved),
              60 * settings.checkpoint_minutes, console, operands=getattr(torch, settings.precision),
              fuses=settings.torch_compile)
    resumed = begun
    if saved is not None:
        resumed = {**saved[1], "tensors": saved[0]}
        run.last_checkpoint = run.folder / checkpoint.NAME
    phases.full_precision(settings, run, batches, teacher, held, resumed)
    bits.find(run, batches, teacher, tutor, held, resumed)
    student = phases.joint(settings, run, batches, teacher, tutor, held, resumed)
    private.specialize(settings, run, batches, tutor, student, held, resumed)
    if not group.writes:
        return None
    run.journal.close()
    return dataset, teacher, student, run.configs, device


def training_pictures(settings: Settings, dataset: Dataset) -> tuple[np.ndarray, Held]:
    """Degraded training pictures uint8 [F, N, H, W, 3], and held ones."""
    # Mixed, for folders come class by class, and searches judge by parts in this order: each needs all classes.
    chosen = np.random.default_rng((settings.seed, *b"held")).permutation(spread(len(dataset.val_y), HELD_PICTURES))
    options = (settings.training_families, settings.seed, settings.cache, settings.workers)
    views = training_views(dataset, *options)
    mixed = mixed_views(dataset.val_x[chosen], *options)[0]
    return views, Held(np.asarray(mixed), dataset.val_y[chosen])


def journal(settings: Settings, group: Group, saved) -> Journal | None:
    """The journal of the writing process; without --resume an earlier run in the folder is no longer one."""
    if not group.writes:
        return None
    folder = settings.folder
    write_json(folder / SETTINGS, settings.record())  # first, since it says that the rest is a run's
    if saved is None:
        clear(folder)
    return Journal(folder, 0 if saved is None else saved[1]["journal"])


def finish(settings: Settings, dataset: Dataset, teacher: Network, student: Network, found: Configs,
           device: torch.device) -> None:
    """Lowering, measurement, selector, export and report of a trained family."""
    graphs = {name: lower(student, name) for name in student.bits}
    console, out = Console(markup=False, stderr=True), Console(markup=False)
    pictures = Pictures.of(settings, dataset)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("integer evaluation", total=len(graphs) * len(pictures))
        parts = Parts(graphs, device, settings.folder / EVALUATION, lambda count: progress.advance(bar, count))
        evidence, mixed = gather(settings, pictures, teacher, found, parts)
    with console.status("selector"):
        choice, evidence = choose(evidence, settings.budget, settings.seed, escalate=settings.escalate,
                                  most=settings.unseen_loss)
    records = arm_records(evidence, settings.seed)
    evidence.write(settings.folder)
    write_json(settings.folder / "results.json", records)
    families = settings.training_families + settings.held_out
    golden = mixed_views(dataset.test_x[spread(len(dataset.test_y), GOLDEN)], families, settings.seed, settings.cache,
                         settings.workers)[0]
    export_run(settings.folder, graphs, about(settings, dataset, graphs, evidence, records, mixed, choice),
               np.asarray(golden))
    write_report(settings.folder, {place: np.asarray(view[SAMPLE]) for place, view in pictures.views.items()})
    shutil.rmtree(settings.folder / EVALUATION, ignore_errors=True)
    show(records, out, {v.name for v in evidence.variants if v.base})
    out.print(verdicts(compare(evidence))[0])
    right = ", ".join(f"{name} {count}" for name, count in mixed.items())
    out.print(f"right among all {len(dataset.test_y)} test pictures, each degraded at random: {right}")
    stored = stored_bytes(graphs)
    out.print(f"stored: {stored['weights']:,} bytes of weights and {stored['tables']:,} of tables, all variants")
    out.print(f"run: {settings.folder} (report.md, results.json, one .onnx file a variant)")


def about(settings: Settings, dataset: Dataset, graphs: dict[str, Graph], evidence: Evidence, records: list[dict],
          mixed: dict[str, int], choice: Choice) -> dict:
    """What run.json says beside what the graphs say."""
    variants = [{"name": v.name, "method": v.method, "groups": list(v.groups), "base": v.base, "cost": v.cost,
                 "bitops": bit_operations(graphs[v.name]), "accuracy": accuracy_by_family(records, v.method, v.name),
                 "mixed": {"pictures": len(dataset.test_y), "correct": mixed[v.name], "seed": MIXED_SEED}}
                for v in evidence.variants]
    method = "+".join(dict.fromkeys(v.method for v in evidence.variants))
    return {"name": settings.folder.absolute().name, "arch": settings.arch, "dataset": settings.dataset,
            "method": method, "labels": list(dataset.labels), "variants": variants, **choice.to_dict(),
            "settings": settings.record()}


def show(records: list[dict], console: Console, hidden: set[str]) -> None:
    """Accuracy in percent per family (mean of its severities) and each arm's mean cost; some variants are left out."""
    held = {r["family"] for r in records if r["heldout"]}
    arms = {(arm, variant): accuracy_by_family(records, arm, variant)
            for arm, variant in dict.fromkeys((r["arm"], r["variant"]) for r in records) if arm in IN_FAMILIES or
            variant not in hidden and arm not in BY_RULE}
    table = Table(title="accuracy in %, integer arithmetic (fp32: float)")
    table.add_column("family")
    for arm, variant in arms:
        table.add_column(arm if arm in BY_RULE else variant, justify="right")
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


def _show(settings: Settings, device: torch.device, console: Console) -> None:
    taken = {**settings.record(), "out": settings.folder, "cache": settings.cache, "data": settings.data,
             "device": device}
    console.print("settings: " + ", ".join(f"{k}={v}" for k, v in taken.items()), highlight=False, soft_wrap=True)


def _threads() -> None:
    """All cores this process may use, unless the environment says otherwise (torchrun says one)."""
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    with terminal("; the same command with --resume goes on from the last checkpoint"):
        try:
            _threads()
            keep_freed_memory()
            main(parse())
        except (TrainingError, ValueError, OSError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
        finally:
            leave()
