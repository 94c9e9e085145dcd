"""What a build starts from: a run folder of training (contract 1), or ONNX files that anybody made."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compile.qdq.importer import Normalization, load
from runtime.bundle.decisions import parse_decisions, parse_facts, require_different
from runtime.fields import Fields
from targets.reference import interpreter
from targets.reference.graph import Graph, macs

RUN_FORMAT = 1
PICTURES = 8  # golden pictures made up for files that bring none


class SourceError(ValueError):
    """The source is not something that can be built; the message says what was expected and what to do."""


@dataclass(frozen=True, eq=False)
class BuildVariant:
    """One integer network with what is known of it; `facts` go into the manifest as they are."""

    name: str
    onnx: Path
    graph: Graph
    logits: np.ndarray  # int32 [G, classes], what training expects for the golden pictures
    facts: dict
    exact: bool  # made by bitgrade: onnxruntime must give the very same logits
    normalization: Normalization | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Variants over one input, golden pictures uint8 [G, H, W, C], and the selector if training made one.

    budget: mean cost that the run was trained and reported with, None where none is known.
    """

    name: str
    variants: list[BuildVariant]
    labels: list[str]
    pictures: np.ndarray
    selector: dict | None
    budgets: list[dict]
    escalation: dict | None = None
    budget: float | None = None


def newest_run(root: Path = Path("runs")) -> Path:
    """The run folder under `root` that was finished last."""
    runs = sorted(root.glob("*/run.json"), key=lambda p: p.stat().st_mtime)
    if not runs:
        raise SourceError(
            f"expected a finished run under {root}/, found none; train one with `python -m train.run`, "
            "or name a run folder or ONNX files"
        )
    return runs[-1].parent


def open_source(
    paths: list[Path], normalization: Normalization | None = None, labels: list[str] | None = None
) -> Source:
    """A run folder, or one or more ONNX files of networks with the same input and outputs.

    normalization: (mean, std) of x = (u8 / 255 - mean) / std, for files whose picture is a float tensor. labels: names
    of the classes of files, "class 0" and so on where there are none.
    """
    if len(paths) == 1 and paths[0].is_dir():
        if normalization is not None:
            raise SourceError(f"{paths[0]}: a run's picture is uint8; leave --mean and --std out")
        if labels is not None:
            raise SourceError(f"{paths[0]}: a run has labels of its own; leave --labels out")
        return _open_run(paths[0])
    for path in paths:
        if path.suffix != ".onnx" or not path.is_file():
            raise SourceError(f"{path}: expected a run folder or .onnx files, got neither")
    return _open_files(paths, normalization, labels)


def read_labels(path: Path) -> list[str]:
    """Names of classes, one a line; raises SourceError."""
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--labels {path}: expected a text file, a class a line, cannot read it ({error})") from error
    wrong = next((i for i, v in enumerate(labels, 1) if not (0 < len(v) <= 1000 and v.isprintable())), None)
    if wrong is not None or not labels:
        raise SourceError(f"--labels {path}: expected the name of a class in each line, line {wrong or 1} has none")
    return labels


def _open_run(folder: Path) -> Source:
    try:
        run = json.loads((folder / "run.json").read_text())
        if run["format"] != RUN_FORMAT:
            raise SourceError(
                f"{folder}: expected a run of format {RUN_FORMAT}, got {run['format']}; "
                "export it again with this version's train.run"
            )
        golden = _golden(folder / run["golden"])
        variants = [
            _variant(
                v["name"],
                folder / v["onnx"],
                load(folder / v["onnx"]),
                golden[f"logits_{v['name']}"],
                {k: v[k] for k in ("cost", "accuracy", "mixed") if k in v},
                exact=True,
            )
            for v in run["variants"]
        ]
        return _checked(
            Source(
                run["name"],
                variants,
                run["labels"],
                golden["images"],
                run["selector"],
                run.get("budgets", []),
                run.get("escalation"),
                _budget(folder, run),
            )
        )
    except FileNotFoundError as error:
        raise SourceError(
            f"{folder}: expected a finished run, but {error.filename} is missing; "
            "finish it with `python -m train.run ... --resume`"
        ) from error
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise SourceError(
            f"{folder}: its run.json or golden data is damaged ({error!r}); export the run again"
        ) from error


