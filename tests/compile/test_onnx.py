"""Contract 1: the ONNX file brings every integer back, and its float inference equals the integers."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from compile.qdq.importer import OnnxError, from_model, load
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Conv, Rescale, Tensor
from targets.reference.scales import conv_requant, rescale_requant
from tests.support.graphs import OPS, pictures, random_graph, resnet_like
from tests.support.onnx_ladder import LEVELS, session
from tests.support.runs import run_record
from train.integers.export import ExportError, difference, export_run, to_onnx

seeds = st.integers(0, 2**32 - 1)


def differing(graph: Graph, x: np.ndarray, level=LEVELS[1]) -> int:
    """Logits of float inference that are not the reference's."""
    floats = session(to_onnx(graph), level).run(None, {graph.input: x})[0]
    return int((np.rint(floats / np.float64(graph.tensors[graph.output].scale)) != interpreter.run(graph, x)).sum())


@settings(max_examples=60, deadline=None)
@given(seeds, st.booleans(), st.booleans())
def test_round_trip_is_exact(seed, tie_free, extreme):
    graph = random_graph(seed, tie_free=tie_free, extreme=extreme)
    assert difference(graph, from_model(onnx.load_from_string(to_onnx(graph).SerializeToString()))) is None


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_node_in_every_width(op, bits):
    graph = random_graph(bits, ops=[op], widths=[bits])
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert difference(graph, from_model(model)) is None
    assert [differing(graph, pictures(graph, 8, bits), level) for level in LEVELS] == [0, 0]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seeds)
def test_onnxruntime_equals_the_integers(seed):
    graph = random_graph(seed)
    assert [differing(graph, pictures(graph, 8, seed), level) for level in LEVELS] == [0, 0]


@pytest.mark.parametrize("bits", [[(8, 8)], [(4, 4)], [(2, 2)], [(3, 5), (6, 7)], [(4, 8), (8, 2), (2, 4)]])
def test_resnet_equals_the_integers(bits):
    graph = resnet_like(bits, seed=3)
    assert difference(graph, from_model(to_onnx(graph))) is None
    assert differing(graph, pictures(graph, 32, 1)) == 0


def test_file_size_falls_with_the_bits():
    size = {b: len(to_onnx(resnet_like([(b, 8)], width=32)).SerializeToString()) for b in range(2, 9)}
    weights = sum(c.weight.size for c in resnet_like(width=32).convs()[1:-1])
    assert size[2] < size[4] < size[8]
    assert abs(size[8] - size[4] - weights / 2) < 4000 and abs(size[4] - size[2] - weights / 4) < 4000
    assert abs(size[3] - size[4]) < 4000 and abs(size[5] - size[8]) < 4000  # held in the next type, told by a Clip


def test_types_and_opsets_are_the_oldest_that_suffice():
    def types(model):
        return {t.data_type for t in model.graph.initializer}

    four, two = to_onnx(resnet_like([(4, 4)])), to_onnx(resnet_like([(2, 2)]))
    assert (four.opset_import[0].version, four.ir_version) == (21, 10)
    assert (two.opset_import[0].version, two.ir_version) == (25, 13)
    assert {TensorProto.INT4, TensorProto.UINT4} <= types(four) and {TensorProto.INT2, TensorProto.UINT2} <= types(two)


