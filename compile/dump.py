"""Readable files of every stage of a build, for `--dump DIR`."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx

from compile.lowering.lower import Lowered, table_of_rules
from compile.source.opened import BuildVariant
from targets import Target
from targets.reference.graph import Graph


def dump(folder: Path, variant: BuildVariant, target: Target, lowered: list[Lowered]) -> None:
    """1-onnx, 2-graph, and of each level 3-plan and 4-tir under folder/<variant>/; the toolchain adds assembly."""
    where = folder / variant.name
    where.mkdir(parents=True, exist_ok=True)
    (where / "1-onnx.txt").write_text(onnx.printer.to_text(onnx.load(variant.onnx)))
    (where / "2-graph.txt").write_text(graph_text(variant.graph))
    for level, one in zip(target.compiled_for, lowered, strict=True):
        suffix = target.suffix(level)
        (where / f"3-plan{suffix}.txt").write_text(plan_text(variant.graph, one))
        (where / f"4-tir{suffix}.py").write_text(one.module.script())


def graph_text(graph: Graph) -> str:
    """Tensors, then nodes with their settings; arrays as shape and range."""
    lines = [f"{graph.name}: {graph.input} -> {graph.output}", ""]
    lines += [
        f"{t.name}: {list(t.shape)} {t.bits} bits, scale {t.scale!r}, zero point {t.zero_point}"
        for t in graph.tensors.values()
    ]
    for node in graph.nodes:
        lines += ["", f"{type(node).__name__} {node.name}"]
        lines += [f"    {f.name}: {_text(getattr(node, f.name))}" for f in fields(node) if f.name != "name"]
    return "\n".join(lines) + "\n"


def _text(value) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)} in {value.min()}..{value.max()}"
    if hasattr(value, "multiplier"):
        return ", ".join(f"{f.name} {getattr(value, f.name).tolist()}" for f in fields(value))
    return repr(value)


def plan_text(graph: Graph, lowered: Lowered) -> str:
    """Step by step: rule, and where its operands lie."""
    lines = [
        f"workspace {lowered.sizes.workspace} bytes, weights {lowered.sizes.weights}, table {lowered.table.nbytes}",
        "",
    ]
    rules = table_of_rules(graph, lowered)
    for call, (layer, rule, bits, work) in zip(lowered.calls, rules, strict=True):
        lines.append(
            f"{layer}: {rule} {bits} {work} MACs, reads {call.reads}, writes {call.writes}, border "
            f"{call.step.write.border}, weights at {call.weights} ({call.kernel.weights.size}), table at {call.table}"
        )
    return "\n".join(lines) + "\n"
