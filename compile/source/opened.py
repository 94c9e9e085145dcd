"""Opens what a build starts from: a run folder of training (contract 1), or ONNX and TFLite files that anybody made."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compile.forms.options import NOTHING_OPEN, FormOptions
from compile.qdq.importer import Normalization, OpenedFile, load, open_file
from compile.qdq.metadata import crop_of
from compile.source.run_folder import (
    DAMAGED,
    RUN_FILE,
    Json,
    NetworkFacts,
    RunRecord,
    SourceError,
    read_golden,
    read_run,
)
from compile.tflite.importer import load as load_tflite
from runtime.bundle.decisions import parse_decisions, parse_facts, require_different
from runtime.fields import Fields
from runtime.scores import ScoreKind, count_logits
from targets.reference import interpreter
from targets.reference.graph import Graph

CHANNELS = (1, 3)  # of pictures that the runtime can make
PICTURES = 8  # golden pictures made up for files that bring none
SUFFIXES = (".onnx", ".tflite")


@dataclass(frozen=True, eq=False)
class BuildVariant:
    """One integer network to build, with the facts that the manifest repeats.

    onnx: the file that it was read from, .onnx or .tflite. logits: int32 [G, classes] that the source expects for the
    golden pictures; exact: made by bitgrade, so that onnxruntime must give the very same logits. opened: how an ONNX
    file of another tool was read.
    """

    name: str
    onnx: Path
    graph: Graph
    logits: np.ndarray
    facts: NetworkFacts
    exact: bool
    normalization: Normalization | None = None
    opened: OpenedFile | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Variants over one input, golden pictures uint8 [G, H, W, C], and how training chooses among the variants.

    selector, budgets, escalation: JSON of the run, checked; budget: mean cost that the run was trained and reported
    with, None where none is known. scores: how they follow from logits, a word of runtime.scores. crop: the part of a
    photo's short side that its networks look at, None for all.
    """

    name: str
    variants: list[BuildVariant]
    labels: list[str]
    pictures: np.ndarray
    selector: Json | None
    budgets: list[Json]
    escalation: Json | None = None
    budget: float | None = None
    scores: ScoreKind = "softmax"
    crop: float | None = None

    @property
    def outputs(self) -> int:
        """How many logits a network gives."""
        return count_logits(self.scores, len(self.labels))


def newest_run(root: Path = Path("runs")) -> Path:
    """Returns the run folder under `root` that was finished last. Raises SourceError where there is none."""
    runs = sorted(root.glob(f"*/{RUN_FILE}"), key=lambda p: p.stat().st_mtime)
    if not runs:
        raise SourceError(
            f"expected a finished run under {root}/, found none; train one with `python -m train.run`, "
            "or name a run folder, or ONNX or TFLite files"
        )
    return runs[-1].parent


def open_source(
    paths: list[Path],
    normalization: Normalization | None = None,
    labels: list[str] | None = None,
    options: FormOptions = NOTHING_OPEN,
    pictures: np.ndarray | None = None,
) -> Source:
    """Opens a run folder, or ONNX and TFLite files of networks with the same input and outputs. Raises SourceError.

    normalization: (mean, std) of x = (u8 / 255 - mean) / std, for files whose picture is a float tensor. labels: names
    of the classes of files, "class 0" and so on where there are none. options: what files leave open. pictures: golden
    ones for files, uint8 [G, H, W, C]; None: made up.
    """
    if len(paths) == 1 and paths[0].is_dir():
        if normalization is not None:
            raise SourceError(f"{paths[0]}: a run's picture is uint8; leave --mean and --std out")
        if labels is not None:
            raise SourceError(f"{paths[0]}: a run has labels of its own; leave --labels out")
        if options != NOTHING_OPEN:
            raise SourceError(f"{paths[0]}: a run's files leave nothing open; leave --size and --output out")
        return _open_run(paths[0])
    for path in paths:
        if not path.exists():
            raise SourceError(
                f"{path}: expected a run folder, .onnx or .tflite files, but nothing of that name is there"
            )
        if path.suffix not in SUFFIXES or not path.is_file():
            raise SourceError(f"{path}: expected a run folder, .onnx or .tflite files, got none of them")
    if len({path.stem for path in paths}) < len(paths):
        raise SourceError(f"expected files of different names, got {[p.name for p in paths]}")
    files = {p.stem: open_file(p, normalization, options) for p in paths if p.suffix == ".onnx"}
    graphs = [files[p.stem].graph if p.stem in files else load_tflite(p, normalization) for p in paths]
    shape = _common_shape(paths, graphs)
    opened = _OpenedFiles(paths, graphs, files, normalization)
    return _source_of_files(opened, labels, made_up_pictures(shape) if pictures is None else pictures)


