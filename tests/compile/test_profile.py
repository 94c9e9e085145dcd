"""Measuring what layers cost: single-layer networks, timed loops, and tables that grow."""

import json

import numpy as np
import pytest

from targets import TargetError, find
from targets.costs.shapes import Shape, layer_calls
from targets.costs.table import MEASURED, CostsError, Entry, load
from tests.support.graphs import FOREIGN_OPS, OPS, quantized_to_the_end, random_graph, resnet_like
from tests.support.layers import TEXTS, own_bits

tvm = pytest.importorskip("tvm")

from compile import profile
from compile.command_line import parse_pairs
from compile.lowering.lower import lower
from compile.settings import ProfileSettings
from compile.times import measured
from compile.times.kernel_loop import FOOTPRINT, fill_scratch, plan_scratch, table_of, timing_module
from compile.times.layer_table import NetworkCode, make_layer_table
from compile.times.machine import missing_features
from compile.times.modelled import isolate
from compile.times.single_layer import single

pytestmark = pytest.mark.slow

X86 = find("x86:avx2")
runs_here = pytest.mark.skipif(bool(missing_features(X86)), reason=f"this machine lacks {missing_features(X86)}")


@pytest.mark.parametrize("seed", range(4))
def test_layers_are_the_calls_of_a_network(seed):
    """And every layer alone is the same layer: its own shape, and the kernel rule that it has in the network."""
    for graph in (
        random_graph(seed, ops=OPS[seed::2]),
        random_graph(seed, ops=FOREIGN_OPS[seed::4], tie_free=False),
        quantized_to_the_end(seed),
        resnet_like(((8, 8), (4, 4), (2, 2)), seed),
    ):
        calls = lower(graph, X86).calls
        assert [layer.name for layer in layer_calls(graph)] == [call.name for call in calls]
        for layer, call in zip(layer_calls(graph), calls, strict=True):
            assert len(layer.shape.borders) == len(call.step.writes)
            assert Shape.parse(str(layer.shape)) == layer.shape
            one, name = single(layer.shape, layer.bits)
            assert [x.shape for x in layer_calls(one) if x.name == name] == [layer.shape]
            rule = profile.layer_call(layer.shape, layer.bits, X86).kernel.rule
            assert rule.partition(",")[0] == call.kernel.rule.partition(",")[0]


@runs_here
@pytest.mark.parametrize("text", TEXTS)
def test_loop_computes_what_the_kernel_does(text):
    """A timed loop leaves in every copy what one call of the kernel leaves; and it ran over each copy."""
    shape = Shape.parse(text)
    call = profile.layer_call(shape, own_bits(shape)[-1], X86)
    scratch, before = plan_scratch(call), fill_scratch(call)
    library = measured.Local(X86).load(timing_module([call]))
    memory, table = (tvm.runtime.tensor(a) for a in (before, table_of(call)))
    library["time_0"](memory, table, scratch.copies)
    after = memory.numpy().reshape(scratch.copies, scratch.stride)
    np.testing.assert_array_equal(after, np.broadcast_to(after[0], after.shape))
    begin = scratch.writes[0]
    np.testing.assert_array_equal(after[:, :begin], before.reshape(after.shape)[:, :begin])
    assert scratch.size == before.size <= max(scratch.stride, FOOTPRINT)
    assert all(at % 64 == 0 for at in (*scratch.reads, scratch.weights, *scratch.writes, scratch.stride))
    bits = call.step.write.tensor.bits
    out = after[0, begin : begin + call.step.write.size * (4 if bits == 32 else 1)]
    assert out.any() and (bits == 32 or out.max() <= call.step.write.tensor.qmax)


@runs_here
def test_same_code_is_timed_once(monkeypatch):
    shape = Shape.parse("conv 3x3/1 6x6x8 -> 6x6x16 border 1")
    calls = [profile.layer_call(shape, bits, X86) for bits in ("w2a2", "w2a2", "w8a8")]
    monkeypatch.setattr(measured, "_least_times", lambda distinct, *_: [float(k + 1) for k in range(len(distinct))])
    assert measured.kernel_times(calls, measured.Local(X86)) == [1.0, 1.0, 2.0]


class Clock:
    """A machine that tells the time of a layer from its rule alone, and counts what it was asked."""

    unit, name = "us", "a clock"

    def __init__(self, fail_after=10**9):
        self.asked, self.fail_after = [], fail_after

    def times(self, calls):
        if len(self.asked) + len(calls) > self.fail_after:
            raise KeyboardInterrupt
        self.asked += calls
        return [float(len(self.asked) - len(calls) + k + 1) for k in range(len(calls))]


def some_layers() -> profile.Layers:
    return profile.layers_of([resnet_like(), resnet_like(((8, 8),))], parse_pairs("2,4,w7a8"))


def test_layers_of_networks():
    wanted = some_layers()
    first = next(s for s in wanted if s.kind == "conv" and s.input[2] == 3)
    linear = next(s for s in wanted if s.kind == "linear")
    assert wanted[first] == {"w8a8"} and wanted[linear] == {"w8a8"}
    inner = next(s for s in wanted if str(s).startswith("conv 3x3/1 4x4x32 -> 4x4x32"))
    assert wanted[inner] >= {"w2a2", "w2a4", "w4a2", "w4a4", "w7a8"}
    with pytest.raises(CostsError, match="expected widths"):
        parse_pairs("4,9")