def test_bytes_are_deterministic_and_metadata_is_kept():
    first, second = (to_onnx(resnet_like(), {"labels": ["a", "b"]}) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert {p.key: p.value for p in first.metadata_props} == {"bitgrade.format": "1", "bitgrade.labels": '["a", "b"]'}


def test_integers_that_do_not_follow_from_scales_are_refused():
    graph = resnet_like()
    conv = graph.nodes[0]
    requant = replace(conv.requant, multiplier=conv.requant.multiplier ^ 1)
    with pytest.raises(ExportError, match="conv1.*requant.multiplier"):
        to_onnx(replace(graph, nodes=(replace(conv, requant=requant), *graph.nodes[1:])))
    image = replace(graph.tensors["image"], scale=0.1)
    with pytest.raises(ExportError, match="image.*float32"):
        to_onnx(replace(graph, tensors={**graph.tensors, "image": image}))


def test_codes_as_output():
    """A quantized output: the logits are its codes."""
    graph = resnet_like()
    last = graph.nodes[-2].output
    cut = replace(
        graph, nodes=graph.nodes[:-1], tensors={k: t for k, t in graph.tensors.items() if k != "logits"}, output=last
    )
    assert difference(cut, from_model(to_onnx(cut))) is None
    assert differing(cut, pictures(cut, 8, 0)) == 0


def test_export_run(tmp_path):
    graphs = {"a": resnet_like([(8, 8)]), "b": resnet_like([(2, 3)])}
    golden = pictures(graphs["a"], 5, 0)
    run = run_record(graphs, accuracy={"clean": 0.5}, cost=None)
    export_run(tmp_path, graphs, run, golden)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    export_run(tmp_path, graphs, run, golden)
    assert first == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(first) == {"a.onnx", "b.onnx", "golden.npz", "run.json"}
    written = json.loads(first["run.json"])
    assert (written["format"], written["input"], written["golden"]) == (1, {"shape": [16, 16, 3]}, "golden.npz")
    a, b = written["variants"]
    assert (
        a["cost"] == 1.0
        and a["accuracy"] == {"clean": 0.5}
        and b["bits"]["layer1.0.conv1"] == [2, 3]
        and b["bitops"] < a["bitops"]
    )
    stored = np.load(tmp_path / "golden.npz")
    for v in written["variants"]:
        assert (interpreter.run(load(tmp_path / v["onnx"]), stored["images"]) == stored[f"logits_{v['name']}"]).all()
    with pytest.raises(ExportError, match="variant"):
        export_run(tmp_path, {"a": graphs["a"]}, run, golden)


def _damage(rng, data: bytes) -> bytes:
    """Truncated, overwritten in places, or with a stretch cut out."""
    kind, at = rng.integers(3), int(rng.integers(1, len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        changed = bytearray(data)
        for k in rng.integers(0, len(data), 1 + int(rng.integers(20))):
            changed[k] = rng.integers(256)
        return bytes(changed)
    return data[:at] + data[at + 1 + int(rng.integers(40)) :]


def _taken_or_refused(path) -> bool:
    try:
        load(path)
    except OnnxError as error:
        assert str(error)
        return False
    return True


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # damaged scales overflow on their way to an error
def test_damaged_bytes_never_raise_anything_else(tmp_path, seed):
    rng, path = np.random.default_rng(seed), tmp_path / "net.onnx"
    small = random_graph(seed, size=(5, 5), widths=[2, 3, 4])
    data = to_onnx(small).SerializeToString()
    taken = 0
    for _ in range(80):
        path.write_bytes(_damage(rng, data))
        taken += _taken_or_refused(path)
    assert taken < 80


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damaged_structure_never_raises_anything_else(tmp_path, seed):
    """Missing, exchanged and repeated nodes, inputs, initializers, attributes and types."""
    rng, whole = np.random.default_rng(seed), to_onnx(random_graph(seed, ops=OPS, size=(7, 7)))
    for _ in range(80):
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        nodes, weights = model.graph.node, model.graph.initializer
        a, b = (nodes[int(k)] for k in rng.integers(0, len(nodes), 2))
        kind = int(rng.integers(8))
        if kind == 0:
            nodes.remove(a)
        elif kind == 1:
            a.input[int(rng.integers(len(a.input)))] = b.output[0]  # a cycle, or a wrong operand
        elif kind == 2:
            a.op_type = b.op_type
        elif kind == 3:
            del weights[int(rng.integers(len(weights)))]
        elif kind == 4:
            weights[int(rng.integers(len(weights)))].data_type = int(rng.integers(1, 27))
        elif kind == 5:
            weights[int(rng.integers(len(weights)))].dims.insert(0, int(rng.integers(0, 3)))
        elif kind == 6:
            del a.attribute[:]
            del a.input[1:]
        else:
            a.output[0] = b.output[0]
            del a.attribute[:]
        path = tmp_path / "net.onnx"
        path.write_bytes(model.SerializeToString())
        _taken_or_refused(path)


def test_errors_name_the_node_and_the_way_out():
    model = to_onnx(resnet_like())
    conv = next(n for n in model.graph.node if n.name == "layer1.0.conv1")
    conv.op_type = "ConvTranspose"
    with pytest.raises(
        OnnxError, match=r"layer1.0.conv1 \(ConvTranspose\): expected one of .* got ConvTranspose; rewrite"
    ):
        from_model(model)
    with pytest.raises(OnnxError, match="cannot be read"):
        load("no/such/file.onnx")


def test_rescale_between_equal_scales_stays_a_node():
    tensors = {n: Tensor(n, (1, 1, 3), 8, 0.5) for n in ("image", "a", "b")}
    conv = Conv(
        "c",
        "image",
        "a",
        np.ones((3, 1, 1, 3), np.int8),
        2,
        np.zeros(3, np.int64),
        np.full(3, 0.25, np.float32),
        conv_requant(0.5, np.full(3, 0.25, np.float32), 0.5),
    )
    graph = Graph("g", tensors, (conv, Rescale("r", "a", "b", rescale_requant(0.5, 0.5))), "image", "b")
    assert difference(graph, from_model(to_onnx(graph))) is None