def read_labels(path: Path) -> list[str]:
    """Reads names of classes from a text file, one a line. Raises SourceError where a line holds none."""
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--labels {path}: expected a text file, a class a line, cannot read it ({error})") from error
    wrong = next((i for i, v in enumerate(labels, 1) if not (0 < len(v) <= 1000 and v.isprintable())), None)
    if wrong is not None or not labels:
        raise SourceError(f"--labels {path}: expected the name of a class in each line, line {wrong or 1} has none")
    return labels


def _open_run(folder: Path) -> Source:
    run = read_run(folder)
    golden = read_golden(folder, run)
    missing = [v.onnx for v in run.variants if not (folder / v.onnx).is_file()]
    if missing:
        raise SourceError(
            f"{folder}: expected a finished run, but {missing[0]} is missing; "
            "finish it with `python -m train.run ... --resume`"
        )
    variants = []
    for v in run.variants:
        graph = load(folder / v.onnx)
        known = NetworkFacts.of_graph(graph, v.facts.cost, v.facts.accuracy, v.facts.mixed)
        variants.append(BuildVariant(v.name, folder / v.onnx, graph, golden.logits[v.name], known, exact=True))
    choice = run.choice
    source = Source(
        run.name,
        variants,
        list(run.labels),
        golden.pictures,
        choice.selector,
        list(choice.budgets),
        choice.escalation,
        _own_budget(folder, run),
        crop=_common_crop([folder / v.onnx for v in run.variants]),
    )
    return _checked(source)


def _own_budget(folder: Path, run: RunRecord) -> float | None:
    """The budget in a run's settings; None where there is none, or no table in which it could be looked up."""
    budget = run.settings.get("budget")
    if budget is not None and not (type(budget) in (int, float) and 0 < budget < math.inf):
        raise SourceError(f"{folder / RUN_FILE}: expected a budget above 0 in the settings, got {budget!r}; {DAMAGED}")
    has_table = run.choice.selector is None or bool(run.choice.budgets)
    return budget if has_table else None


@dataclass(frozen=True, eq=False)
class _OpenedFiles:
    """Files with their integer graphs; opened: how ONNX files were read, by name."""

    paths: list[Path]
    graphs: list[Graph]
    opened: dict[str, OpenedFile]
    normalization: Normalization | None


def _source_of_files(files: _OpenedFiles, labels: list[str] | None, pictures: np.ndarray) -> Source:
    paths = files.paths
    crop = _common_crop([path for path in paths if path.suffix == ".onnx"])
    variants = []
    for path, graph in zip(paths, files.graphs, strict=True):
        logits = interpreter.run(graph, pictures)
        known = NetworkFacts.of_graph(graph)
        picture = (files.normalization, files.opened.get(path.stem))
        variants.append(BuildVariant(path.stem, path, graph, logits, known, False, *picture))
    kinds = [_score_kind(variant) for variant in variants]
    if len(set(kinds)) > 1:
        raise SourceError(f"{paths[0]}: expected files whose scores are made alike, got {', '.join(kinds)}")
    classes = 2 if kinds[0] == "binary" else variants[0].logits.shape[1]
    if labels is not None and len(labels) != classes:
        expected = "2 labels of the one logit" if kinds[0] == "binary" else f"{classes} labels, one a logit"
        raise SourceError(f"{paths[0]}: expected {expected}, got {len(labels)}; see --labels")
    names = labels or [f"class {i}" for i in range(classes)]
    return _checked(Source(paths[0].stem, variants, names, pictures, None, [], scores=kinds[0], crop=crop))


