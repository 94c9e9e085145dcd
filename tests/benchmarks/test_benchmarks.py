"""Latency benchmark: its networks are exact in every width, peers run the same network, and records say what ran."""

import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest

from benchmarks import latency
from benchmarks.networks import random_networks
from benchmarks.peers import engines, float_network
from compile import verify
from compile.build import build
from compile.settings import BuildSettings
from compile.source.opened import open_source
from runtime import open_bundle
from targets import find
from targets.reference import interpreter
from targets.reference.nodes import Conv, Rescale
from train.integers.evaluate import evaluate

pytestmark = pytest.mark.slow

SIDES = {"resnet8": 32, "resnet20": 32, "resnet18": 64, "mobilenetv2": 64}
FIELDS = {"network", "engine", "bits", "threads", "ms", "exact", "difference"}
CASES = [(name, bits) for name in SIDES for bits in random_networks.BITS] + [
    ("mobilenetv2", "w4a4-dw8"),
    ("resnet8", "w3a5"),
]


@pytest.fixture(scope="module")
def graphs():
    return {case: random_networks.NETWORKS[case[0]].graph(case[1], SIDES[case[0]]) for case in CASES}


@pytest.mark.parametrize("name, bits", CASES)
def test_widths(graphs, name, bits):
    graph = graphs[name, bits]
    widths = list(graph.bit_config().values())
    assert widths[0] == widths[-1] == (8, 8)
    inner = {n.name: graph.bit_config()[n.name] for n in graph.convs()[1:-1]}
    depthwise = {n.name for n in graph.convs() if n.groups > 1}
    if bits == "mixed":
        assert set(inner.values()) == {(8, 8), (4, 4), (2, 2)}
    else:
        plain, _, special = bits.partition("-dw")
        expected = (int(plain[1]), int(plain[3]))
        for layer, pair in inner.items():
            assert pair == ((8, 8) if special and layer in depthwise else expected), layer
    for conv in graph.convs():  # and the declared width is really used
        half = 1 << (conv.w_bits - 1)
        assert np.abs(conv.weight.astype(int)).max() > half / 2 or conv.weight.size < 200
    for node in graph.nodes:
        if isinstance(node, Conv) and node.skip is not None:
            assert graph.tensors[node.output].bits == graph.tensors[node.skip].bits == 8
        assert not isinstance(node, Rescale) or graph.tensors[node.output].bits < 8


@pytest.mark.parametrize("name, bits", CASES)
def test_codes_spread_over_their_range(graphs, name, bits):
    """On a picture that calibration has not seen: no tensor is dead or clipped flat."""
    graph = graphs[name, bits]
    picture = random_networks.clouds(graph.tensors["image"].shape, 1, 77)
    logits, values = interpreter.run_all(graph, picture)
    np.testing.assert_array_equal(logits, evaluate(graph, picture))
    for node in graph.nodes[:-1]:
        tensor, codes = graph.tensors[node.output], values[node.output]
        if codes.size >= 4096:
            shares = np.bincount(codes.reshape(-1), minlength=1 << tensor.bits) / codes.size
            assert shares.max() < 0.9 and shares[-1] < 0.3, node.name
            assert (shares > 0).sum() >= min(100, tensor.qmax + 1), node.name


@pytest.mark.parametrize("name", SIDES)
def test_float_inference_equals_the_integers(tmp_path, name):
    """Ratios are tie-free as training's: onnxruntime, unoptimized, gives the reference's logits from the QDQ file."""
    bits = ["w8a8", "mixed"]
    source = open_source([random_networks.write_run(tmp_path / name, name, bits, SIDES[name])])
    for variant in source.variants:
        got = verify.file_logits(variant, source.pictures[:1])
        np.testing.assert_array_equal(got, interpreter.run(variant.graph, source.pictures[:1]))


def test_mixed_has_more_bits_at_both_ends():
    for count in (9, 16, 51):
        bits = [random_networks.mixed(i, count) for i in range(count)]
        quarter = count // 4
        assert min(bits[:quarter] + bits[-quarter:]) == 4 and set(bits[quarter + 1 : -quarter - 1]) == {4, 2}


@pytest.mark.parametrize("name", ["w9a8", "w1a1", "int8", "w4a4-dw", "mixed8", ""])
def test_other_bits_are_refused(name):
    with pytest.raises(ValueError, match="expected bits among w8a8"):
        random_networks.WidthPattern(name)


def test_peers_get_the_same_network_from_any_variant(graphs, tmp_path):
    """No quantizers are left, and nothing of the Rescales either."""
    folder = random_networks.write_run(tmp_path / "run", "mobilenetv2", ["w8a8", "w3a4", "w2a2"], 64)
    ops = []
    for bits in ("w8a8", "w3a4", "w2a2"):
        model = onnx.load(folder / f"{bits}.onnx")
        before = model.SerializeToString()
        network = float_network.float_network(model)
        onnx.checker.check_model(network, full_check=True)
        assert model.SerializeToString() == before
        ops.append(Counter(node.op_type for node in network.graph.node))
    assert ops[0] == ops[1] == ops[2]
    assert not {"QuantizeLinear", "DequantizeLinear", "Clip"} & set(ops[0])
    assert ops[0]["Conv"] + ops[0]["Gemm"] == len(graphs["mobilenetv2", "w8a8"].convs())