def test_interrupted_profile_goes_on(tmp_path):
    path, wanted = tmp_path / "costs.json", some_layers()
    total = sum(map(len, wanted.values()))
    with pytest.raises(KeyboardInterrupt):
        profile.measure_costs(wanted, X86, Clock(fail_after=total // 2), path)
    kept = path.read_text()
    there = sum(map(len, load(X86.name, path).entries.values()))
    assert 0 < there <= total // 2
    rest = Clock()
    costs = profile.measure_costs(wanted, X86, rest, path)
    assert len(rest.asked) == total - there
    assert {s: set(e) for s, e in costs.entries.items()} == wanted
    for shape, entries in json.loads(kept)["entries"].items():  # what was there stayed
        assert all(costs.entries[Shape.parse(shape)][b] == Entry(**e) for b, e in entries.items())
    assert profile.measure_costs(wanted, X86, Clock(fail_after=0), path) == costs
    other = {Shape.parse(TEXTS[2]): {"w8a8"}}
    again = profile.measure_costs(other, X86, Clock(), path)
    assert len(again.entries) == len(costs.entries) + 1
    anew = Clock()
    profile.measure_costs(other, X86, anew, path, again=True)
    assert len(anew.asked) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["costs.json"]


def test_table_of_another_machine_is_left_alone(tmp_path):
    path, other = tmp_path / "costs.json", Clock()
    profile.measure_costs({Shape.parse(TEXTS[1]): {"w8a8"}}, X86, other, path)
    before, other.name = path.read_text(), "another"
    with pytest.raises(CostsError, match="'a clock'"):
        profile.measure_costs({Shape.parse(TEXTS[1]): {"w4a4"}}, X86, other, path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--cpu", "99999"], "expected a processor core in 0.."),
        (["--cpu", "-1"], "expected"),
        (["--bits", "99"], "expected widths of 2..8"),
        (["--bits", "w9a8"], "expected"),
        (["--bits", ""], "expected"),
    ],
)
def test_impossible_options(capsys, words, expected):
    with pytest.raises(SystemExit):
        profile.main(["--target", "x86:avx2", *words])
    assert expected in capsys.readouterr().err and "invalid" not in capsys.readouterr().err


def test_a_place_for_the_table_is_checked_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(profile, "machine_for", lambda *_: Clock(fail_after=0))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    for path, words in (
        (tmp_path, "got a folder"),
        (tmp_path / "binary", "expected a table of costs"),
        (tmp_path / "binary" / "x", f"{tmp_path / 'binary'} is a file"),
    ):
        assert profile.main(["--target", "x86:avx2", "--out", str(path)]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["binary"]


def test_prediction_is_of_every_call(tmp_path):
    graph, path = resnet_like(), tmp_path / "c.json"
    costs = profile.measure_costs(profile.layers_of([graph]), X86, Clock(), path)
    predicted = costs.predict(graph)
    assert [name for name, _, _ in predicted] == [call.name for call in lower(graph, X86).calls]
    assert all(how == MEASURED and time > 0 for _, time, how in predicted)


def test_an_isolated_call_is_all_that_main_does():
    call = profile.layer_call(Shape.parse(TEXTS[0]), "w4a4", X86)
    single_call, sizes = isolate(call)
    assert single_call.reads == (None, None) and sizes.picture >= max(r.size for r in call.step.reads)
    first, second = call.step.writes
    assert single_call.writes[1] >= first.size and sizes.workspace >= single_call.writes[1] + second.size


def test_target_that_cannot_run_here():
    with pytest.raises(TargetError, match="--rpc"):
        profile.machine_for(find("cuda:sm_87"))
    with pytest.raises(TargetError, match="expected one of its levels.*arm:cortex-a76, arm:cortex-a72"):
        profile.machine_for(find("arm"))
    with pytest.raises(TargetError, match="HOST:PORT"):
        measured.Board(X86, "nowhere")


@runs_here
def test_table_of_layers():
    graph = resnet_like(blocks=(1,), size=8)
    code = NetworkCode(graph, X86, lower(graph, X86))
    table = make_layer_table(code)
    assert [row.layer for row in table.rows] == [call.name for call in code.lowered.calls]
    assert all(row.measured > 0 for row in table.rows) and table.measured > 0 and table.levels == ("x86:avx2",)
    quiet = make_layer_table(code, measure=False)
    assert all(row.measured is None for row in quiet.rows) and quiet.measured is None


@runs_here
def test_command(tmp_path, capsys, monkeypatch):
    out = tmp_path / "c.json"
    monkeypatch.setattr(profile, "known_layers", lambda: {Shape.parse(TEXTS[3]): {"w8a8"}})
    assert profile.main(["--target", "x86:avx2", "--out", str(out)]) == 0
    costs = load("x86:avx2", out)
    assert costs.unit == "us" and costs.entries[Shape.parse(TEXTS[3])]["w8a8"].time > 0
    assert profile.main(["--target", "x86:avx2", "--out", str(out), str(tmp_path / "absent.onnx")]) == 2
    assert "expected a run folder" in capsys.readouterr().err


def test_profile_from_python(tmp_path, monkeypatch):
    """The layers of a network at their own bits, kept in the file that the settings name."""
    monkeypatch.setattr(profile, "machine_for", lambda *_: Clock())
    settings = ProfileSettings(X86, out=tmp_path / "c.json")
    costs = profile.profile_layers({Shape.parse(TEXTS[3]): {"w8a8"}}, settings)
    assert costs == load("x86:avx2", tmp_path / "c.json") and costs.machine == "a clock"
