"""Contract 1 on disk: a run folder with one QDQ ONNX file a variant, run.json and golden data."""

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx

from compile.qdq.derivable import ExportError
from compile.qdq.exporter import QDQ_FORMAT, to_onnx
from compile.qdq.importer import from_model
from runtime.files import replacing, write_bytes
from targets.reference import interpreter
from targets.reference.graph import Graph, bit_operations, macs
from targets.reference.nodes import Conv, Requant
from train.bits.cost import TABLE_BITS

__all__ = ["ExportError", "difference", "export_run", "to_onnx"]

GOLDEN = "golden.npz"


def export_run(folder: Path, graphs: dict[str, Graph], run: dict, golden_images: np.ndarray) -> None:
    """Writes NAME.onnx for each graph, golden.npz, and last run.json.

    run: run.json's fields; its "variants" are in the order of `graphs` and may leave out "onnx", "bits", "macs",
    "bitops" and "cost" (BitOPs relative to 8 by 8 bits), which the graphs tell. golden_images uint8 [G, H, W, C].
    Raises ExportError where a model would not come back as the graph it was made of, or where names do not match.
    """
    folder = Path(folder)
    names = [v["name"] for v in run["variants"]]
    if names != list(graphs) or not all(re.fullmatch(r"[\w.-]+", n) for n in names):
        raise ExportError(
            f"{folder}: expected a graph for each variant {names}, named in letters, digits, '.', '-' and '_', "
            f"got graphs {list(graphs)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    golden, variants = {"images": golden_images}, []
    for variant in run["variants"]:
        name, graph = variant["name"], graphs[variant["name"]]
        about = {k: run[k] for k in ("name", "arch", "dataset", "method", "labels") if k in run}
        model = _checked(graph, {**about, "variant": name})
        write_bytes(folder / f"{name}.onnx", model.SerializeToString(deterministic=True))
        golden[f"logits_{name}"] = interpreter.run(graph, golden_images)
        variants.append({**_measures(graph), **variant, "onnx": f"{name}.onnx"})
    with replacing(folder / GOLDEN) as temporary:
        np.savez(temporary, **golden)
    shape = list(graphs[names[0]].tensors[graphs[names[0]].input].shape)
    complete = {
        "format": QDQ_FORMAT,
        "input": {"shape": shape},
        "selector": None,
        "escalation": None,
        **run,
        "bytes": stored_bytes(graphs),
        "variants": variants,
        "golden": GOLDEN,
    }
    write_bytes(folder / "run.json", json.dumps(complete, indent=1, allow_nan=False).encode() + b"\n")


def stored_bytes(graphs: dict[str, Graph]) -> dict[str, int]:
    """Bytes of all variants together: "weights", packed, those of equal integers once; "tables" of every channel."""
    weights, tables = {}, 0
    for graph in graphs.values():
        for node in (n for n in graph.nodes if isinstance(n, Conv)):
            weights[node.w_bits, node.weight.tobytes()] = (node.weight.size * node.w_bits + 7) // 8
            tables += node.weight.shape[0] * TABLE_BITS // 8
    return {"weights": sum(weights.values()), "tables": tables}


def difference(a: Graph, b: Graph) -> str | None:
    """What first differs between two graphs in names, tensors, settings or integers; None if they are equal."""
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


def _equal(a, b) -> bool:
    if isinstance(a, Requant) and isinstance(b, Requant):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Requant))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def _checked(graph: Graph, metadata: dict) -> onnx.ModelProto:
    """The model, after onnx's own check and its way back."""
    model = to_onnx(graph, metadata)
    onnx.checker.check_model(model, full_check=True)
    differs = difference(graph, from_model(model))
    if differs:
        raise ExportError(
            f"variant {metadata['variant']}: expected the file to give its graph back, got another {differs}"
        )
    return model


def _measures(graph: Graph) -> dict:
    """Bits, MACs, BitOPs (MACs * w_bits * a_bits) and their cost relative to 8 by 8 bits."""
    bitops, total = bit_operations(graph), sum(macs(graph).values())
    return {
        "bits": {k: list(v) for k, v in graph.bit_config().items()},
        "macs": total,
        "bitops": bitops,
        "cost": bitops / (64 * total),
    }
