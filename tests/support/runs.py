"""Run records and run folders of networks that nobody trained."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compile.source.run_folder import NetworkFacts, RunRecord, VariantRecord
from targets.reference.graph import Graph
from train.integers.export import count_stored_bytes, export_run


def run_record(
    graphs: Mapping[str, Graph], name: str = "small", accuracy: dict[str, float] | None = None, cost: float | None = 1.0
) -> RunRecord:
    """Returns the record of a run whose variants are these graphs; its labels are c0, c1, ...; cost None: by BitOPs."""
    first = next(iter(graphs.values()))
    variants = [
        VariantRecord(variant, f"{variant}.onnx", NetworkFacts.of_graph(graph, cost, accuracy), "fixed")
        for variant, graph in graphs.items()
    ]
    return RunRecord(
        name=name,
        labels=tuple(f"c{k}" for k in range(first.tensors[first.output].shape[2])),
        shape=first.tensors[first.input].shape,
        variants=tuple(variants),
        stored=count_stored_bytes(graphs),
        arch="resnet",
        dataset="none",
        method="fixed",
    )


def write_run(folder: Path, graphs: Mapping[str, Graph], golden: np.ndarray) -> Path:
    """Writes a run without a selector, and returns its folder; golden: pictures uint8 [N, H, W, C]."""
    export_run(folder, dict(graphs), run_record(graphs, folder.name, {"clean": 0.5}), golden)
    return folder
