"""The trained runs that lie in the repository: whole, exact, good for compiling without any training."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tvm_ffi import StructuralKey

from compile.build import build
from compile.lowering.lower import lower
from compile.qdq.importer import load
from compile.settings import BuildSettings
from runtime import Engine
from runtime.choice.selector import Selector
from targets import find
from targets.reference import interpreter
from train.network.architectures import architecture

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86 machine")
ZOO = Path(__file__).parents[2] / "train" / "zoo"
RUNS = sorted(path.parent for path in ZOO.glob("*/run.json"))


def about_golden(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["golden"]


def test_there_are_runs():
    assert {"resnet8", "resnet20"} <= {run.name for run in RUNS}
    assert sum(p.stat().st_size for p in ZOO.rglob("*")) < 16e6


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_run_is_whole_and_its_golden_data_are_the_reference_s(run):
    about, golden = json.loads((run / "run.json").read_text()), np.load(run / about_golden(run))
    Selector.from_dict(about["selector"])
    assert len(about["labels"]) == 10 and about["bytes"]["weights"] > 0
    for variant in about["variants"][:4]:
        graph = load(run / variant["onnx"])
        assert {k: list(v) for k, v in graph.bit_config().items()} == variant["bits"]
        assert np.array_equal(interpreter.run(graph, golden["images"][:2]), golden[f"logits_{variant['name']}"][:2])


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_private_variants_have_the_integer_weights_of_their_base(run):
    """But for both ends, and for a channel of next to no gain, whose codes lowering makes smaller as a whole."""
    about = json.loads((run / "run.json").read_text())
    ends, variants = architecture(about["arch"], (32, 32, 3), 10).ends, about["variants"]
    graphs, channels, shrunk = {v["name"]: load(run / v["onnx"]) for v in variants}, 0, 0
    for v in (v for v in variants if v["base"]):
        for mine, base in zip(graphs[v["name"]].nodes, graphs[v["base"]].nodes, strict=True):
            if mine.name in {layer.name for layer in ends}:
                assert not np.array_equal(mine.weight, base.weight), (v["name"], mine.name)
                continue
            for a, b in zip(getattr(mine, "weight", ()), getattr(base, "weight", ()), strict=True):
                channels, shrunk, (a, b) = channels + 1, shrunk + (a != b).any(), np.abs([a, b], dtype=np.int64)
                assert (a <= b).all() or (b <= a).all(), (v["name"], mine.name)
    assert channels > 1000 and shrunk < channels / 50


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_results_have_all_arms_on_all_views(run):
    about, records = json.loads((run / "run.json").read_text()), json.loads((run / "results.json").read_text())
    places = {(r["family"], r["severity"]) for r in records}
    arms = {(r["arm"], r["variant"]) for r in records}
    assert {(about["method"], v["name"]) for v in about["variants"]} <= arms
    assert {"fp32", "static", "private", "cascade", "adaptive", "random", "shuffled", "oracle"} <= {a for a, _ in arms}
    assert len(records) == len(places) * len(arms) and all(r["stderr"] >= 0 and "seed" in r for r in records)
    for v in about["variants"]:
        mine = [r for r in records if r["variant"] == v["name"] and r["arm"] == about["method"]]
        clean = next(r for r in mine if r["family"] == "clean")
        assert v["accuracy"]["clean"] == clean["correct"] / clean["pictures"]


def test_variants_of_the_zoo_compile_and_run(tmp_path):
    run = ZOO / "resnet8"
    about, golden = json.loads((run / "run.json").read_text()), np.load(run / about_golden(run))
    names = [next(v["name"] for v in about["variants"] if v["base"] == "w4a4"), "w4a4", "w2a2"]
    files = tuple(run / f"{name}.onnx" for name in names)
    build(BuildSettings(find("x86:avx2"), files, tmp_path / "bundle", golden=1, times=False))
    with Engine(tmp_path / "bundle") as engine:
        for name in names:
            found = [engine.infer(picture, variant=name).logits for picture in golden["images"][:8]]
            assert np.array_equal(found, golden[f"logits_{name}"][:8])


def test_private_variants_run_the_code_of_their_base_on_x86():
    """But for what is proved from the weights of their own ends: how long a chain of products may grow."""
    run = ZOO / "resnet8"
    about = json.loads((run / "run.json").read_text())
    base = load(run / next(v["onnx"] for v in about["variants"] if v["name"] == "w4a4"))
    ends = {layer.name for layer in architecture(about["arch"], (32, 32, 3), 10).ends}
    private = [load(run / v["onnx"]) for v in about["variants"] if v["base"] == "w4a4"]
    alike = [
        replace(
            graph,
            nodes=tuple(
                replace(mine, weight=its.weight) if mine.name in ends else mine
                for mine, its in zip(graph.nodes, base.nodes, strict=True)
            ),
        )
        for graph in private
    ]
    own, same = (
        {StructuralKey(lower(graph, find("x86:avx2")).module) for graph in graphs}
        for graphs in (private, [base, *alike])
    )
    assert len(private) > 4 and len(same) == 1 and len(own) <= len(private) // 2
