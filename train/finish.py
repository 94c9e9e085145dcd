"""Turns trained networks into a run folder: integer evaluation, selector, export and report."""

import shutil

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.files import write_json
from targets.reference.graph import Graph, bit_operations
from train.bits.configs import Configs
from train.choice.arms import arm_records, choose
from train.choice.fit import Choice
from train.data.datasets import Dataset, spread
from train.data.views import MIXED_SEED, mixed_views
from train.evidence.evidence import Evidence
from train.evidence.gather import Parts, Pictures, gather
from train.evidence.measure import accuracy_by_family
from train.integers.export import export_run, stored_bytes
from train.integers.lowering import lower
from train.loop.run_folder import EVALUATION
from train.network.network import Network
from train.report.compare import compare
from train.report.console import show
from train.report.does_it_pay import verdicts
from train.report.write import write_report
from train.settings.settings import Settings

GOLDEN = 32

SAMPLE = 0  # the test picture that the report shows degraded


def finish(
    settings: Settings, dataset: Dataset, teacher: Network, student: Network, found: Configs, device: torch.device
) -> None:
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
        choice, evidence = choose(
            evidence,
            settings.bits.budget,
            settings.training.seed,
            escalate=settings.judging.escalate,
            most=settings.judging.unseen_loss,
        )
    records = arm_records(evidence, settings.training.seed)
    evidence.write(settings.folder)
    write_json(settings.folder / "results.json", records)
    families = settings.data.training_families + settings.data.held_out
    golden = mixed_views(
        dataset.test_x[spread(len(dataset.test_y), GOLDEN)],
        families,
        settings.training.seed,
        settings.place.cache,
        settings.place.workers,
    )[0]
    export_run(
        settings.folder, graphs, about(settings, dataset, graphs, evidence, records, mixed, choice), np.asarray(golden)
    )
    write_report(settings.folder, {place: np.asarray(view[SAMPLE]) for place, view in pictures.views.items()})
    shutil.rmtree(settings.folder / EVALUATION, ignore_errors=True)
    show(records, out, {v.name for v in evidence.variants if v.base})
    out.print(verdicts(compare(evidence))[0])
    right = ", ".join(f"{name} {count}" for name, count in mixed.items())
    out.print(f"right among all {len(dataset.test_y)} test pictures, each degraded at random: {right}")
    stored = stored_bytes(graphs)
    out.print(f"stored: {stored['weights']:,} bytes of weights and {stored['tables']:,} of tables, all variants")
    out.print(f"run: {settings.folder} (report.md, results.json, one .onnx file a variant)")


def about(
    settings: Settings,
    dataset: Dataset,
    graphs: dict[str, Graph],
    evidence: Evidence,
    records: list[dict],
    mixed: dict[str, int],
    choice: Choice,
) -> dict:
    """What run.json says beside what the graphs say."""
    variants = [
        {
            "name": v.name,
            "method": v.method,
            "groups": list(v.groups),
            "base": v.base,
            "cost": v.cost,
            "bitops": bit_operations(graphs[v.name]),
            "accuracy": accuracy_by_family(records, v.method, v.name),
            "mixed": {"pictures": len(dataset.test_y), "correct": mixed[v.name], "seed": MIXED_SEED},
        }
        for v in evidence.variants
    ]
    method = "+".join(dict.fromkeys(v.method for v in evidence.variants))
    return {
        "name": settings.folder.absolute().name,
        "arch": settings.network.arch,
        "dataset": settings.data.dataset,
        "method": method,
        "labels": list(dataset.labels),
        "variants": variants,
        **choice.to_dict(),
        "settings": settings.record(),
    }
