"""Does the work of `python -m runtime`: checks, describes and measures bundles, classifies files, returns records."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bundle.manifest import Manifest
from runtime.bundle.opened import open_bundle, runnable
from runtime.choice.budgets import Budget, entry_for
from runtime.choice.escalation import EscalationBudget
from runtime.engine import Engine
from runtime.execution.library import Loaded
from runtime.machine import cpu
from runtime.pictures.arrays import as_picture
from runtime.pictures.files import PictureError, read_picture
from runtime.pictures.warning import PictureWarning

MICROSECONDS = 1e6  # of a second
MILLISECONDS = 1e3


@dataclass(frozen=True)
class Record:
    """A result that has a JSON object, whose keys are the names of its fields."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class CheckRecord(Record):
    """How many logits of the golden pictures one variant's code computes, at one level, and how many differ."""

    variant: str
    level: str
    pictures: int
    logits: int
    differing: int


@dataclass(frozen=True)
class VariantRow(Record):
    """A variant as `info` shows it. accuracy: None where nobody measured; then: what may run after it, if anything."""

    variant: str
    cost: float
    accuracy: float | None
    bytes: int
    macs: int
    then: str | None


@dataclass(frozen=True)
class ServedBudget(Record):
    """A row of the table that an engine chooses from.

    worst: the most that one picture costs, None where each runs once; default: whether it serves without --budget.
    """

    budget: float
    accuracy: float
    worst: float | None
    default: bool


@dataclass(frozen=True)
class InfoRecord(Record):
    """What is in a bundle. level: the one that runs here; budget: the bundle's own, None for any."""

    name: str
    target: str
    level: str
    budget: float | None
    variants: list[VariantRow]
    budgets: list[ServedBudget]


@dataclass(frozen=True)
class BenchRecord(Record):
    """Latency of one step, in microseconds. variant: whose it is, "a, b" for two passes, empty for all variants'."""

    step: str
    variant: str
    level: str
    threads: int
    cpu: str
    calls: int
    min_us: float
    median_us: float
    p99_us: float


@dataclass(frozen=True)
class InferRecord(Record):
    """The answer for one file; see runtime.engine.Prediction. scores are those of `classes`, in the same order."""

    picture: str
    label: str
    index: int
    score: float
    classes: list[str]
    scores: list[float]
    logits: list[int]
    variant: str
    first: str
    escalated: bool
    level: str
    ms: float
    quality: dict[str, int] | None


def check_bundle(folder: Path) -> list[CheckRecord]:
    """Runs the golden pictures through every variant, by the code of every level that this machine can run."""
    bundle = open_bundle(folder)
    pictures, expected = bundle.golden()
    records = []
    for level in runnable(bundle.manifest):
        loaded = Loaded(bundle, bundle.variants, level.name)
        for name, logits in expected.items():
            computed = np.array([loaded.run(name, picture) for picture in pictures], np.int32).reshape(logits.shape)
            differing = int((computed != logits).sum())
            records.append(CheckRecord(name, level.name, len(pictures), computed.size, differing))
    return records


def describe_bundle(folder: Path) -> InfoRecord:
    """Returns what is in a bundle and which of its code runs here."""
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    return InfoRecord(
        name=manifest.name,
        target=manifest.target.name,
        level=bundle.level().name,
        budget=manifest.budget,
        variants=_describe_variants(manifest),
        budgets=_describe_budgets(manifest),
    )


def _describe_variants(manifest: Manifest) -> list[VariantRow]:
    names = [variant.name for variant in manifest.variants]
    up = range(len(names)) if manifest.escalation is None else manifest.escalation.up
    rows = []
    for i, variant in enumerate(manifest.variants):
        then = None if up[i] == i else names[up[i]]
        accuracy = variant.mean_accuracy
        rows.append(VariantRow(variant.name, variant.cost, accuracy, variant.bytes, variant.macs, then))
    return rows