def _golden(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy's and zipfile's readers raise kinds of their own at damaged files
        raise SourceError(f"{path}: its golden data is damaged ({error!r}); export the run again") from error


def _budget(folder: Path, run: dict) -> float | None:
    """Of a run's settings; None for one that tells none."""
    budget = run.get("settings", {}).get("budget")
    if budget is not None and not (type(budget) in (int, float) and 0 < budget < math.inf):
        raise SourceError(
            f"{folder}: expected a budget above 0 in the settings of run.json, got {budget!r}; export the run again"
        )
    return budget if run["selector"] is None or run.get("budgets") else None  # without a table none can be kept


def _variant(
    name: str, path: Path, graph: Graph, logits: np.ndarray, facts: dict, exact: bool, normalization=None
) -> BuildVariant:
    work, bits = macs(graph), graph.bit_config()
    bitops = sum(work[k] * w * a for k, (w, a) in bits.items())
    facts = {
        "cost": bitops / (64 * sum(work.values())),
        "accuracy": {},
        **facts,
        "bits": {k: list(v) for k, v in bits.items()},
        "macs": sum(work.values()),
        "bitops": bitops,
    }
    return BuildVariant(name, path, graph, logits, facts, exact, normalization)


def _open_files(paths: list[Path], normalization: Normalization | None, labels: list[str] | None) -> Source:
    graphs = {path.stem: load(path, normalization) for path in paths}
    if len(graphs) < len(paths):
        raise SourceError(f"expected ONNX files of different names, got {[p.name for p in paths]}")
    first = next(iter(graphs.values()))
    pictures = made_up_pictures(first.tensors[first.input].shape)
    for path in paths:
        shape = graphs[path.stem].tensors[graphs[path.stem].input].shape
        if shape != pictures.shape[1:]:
            raise SourceError(
                f"{path}: expected the input shape of {paths[0].name}, {list(pictures.shape[1:])}, got {list(shape)}"
            )
    variants = [
        _variant(path.stem, path, graph, interpreter.run(graph, pictures), {}, False, normalization)
        for path, graph in zip(paths, graphs.values(), strict=True)
    ]
    classes = variants[0].logits.shape[1]
    if labels is not None and len(labels) != classes:
        raise SourceError(f"{paths[0]}: expected {classes} labels, one a logit, got {len(labels)}; see --labels")
    labels = labels or [f"class {i}" for i in range(classes)]
    return _checked(Source(paths[0].stem, variants, labels, pictures, None, []))


def made_up_pictures(shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [PICTURES, H, W, C]: black, white, and smooth colour ramps with more and more noise."""
    rng, (h, w, c) = np.random.default_rng(0), shape
    ramp = np.linspace(0, 1, h)[:, None, None] * rng.uniform(0, 200, c) + np.linspace(0, 1, w)[
        None, :, None
    ] * rng.uniform(0, 55, c)
    noisy = [ramp + rng.normal(0, 12 * k, shape) for k in range(PICTURES - 2)]
    return np.stack([np.zeros(shape), np.full(shape, 255), *noisy]).clip(0, 255).round().astype(np.uint8)


def _checked(source: Source) -> Source:
    _require_served(source)
    for v in source.variants:
        expected = (len(source.pictures), len(source.labels))
        if v.logits.shape != expected:
            raise SourceError(
                f"{v.onnx}: expected golden logits {list(expected)} (pictures, labels), got {list(v.logits.shape)}"
            )
        if v.graph.tensors[v.graph.input].shape != source.pictures.shape[1:]:
            raise SourceError(
                f"{v.onnx}: expected an input of {list(source.pictures.shape[1:])}, "
                f"got {list(v.graph.tensors[v.graph.input].shape)}"
            )
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
            parse_facts(Fields({"name": v.name, **v.facts}, f"{source.name}: {v.name}", top.todo))
        require_different(top, [v.name for v in source.variants])
    except ValueError as error:
        raise SourceError(str(error)) from error
