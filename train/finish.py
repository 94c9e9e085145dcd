"""Turns trained networks into a run folder: integer evaluation, selector, export and report."""

import shutil
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compile.source.run_folder import MixedScore, NetworkFacts, RunRecord, StoredBytes, VariantRecord
from targets.reference.graph import Graph
from train.bits.configs import Configs
from train.choice.arms import learn_choice
from train.choice.fit import Choice
from train.choice.scores import make_results
from train.data.datasets import Dataset, spread
from train.data.views import MIXED_SEED, mixed_views
from train.evidence.evidence import Evidence
from train.evidence.gather import count_right_on_mixed, gather_evidence
from train.evidence.parts import Parts
from train.evidence.pictures import JudgedPictures
from train.evidence.results import Result, accuracy_by_family, write_results
from train.integers.export import count_stored_bytes, export_run
from train.integers.lowering import lower
from train.loop.run_folder import EVALUATION
from train.network.network import Network
from train.report.compare import compare
from train.report.console import print_accuracies
from train.report.summary import summary
from train.report.write import write_report
from train.settings.settings import Settings

GOLDEN = 32  # pictures that travel with the run
SAMPLE = 0  # the test picture that the report shows degraded


@dataclass(frozen=True, eq=False)
class Family:
    """A trained family after its evaluation; graphs: variant -> integer network; mixed: right mixed pictures."""

    graphs: dict[str, Graph]
    evidence: Evidence
    choice: Choice
    results: list[Result]
    mixed: dict[str, int]


def finish(
    settings: Settings,
    dataset: Dataset,
    full_precision: Network,
    student: Network,
    configs: Configs,
    device: torch.device,
) -> None:
    """Evaluates a trained family in integer arithmetic, learns its selector, and writes the whole run folder."""
    graphs = {name: lower(student, name) for name in student.bits}
    pictures = JudgedPictures.of_dataset(settings, dataset)
    family = _evaluate(settings, pictures, full_precision, configs, Parts(graphs, device, settings.folder / EVALUATION))
    family.evidence.write(settings.folder)
    write_results(settings.folder, family.results)
    run = describe_run(settings, dataset, family)
    export_run(settings.folder, graphs, run, _golden_pictures(settings, dataset))
    write_report(settings.folder, {view: np.asarray(shown[SAMPLE]) for view, shown in pictures.views.items()})
    shutil.rmtree(settings.folder / EVALUATION, ignore_errors=True)
    _print_end(settings, len(dataset.test_y), family, run.stored)


def describe_run(settings: Settings, dataset: Dataset, family: Family) -> RunRecord:
    """Returns the record of the run, as run.json keeps it."""
    variants = []
    for v in family.evidence.variants:
        graph = family.graphs[v.name]
        accuracy = accuracy_by_family(family.results, (v.method, v.name))
        mixed = MixedScore(len(dataset.test_y), family.mixed[v.name], MIXED_SEED)
        facts = NetworkFacts.of_graph(graph, v.cost, accuracy, mixed)
        variants.append(VariantRecord(v.name, f"{v.name}.onnx", facts, v.method, v.kinds, v.base))
    first = next(iter(family.graphs.values()))
    return RunRecord(
        name=settings.folder.absolute().name,
        labels=tuple(dataset.labels),
        shape=first.tensors[first.input].shape,
        variants=tuple(variants),
        stored=count_stored_bytes(family.graphs),
        arch=settings.network.arch,
        dataset=settings.data.dataset,
        method="+".join(dict.fromkeys(v.method for v in variants)),
        choice=family.choice.record(),
        settings=settings.record(),
    )


def _evaluate(
    settings: Settings, pictures: JudgedPictures, full_precision: Network, configs: Configs, parts: Parts
) -> Family:
    """Answers all pictures and learns the choice, with a progress bar."""
    console = Console(markup=False, stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("integer evaluation", total=len(parts.graphs) * len(pictures))
        counted = parts.with_progress(lambda count: progress.advance(bar, count))
        evidence = gather_evidence(settings, pictures, full_precision, configs, counted)
        mixed = count_right_on_mixed(pictures, counted)
    with console.status("selector"):
        choice, evidence = learn_choice(
            evidence,
            settings.bits.budget,
            settings.training.seed,
            escalate=settings.judging.escalate,
            unseen_loss=settings.judging.unseen_loss,
        )
    return Family(parts.graphs, evidence, choice, make_results(evidence, settings.training.seed), mixed)


def _golden_pictures(settings: Settings, dataset: Dataset) -> np.ndarray:
    """uint8 [GOLDEN, H, W, 3]: test pictures, each degraded at random."""
    families = settings.data.training_families + settings.data.held_out
    pictures = dataset.test_x[spread(len(dataset.test_y), GOLDEN)]
    place = settings.place
    return np.asarray(mixed_views(pictures, families, settings.training.seed, place.cache, place.workers)[0])


def _print_end(settings: Settings, pictures: int, family: Family, stored: StoredBytes) -> None:
    console = Console(markup=False)
    private = {v.name for v in family.evidence.variants if v.base}
    print_accuracies(family.results, console, hidden=private)
    console.print(" ".join(summary(compare(family.evidence))))
    right = ", ".join(f"{name} {count}" for name, count in family.mixed.items())
    console.print(f"right among all {pictures} test pictures, each degraded at random: {right}")
    console.print(f"stored: {stored.weights:,} bytes of weights and {stored.tables:,} of tables, all variants")
    console.print(f"run: {settings.folder} (report.md, results.json, one .onnx file per variant)")
