"""Run records of networks that nobody trained, for run folders of tests."""

from compile.source.run_folder import NetworkFacts, RunRecord, VariantRecord
from targets.reference.graph import Graph
from train.integers.export import count_stored_bytes


def run_record(
    graphs: dict[str, Graph], name: str = "small", accuracy: dict[str, float] | None = None, cost: float | None = 1.0
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