def _describe_budgets(manifest: Manifest) -> list[ServedBudget]:
    table: Sequence[Budget | EscalationBudget] = manifest.budgets
    if manifest.escalation is not None:
        table = manifest.escalation.budgets
    if not table:
        return []
    least = min(row.budget for row in table)
    default = entry_for(table, math.inf if manifest.budget is None else max(manifest.budget, least))
    rows = []
    for row in table:
        worst = row.worst if isinstance(row, EscalationBudget) else None
        rows.append(ServedBudget(row.budget, row.accuracy, worst, row is default))
    return rows


def measure_latency(engine: Engine, calls: int) -> list[BenchRecord]:
    """Times each step `calls` times over the golden pictures.

    The steps are each variant's code, the selector, two passes where one variant runs after another (both), and a whole
    `infer`. They take turns, so that a busy machine slows all alike.
    """
    pictures, _ = engine.bundle.golden()
    steps = _steps(engine)
    times: list[list[float]] = [[] for _ in steps]
    for i in range(calls + 1):
        for (_, _, run), microseconds in zip(steps, times, strict=True):
            began = time.perf_counter()
            run(pictures[i % len(pictures)])
            microseconds.append((time.perf_counter() - began) * MICROSECONDS)
    records = []
    for (step, variant, _), microseconds in zip(steps, times, strict=True):
        low, middle, high = np.percentile(microseconds[1:], (0, 50, 99)).tolist()  # the first call warms caches
        machine = (engine.level, engine.threads, cpu.model())
        records.append(BenchRecord(step, variant, *machine, calls, low, middle, high))
    return records


def _steps(engine: Engine) -> list[tuple[str, str, Callable[[np.ndarray], object]]]:
    """Returns (step, variant, what runs it on a picture uint8 [H, W, 3])."""
    steps: list[tuple[str, str, Callable[[np.ndarray], object]]] = []
    for name in engine.variants:
        steps.append(("run", name, _run_passes(engine, [name])))
    if engine.selects:
        steps.append(("select", "", lambda picture: engine.choose(picture[None])))
    for first, second in engine.escalates.items():
        steps.append(("both", f"{first}, {second}", _run_passes(engine, [first, second])))
    steps.append(("infer", "", engine.infer))
    return steps


def _run_passes(engine: Engine, names: list[str]) -> Callable[[np.ndarray], None]:
    """Returns what runs a picture through those variants, one after another."""

    def run(picture: np.ndarray) -> None:
        for name in names:
            engine.logits(picture, name)

    return run


@dataclass(frozen=True)
class Classified:
    """A record for each file that is a picture, an error for each that is none, and what is unusual about pictures."""

    records: list[InferRecord]
    errors: list[str]
    warnings: list[str]


def classify_files(engine: Engine, files: Iterable[Path]) -> Classified:
    """Classifies every file, whatever is wrong with others."""
    classified = Classified([], [], [])
    for file in files:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PictureWarning)
            try:
                classified.records.append(_classify_file(engine, file))
            except PictureError as error:
                classified.errors.append(str(error))
        classified.warnings.extend(f"{file}: {w.message}" for w in caught if issubclass(w.category, PictureWarning))
    return classified


def _classify_file(engine: Engine, file: Path) -> InferRecord:
    """Raises PictureError where the file is no picture, or one too large to be resized."""
    picture = _read(file)
    try:
        prediction = engine.infer(picture)
    except MemoryError as error:
        raise PictureError(
            f"{file}: expected a picture that fits into memory when it is resized, this one does not; make it smaller"
        ) from error
    return InferRecord(
        picture=str(file),
        label=prediction.label,
        index=prediction.index,
        score=float(prediction.scores[prediction.index]),
        classes=list(engine.bundle.manifest.labels),
        scores=prediction.scores.tolist(),
        logits=prediction.logits.tolist(),
        variant=prediction.variant,
        first=prediction.first,
        escalated=prediction.escalated,
        level=engine.level,
        ms=MILLISECONDS * prediction.seconds,
        quality=prediction.quality,
    )


def _read(file: Path) -> np.ndarray:
    """Returns the picture uint8 [H, W, 3] in a file. Raises PictureError where it is none."""
    try:
        return as_picture(read_picture(file))
    except PictureError:
        raise
    except (ValueError, TypeError) as error:  # of .npy files, which hold anything
        raise PictureError(f"{file}: {error}") from error
