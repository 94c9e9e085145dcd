"""Adapts a network to pictures of every quality, without training and without labels: a family in a run folder.

read        the network, the pictures                           source.py, pictures.py
degrade     twins of the pictures, and the kinds among them     twins.py
fit         variants for each width, layer by layer             family.py, walk.py, moments.py, ridge.py
judge       every variant in integers on other pictures         judge.py
choose      the selector, its budgets                           train/choice
write       the run folder and its report                       here
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compile.qdq.metadata import with_metadata
from compile.source.run_folder import NetworkFacts, RunRecord, VariantRecord
from runtime.files import write_json
from train.adapt.family import AdaptedVariant, Family
from train.adapt.judge import METHOD, Judged, configuration, gather
from train.adapt.kept import origin_of, read_variants, write_variants
from train.adapt.pictures import AdaptPictures
from train.adapt.settings import UNSEEN_LOSS, AdaptSettings
from train.adapt.source import AdaptSource
from train.adapt.twins import Degraded, find_kinds
from train.bits.configs import Configs
from train.choice.arms import learn_choice
from train.choice.fit import Choice
from train.choice.scores import make_results
from train.data.views import mixed_views
from train.evidence.evidence import Evidence
from train.evidence.results import Result, accuracy_by_family, write_results
from train.integers.export import count_stored_bytes, export_run
from train.loop.run_folder import EVALUATION, SETTINGS
from train.report.compare import compare
from train.report.console import print_accuracies
from train.report.summary import summary
from train.report.write import write_report

GOLDEN = 32  # pictures that travel with the run
SAMPLE = 0  # the test picture that the report shows degraded


def adapt(
    source: AdaptSource, pictures: AdaptPictures, settings: AdaptSettings, labels: Sequence[str], out: Path
) -> Evidence:
    """Adapts a network and writes the run folder `out`; labels: names of the classes. Returns what it was judged by."""
    out.mkdir(parents=True, exist_ok=True)
    record = settings.record(out.absolute().name, source.network.name)
    write_json(out / SETTINGS, record)  # first, since it says that the rest is a run's
    degraded = Degraded.of(pictures.fitted, settings)
    judged = Judged.of(source, pictures, settings)
    kinds = find_kinds([degraded, judged.validation])
    family = Family(source.network, source.normalization, pictures.fitted, degraded, kinds, settings)
    variants = fit_variants(family, out / EVALUATION)
    with _progress("integer evaluation", judged.count(len(variants))) as (progress, bar):
        evidence = gather(source, variants, judged, kinds, out / EVALUATION, lambda count: progress.advance(bar, count))
    with Console(markup=False, stderr=True).status("selector"):
        choice, evidence = learn_choice(
            evidence, settings.budget, settings.seed, escalate=settings.escalate, unseen_loss=UNSEEN_LOSS
        )
    results = make_results(evidence, settings.seed)
    evidence.write(out)
    write_results(out, results)
    about: dict[str, Any] = {
        "arch": source.network.name,
        "cost": "bitops",
        "target": None,
        "budget": settings.budget,
        "widths": [],
    }
    Configs(about, tuple(map(configuration, variants)), kinds=kinds.to_dict()).write(out)
    run = _describe(source, variants, results, choice, labels, record, out)
    graphs = {v.name: v.graph for v in variants}
    about_pictures: dict[str, Any] = (
        {} if source.preprocessing is None else {"preprocessing": source.preprocessing.to_dict()}
    )
    models = {v.name: with_metadata(v.model, about_pictures) for v in variants}
    export_run(out, graphs, run, _golden(pictures.test, settings), models)
    write_report(out, {view: np.asarray(shown[SAMPLE]) for view, shown in judged.views.items()})
    shutil.rmtree(out / EVALUATION, ignore_errors=True)
    _print_end(out, evidence, results, run)
    return evidence


def fit_variants(family: Family, folder: Path) -> list[AdaptedVariant]:
    """Returns the variants of all widths, with a progress bar; those that `folder` keeps of the same are read."""
    variants = []
    with _progress("fitting layers", family.steps * len(family.settings.widths)) as (progress, bar):
        for widths in family.settings.widths:
            origin = origin_of(family, widths.name)
            kept = read_variants(folder, widths.name, origin)
            if kept is None:
                kept = family.make(widths, lambda count: progress.advance(bar, count))
                write_variants(folder, widths.name, origin, kept)
            else:
                progress.advance(bar, family.steps)
            variants += kept
    return variants


@contextmanager
def _progress(title: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(markup=False, stderr=True)) as progress:
        yield progress, progress.add_task(title, total=total)


def _describe(
    source: AdaptSource,
    variants: Sequence[AdaptedVariant],
    results: list[Result],
    choice: Choice,
    labels: Sequence[str],
    record: dict[str, object],
    out: Path,
) -> RunRecord:
    """The record of the run, as run.json keeps it."""
    entries = []
    for v in variants:
        facts = NetworkFacts.of_graph(v.graph, None, accuracy_by_family(results, (METHOD, v.name)))
        entries.append(VariantRecord(v.name, f"{v.name}.onnx", facts, METHOD, v.kinds, v.base))
    return RunRecord(
        name=out.absolute().name,
        labels=tuple(labels),
        shape=(*source.size, 3),
        variants=tuple(entries),
        stored=count_stored_bytes({v.name: v.graph for v in variants}),
        arch=source.network.name,
        dataset=str(record["dataset"]),
        method=METHOD,
        choice=choice.record(),
        settings=dict(record),
    )


def _about(source: AdaptSource, settings: AdaptSettings) -> dict[str, Any]:
    """What makes costs comparable, as configs.json keeps it."""
    return {"arch": source.network.name, "cost": "bitops", "target": None, "budget": settings.budget, "widths": []}


def _models(source: AdaptSource, variants: Sequence[AdaptedVariant]) -> dict[str, onnx.ModelProto]:
    """The QDQ files of the variants, with what their pictures are of a photo where the source says it."""
    frame = source.preprocessing
    about = {} if frame is None else {"preprocessing": frame.to_dict()}
    return {v.name: with_metadata(v.model, about) for v in variants}


def _golden(pictures: np.ndarray, settings: AdaptSettings) -> np.ndarray:
    """uint8 [GOLDEN, H, W, 3]: test pictures, each degraded at random."""
    families = settings.families + settings.hold_out
    return np.asarray(mixed_views(pictures[:GOLDEN], families, settings.seed, settings.cache, settings.workers)[0])


def _print_end(out: Path, evidence: Evidence, results: list[Result], run: RunRecord) -> None:
    console = Console(markup=False)
    private = {v.name for v in evidence.variants if v.base}
    print_accuracies(results, console, hidden=private)
    console.print(" ".join(summary(compare(evidence))))
    console.print(f"stored: {run.stored.weights:,} bytes of weights and {run.stored.tables:,} of tables, all variants")
    console.print(f"run: {out} (report.md, results.json, one .onnx file per variant)")
