"""Writes a run folder (contract 1): one QDQ ONNX file a variant, golden data and run.json."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compile.qdq.derivable import ExportError
from compile.qdq.exporter import QDQ_FORMAT, to_onnx
from compile.qdq.importer import from_model
from compile.qdq.metadata import with_metadata
from compile.source.run_folder import GoldenData, RunRecord, StoredBytes
from runtime.files import write_bytes
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Requant
from train.bits.cost import TABLE_BITS


def export_run(
    folder: Path,
    graphs: dict[str, Graph],
    run: RunRecord,
    pictures: np.ndarray,
    models: Mapping[str, onnx.ModelProto] | None = None,
) -> None:
    """Writes an ONNX file for each graph, golden data of the pictures uint8 [G, H, W, C], and last run.json.

    graphs: one for each of the run's variants, in their order; models: QDQ files of theirs where there are any already.
    Raises ExportError where names do not match, or where a model would not come back as the graph it was made of.
    """
    folder = Path(folder)
    names = [v.name for v in run.variants]
    if names != list(graphs) or not all(re.fullmatch(r"[\w.-]+", name) for name in names):
        raise ExportError(
            f"{folder}: expected a graph for each variant {names}, named in letters, digits, '.', '-' and '_', "
            f"got graphs {list(graphs)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    origin = {"name": run.name, "arch": run.arch, "dataset": run.dataset, "method": run.method}
    logits = {}
    for variant in run.variants:
        graph = graphs[variant.name]
        metadata = {**origin, "labels": list(run.labels), "variant": variant.name}
        model = _checked_model(graph, metadata, None if models is None else models[variant.name])
        write_bytes(folder / variant.onnx, model.SerializeToString(deterministic=True))
        logits[variant.name] = interpreter.run(graph, pictures)
    GoldenData(pictures, logits).write(folder)
    run.write(folder)


def count_stored_bytes(graphs: dict[str, Graph]) -> StoredBytes:
    """Counts the bytes of all variants together: packed weights, equal integers once, and tables of every channel."""
    convs = [conv for graph in graphs.values() for conv in graph.convs()]
    weights = {(conv.w_bits, conv.weight.tobytes()): (conv.weight.size * conv.w_bits + 7) // 8 for conv in convs}
    tables = sum(conv.weight.shape[0] * TABLE_BITS // 8 for conv in convs)
    return StoredBytes(sum(weights.values()), tables)


def difference(a: Graph, b: Graph) -> str | None:
    """Says what first differs between two graphs in names, tensors, settings or integers; None if they are equal."""
    if (a.name, a.input, a.output) != (b.name, b.input, b.output):
        return f"graph {(a.name, a.input, a.output)} and {(b.name, b.input, b.output)}"
    for name in {**a.tensors, **b.tensors}:
        if a.tensors.get(name) != b.tensors.get(name):
            return f"tensor {name}: {a.tensors.get(name)} and {b.tensors.get(name)}"
    if [(type(n), n.name) for n in a.nodes] != [(type(n), n.name) for n in b.nodes]:
        return f"nodes {[n.name for n in a.nodes]} and {[n.name for n in b.nodes]}"
    for x, y in zip(a.nodes, b.nodes, strict=True):
        for field in fields(x):
            if not _equal(getattr(x, field.name), getattr(y, field.name)):
                return f"node {x.name}: {field.name} {getattr(x, field.name)} and {getattr(y, field.name)}"
    return None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Requant) and isinstance(b, Requant):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Requant))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def _checked_model(graph: Graph, metadata: dict[str, Any], model: onnx.ModelProto | None) -> onnx.ModelProto:
    """The ONNX model of a graph. Raises ExportError unless onnx accepts it and it gives the graph back."""
    model = to_onnx(graph, metadata) if model is None else with_metadata(model, {"format": QDQ_FORMAT, **metadata})
    onnx.checker.check_model(model, full_check=True)
    differs = difference(graph, from_model(model))
    if differs:
        raise ExportError(
            f"variant {metadata['variant']}: expected the file to give its graph back, got another {differs}"
        )
    return model
