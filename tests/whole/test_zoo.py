"""The trained runs that lie in the repository: whole, exact, good for compiling without any training."""

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
from compile.source.run_folder import read_golden, read_run
from runtime import Engine
from runtime.choice.selector import Selector
from targets import find
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Conv
from train.evidence.results import read_results, write_results
from train.network.architectures import architecture

pytestmark = [pytest.mark.slow, pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86 machine")]
ZOO = Path(__file__).parents[2] / "train" / "zoo"
RUNS = sorted(path.parent for path in ZOO.glob("*/run.json"))


def test_there_are_runs():
    assert {"resnet8", "resnet20"} <= {run.name for run in RUNS}
    assert sum(p.stat().st_size for p in ZOO.rglob("*")) < 16e6


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_a_run_is_whole_and_its_golden_data_are_the_reference_s(folder):
    run = read_run(folder)
    golden = read_golden(folder, run)
    Selector.from_dict(run.choice.selector)
    assert len(run.labels) == 10 and run.stored.weights > 0
    for variant in run.variants[:4]:
        graph = load(folder / variant.onnx)
        assert graph.bit_config() == variant.facts.bits
        assert np.array_equal(interpreter.run(graph, golden.pictures[:2]), golden.logits[variant.name][:2])


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_a_run_is_written_as_it_was_read(folder, tmp_path):
    read_run(folder).write(tmp_path)
    write_results(tmp_path, read_results(folder))
    for name in ("run.json", "results.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_private_variants_have_the_integer_weights_of_their_base(folder):
    """But for both ends, and for a channel of next to no gain, whose codes lowering makes smaller as a whole."""
    run = read_run(folder)
    ends = {layer.name for layer in architecture(run.arch, run.shape, len(run.labels)).ends}
    graphs = {v.name: load(folder / v.onnx) for v in run.variants}
    channels = shrunk = 0
    for v in (v for v in run.variants if v.base):
        for private, base in zip(graphs[v.name].nodes, graphs[v.base].nodes, strict=True):
            if private.name in ends:
                assert not np.array_equal(private.weight, base.weight), (v.name, private.name)
                continue
            if not isinstance(private, Conv):
                continue
            for a, b in zip(private.weight.astype(np.int64), base.weight.astype(np.int64), strict=True):
                channels += 1
                shrunk += (a != b).any()
                assert (abs(a) <= abs(b)).all() or (abs(b) <= abs(a)).all(), (v.name, private.name)
    assert channels > 1000 and shrunk < channels / 50


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_results_have_all_arms_on_all_views(folder):
    run, results = read_run(folder), read_results(folder)
    views = {(r.family, r.severity) for r in results}
    arms = {r.key for r in results}
    assert {(run.method, v.name) for v in run.variants} <= arms
    assert {"fp32", "static", "private", "cascade", "adaptive", "random", "shuffled", "oracle"} <= {a for a, _ in arms}
    assert len(results) == len(views) * len(arms) and all(r.stderr >= 0 and r.seed >= 0 for r in results)
    for v in run.variants:
        clean = next(r for r in results if r.key == (run.method, v.name) and r.family == "clean")
        assert v.facts.accuracy["clean"] == clean.correct / clean.pictures


def test_variants_of_the_zoo_compile_and_run(tmp_path):
    folder = ZOO / "resnet8"
    run = read_run(folder)
    golden = read_golden(folder, run)
    names = [next(v.name for v in run.variants if v.base == "w4a4"), "w4a4", "w2a2"]
    files = tuple(folder / f"{name}.onnx" for name in names)
    build(BuildSettings(find("x86:avx2"), files, tmp_path / "bundle", golden=1, times=False))
    with Engine(tmp_path / "bundle") as engine:
        for name in names:
            logits = [engine.infer(picture, variant=name).logits for picture in golden.pictures[:8]]
            assert np.array_equal(logits, golden.logits[name][:8])


def test_private_variants_run_the_code_of_their_base_on_x86():
    """But for what is proved from the weights of their own ends: how long a chain of products may grow."""
    folder = ZOO / "resnet8"
    run = read_run(folder)
    base = load(folder / "w4a4.onnx")
    ends = {layer.name for layer in architecture(run.arch, run.shape, len(run.labels)).ends}
    private = [load(folder / v.onnx) for v in run.variants if v.base == "w4a4"]
    own = {lowered_code(graph) for graph in private}
    same = {lowered_code(graph) for graph in (base, *(with_weights_of(graph, base, ends) for graph in private))}
    assert len(private) > 4 and len(same) == 1 and len(own) <= len(private) // 2


def with_weights_of(graph: Graph, base: Graph, layers: set[str]) -> Graph:
    """The graph with the weights that another one has in some layers."""
    nodes = [
        replace(node, weight=other.weight) if node.name in layers else node
        for node, other in zip(graph.nodes, base.nodes, strict=True)
    ]
    return replace(graph, nodes=tuple(nodes))


def lowered_code(graph: Graph) -> StructuralKey:
    return StructuralKey(lower(graph, find("x86:avx2")).module)