def _common_crop(paths: list[Path]) -> float | None:
    """The part of a photo's short side that ONNX files look at, None for all of it; raises where they differ."""
    crops = {crop_of(path) for path in paths} or {None}
    if len(crops) > 1:
        raise SourceError(f"{paths[0]}: expected files that look at the same part of a photo, got crops {crops}")
    return crops.pop()


def _common_shape(paths: list[Path], graphs: list[Graph]) -> tuple[int, int, int]:
    """The input [H, W, C] of all files; raises SourceError where they differ, or devices cannot read such pictures."""
    shapes = [graph.tensors[graph.input].shape for graph in graphs]
    for path, shape in zip(paths, shapes, strict=True):
        if shape != shapes[0]:
            raise SourceError(
                f"{path}: expected the input shape of {paths[0].name}, {list(shapes[0])}, got {list(shape)}"
            )
    if shapes[0][2] not in CHANNELS:
        raise SourceError(
            f"{paths[0]}: expected a picture of 1 channel (grey) or 3 (RGB), which devices can read, got {shapes[0][2]}"
        )
    return shapes[0]


def _score_kind(variant: BuildVariant) -> ScoreKind:
    """How scores follow from a file's logits: what the file does itself, else what fits their number."""
    if variant.logits.shape[1] == 1:
        return "binary"
    own = None if variant.opened is None else variant.opened.form.scores
    return own or "softmax"


def made_up_pictures(shape: tuple[int, int, int]) -> np.ndarray:
    """Returns uint8 [PICTURES, H, W, C]: black, white, and smooth colour ramps with more and more noise."""
    rng = np.random.default_rng(0)
    height, width, channels = shape
    down = np.linspace(0, 1, height)[:, None, None] * rng.uniform(0, 200, channels)
    ramp = down + np.linspace(0, 1, width)[None, :, None] * rng.uniform(0, 55, channels)
    noisy = [ramp + rng.normal(0, 12 * k, shape) for k in range(PICTURES - 2)]
    return np.stack([np.zeros(shape), np.full(shape, 255), *noisy]).clip(0, 255).round().astype(np.uint8)


def _checked(source: Source) -> Source:
    """The source itself. Raises SourceError where its variants, pictures and labels do not fit together."""
    _require_served(source)
    input_shape = source.pictures.shape[1:]
    expected = (len(source.pictures), source.outputs)
    for v in source.variants:
        if v.logits.shape != expected:
            raise SourceError(
                f"{v.onnx}: expected golden logits {list(expected)} (pictures, labels), got {list(v.logits.shape)}"
            )
        shape = v.graph.tensors[v.graph.input].shape
        if shape != input_shape:
            raise SourceError(f"{v.onnx}: expected an input of {list(input_shape)}, got {list(shape)}")
    return source


def _require_served(source: Source) -> None:
    """Raises SourceError for what the runtime would refuse in a bundle, before the work and not on the device."""
    about = {
        "name": source.name,
        "labels": source.labels,
        "selector": source.selector,
        "budget": source.budget,
        "budgets": source.budgets,
        "escalation": source.escalation,
    }
    try:
        top = Fields(about, source.name, "export the run again, or rename the file")
        top.text("name")
        parse_decisions(top, len(source.variants))
        for v in source.variants:
            parse_facts(Fields({"name": v.name, **v.facts.to_dict()}, f"{source.name}: {v.name}", top.todo))
        require_different(top, [v.name for v in source.variants])
    except ValueError as error:
        raise SourceError(str(error)) from error