def test_float_network_computes_what_the_integers_approximate(tmp_path):
    folder = random_networks.write_run(tmp_path / "run", "resnet8", ["w8a8"])
    model, source = onnx.load(folder / "w8a8.onnx"), open_source([folder])
    onnx.save(float_network.float_network(model), tmp_path / "fp32.onnx")
    floats = float_network.as_floats(model, source.pictures)
    logits = source.variants[0].logits * source.variants[0].graph.tensors["logits"].scale
    got = engines.run_all(engines.run_onnxruntime(tmp_path / "fp32.onnx", 1), floats)
    assert engines.largest_difference(got, logits) < 0.1  # rounding to 8 bits, ten layers deep
    assert engines.largest_difference(got, np.roll(logits, 1, axis=1)) > 0.5


def test_records_of_a_network(tmp_path, capsys):
    words = ["--networks", "resnet8", "--bits", "w4a4,mixed", "--calls", "2", "--json", str(tmp_path / "l.json")]
    assert latency.main(words) == 0
    records = json.loads((tmp_path / "l.json").read_text())
    openvino = [("openvino", "fp32"), ("openvino", "int8")] * (not engines.missing_packages())
    ran = [(r["engine"], r["bits"]) for r in records]
    assert ran == [
        ("bitgrade", "w4a4"),
        ("bitgrade", "mixed"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8-u8s8"),
        ("onnxruntime", "int8-u8u8"),
        *openvino,
    ]
    assert all(set(r) == FIELDS and r["network"] == "resnet8" and r["threads"] == 1 and r["ms"] > 0 for r in records)
    assert all(r["exact"] and r["difference"] == 0 for r in records if r["engine"] == "bitgrade")
    assert all(r["exact"] for r in records if r["bits"] == "fp32") and all(r["difference"] < 0.5 for r in records)
    assert "of the best int8 peer" in capsys.readouterr().out


def test_records_of_a_bundle_where_openvino_is_not_installed(tmp_path, capsys, monkeypatch):
    run = random_networks.write_run(tmp_path / "own", "resnet8", ["w8a8"])
    bundle = build(BuildSettings(find("x86"), (run,), tmp_path / "bundle")).bundle
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    capsys.readouterr()
    words = ["--bundle", str(bundle), "--threads", "1,2", "--calls", "2", "--json", str(tmp_path / "l.json")]
    assert latency.main(words) == 0
    out, records = capsys.readouterr().out, json.loads((tmp_path / "l.json").read_text())
    assert "openvino is not installed" in out and "nncf is not installed" in out
    peers = [(r["engine"], r["threads"]) for r in records if r["engine"] != "bitgrade"]
    assert peers == [("onnxruntime", 1)] * 3 + [("onnxruntime", 2)] * 3
    own = [r["threads"] for r in records if r["engine"] == "bitgrade"]
    assert own == [1, 2]


def test_threads_are_handed_on(small_bundle, monkeypatch):
    asked = []

    class Threaded(latency.Loaded):
        def __init__(self, bundle, variants, threads):
            asked.append(threads)
            super().__init__(bundle, variants)

    monkeypatch.setattr(latency, "Loaded", Threaded)
    records = [contender.record for contender in latency.own_contenders(open_bundle(small_bundle), 3)]
    assert asked == [3] and [r.threads for r in records] == [3, 3, 3] and all(r.exact for r in records)


def test_wrong_answers_are_not_exact(small_bundle, monkeypatch):
    class Wrong(latency.Loaded):
        def run(self, name, picture):
            logits = super().run(name, picture)
            logits[3] += name == "w4a4"
            return logits

    monkeypatch.setattr(latency, "Loaded", Wrong)
    records = [contender.record for contender in latency.own_contenders(open_bundle(small_bundle), 1)]
    exact = {record.bits: record.exact for record in records}
    assert exact == {"w8a8": True, "w4a4": False, "again": True}


@pytest.mark.parametrize("calls, expected", [(1, 12), (12, 12), (25, 36)])
def test_calls_take_turns_in_bursts(calls, expected):
    order = []
    blank = latency.LatencyRecord("network", "engine", "", 1, True, 0.0)
    contenders = [latency.Contender(replace(blank, bits=k), partial(order.append, k)) for k in "ab"]
    records = latency.time_contenders(contenders, calls)
    assert order == (["a"] * latency.BURST + ["b"] * latency.BURST) * (expected // latency.BURST)
    assert [r.bits for r in records] == ["a", "b"] and all(r.ms > 0 for r in records)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--networks vgg", "expected some of resnet8"),
        ("--threads 0", "numbers of at least 1"),
        ("--networks resnet8 --bits w9a9", "expected bits among"),
        ("--networks resnet8 --target z80", "there is no target"),
        ("--networks resnet8 --avx2 --target x86:avx-vnni", "to need AVX2 alone.* avx_vnni"),
        ("--networks resnet8 --avx2 --target x86", "to need AVX2 alone, x86:avx512-vnni needs avx512"),
    ],
)
def test_errors(words, message, capsys):
    try:
        status = latency.main(words.split())
    except SystemExit as ended:
        status = ended.code
    error = capsys.readouterr().err
    assert status == 2 and re.search(message, error), error
    assert error.count("\n") == 1


def test_a_bundle_that_needs_more_than_avx2_is_refused(small_bundle, monkeypatch, capsys):
    monkeypatch.setattr(latency.avx2, "run_held_to_avx2", lambda *_: pytest.fail("it ran"))
    level = open_bundle(small_bundle).level()
    if "avx512f" not in level.requires:
        pytest.skip(f"the best level that runs here is {level.name}")
    assert latency.main(["--avx2", "--bundle", str(small_bundle)]) == 2
    assert f"{small_bundle} needs avx512" in capsys.readouterr().err
