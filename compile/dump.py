"""Readable files of every stage of a build, for `--dump DIR`.

DIR/<variant>/   0-calibration.json (of float files)
                 1-onnx.txt or 1-tflite.txt  2-graph.txt  3-plan*.txt  4-tir*.py  (objects and assembly)  5-times.json
DIR/             6-verification.txt
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compile.calibrate.report import CalibrationReport
from compile.lowering.lower import Lowered, table_of_rules
from compile.source.opened import BuildVariant
from compile.tflite.file import read_file
from targets import Target
from targets.reference.graph import Graph
from targets.reference.nodes import Requant


def dump_calibration(folder: Path, variant: str, report: CalibrationReport) -> None:
    """Writes what came of a calibration, as JSON."""
    place = folder / variant
    place.mkdir(parents=True, exist_ok=True)
    (place / "0-calibration.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")


def dump_graph(folder: Path, variant: BuildVariant) -> None:
    """Writes what was read: the ONNX or TFLite file as text, and the integer graph."""
    place = _place(folder, variant)
    if variant.onnx.suffix == ".onnx":
        (place / "1-onnx.txt").write_text(onnx.printer.to_text(onnx.load(variant.onnx)))
    else:
        (place / "1-tflite.txt").write_text(read_file(variant.onnx).to_text())
    (place / "2-graph.txt").write_text(graph_text(variant.graph))


def dump_kernels(folder: Path, variant: BuildVariant, target: Target, lowered: Sequence[Lowered]) -> None:
    """Writes what was lowered for each level of the target: where everything lies, and the TIR module."""
    place = _place(folder, variant)
    for level, one in zip(target.compiled_for, lowered, strict=True):
        suffix = target.suffix(level)
        (place / f"3-plan{suffix}.txt").write_text(plan_text(variant.graph, one))
        (place / f"4-tir{suffix}.py").write_text(one.module.script())


def dump_times(folder: Path, variant: BuildVariant, tables: Sequence[dict[str, Any]]) -> None:
    """Writes a variant's tables of layers, as JSON objects."""
    (_place(folder, variant) / "5-times.json").write_text(json.dumps(list(tables), indent=1))


def dump_verification(folder: Path, lines: Sequence[str]) -> None:
    """Writes the ladder, a line for each rung."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "6-verification.txt").write_text("\n".join(lines) + "\n")


def graph_text(graph: Graph) -> str:
    """Returns tensors, then nodes with their settings; arrays as shape and range."""
    lines = [f"{graph.name}: {graph.input} -> {graph.output}", ""]
    lines += [
        f"{t.name}: {list(t.shape)} {t.bits} bits, scale {t.scale!r}, zero point {t.zero_point}"
        for t in graph.tensors.values()
    ]
    for node in graph.nodes:
        lines += ["", f"{type(node).__name__} {node.name}"]
        lines += [f"    {f.name}: {_text(getattr(node, f.name))}" for f in fields(node) if f.name != "name"]
    return "\n".join(lines) + "\n"


def plan_text(graph: Graph, lowered: Lowered) -> str:
    """Returns a line for each kernel: its rule, and where its operands lie."""
    sizes = lowered.sizes
    lines = [f"workspace {sizes.workspace} bytes, weights {sizes.weights}, table {lowered.table.nbytes}", ""]
    for call, (layer, rule, bits, macs) in zip(lowered.calls, table_of_rules(graph, lowered), strict=True):
        lines.append(
            f"{layer}: {rule} {bits} {macs} MACs, reads {call.reads}, writes {call.writes}, border "
            f"{call.step.write.border}, weights at {call.weights} ({call.kernel.weights.size}), table at {call.table}"
        )
    return "\n".join(lines) + "\n"


def _place(folder: Path, variant: BuildVariant) -> Path:
    place = folder / variant.name
    place.mkdir(parents=True, exist_ok=True)
    return place


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)} in {value.min()}..{value.max()}"
    if isinstance(value, Requant):
        return ", ".join(f"{f.name} {getattr(value, f.name).tolist()}" for f in fields(value))
    return repr(value)
