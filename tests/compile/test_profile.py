"""Costs of layers: shapes, single-layer networks, timing, tables and what they predict."""

import json

import numpy as np
import pytest

from targets import TargetError, find
from targets.costs.shapes import Shape, ShapeError, format_bits, layer_calls, parse_bits
from targets.costs.table import INTERPOLATED, MEASURED, Costs, CostsError, Entry, fit, load, path_of
from tests.support.graphs import OPS, quantized_to_the_end, random_graph, resnet_like

tvm = pytest.importorskip("tvm")

from compile import profile
from compile.lowering.lower import lower
from compile.times import measured
from compile.times.layer_table import report
from compile.times.modelled import alone
from compile.times.single_layer import single

TEXTS = (
    "conv 3x3/2 32x32x16 -> 16x16x32 skip border 0+1",
    "depthwise 3x3/1 12x12x48 -> 12x12x48",
    "grouped:4 3x3/1 9x7x16 -> 9x7x20 border 2",
    "linear 1x1/1 1x1x64 -> 1x1x10",
    "add 1x1/1 5x6x17 -> 5x6x17 border 1+0",
    "average-pool 4x5/1 4x5x24 -> 1x1x24",
    "max-pool 3x3/2 9x9x8 -> 5x5x8",
    "shortcut 1x1/2 8x8x8 -> 4x4x16",
    "rescale 1x1/1 6x6x8 -> 6x6x8 border 1",
    "picture 1x1/1 9x9x3 -> 9x9x3 border 1",
    "logits 1x1/1 1x1x10 -> 1x1x10",
)
X86 = find("x86:avx2")
runs_here = pytest.mark.skipif(bool(measured.missing(X86)), reason=f"this machine lacks {measured.missing(X86)}")


def own_bits(shape: Shape) -> list[str]:
    convolution = shape.kind in ("conv", "depthwise", "grouped", "linear")
    return ["w8a8", "w4a4", "w2a8"] if convolution else ["a8", "a4"]


@pytest.mark.parametrize("text", TEXTS)
def test_shape_and_text(text):
    assert str(Shape.parse(text)) == text


@pytest.mark.parametrize("text", ["conv 3x3 8x8x8 -> 8x8x8", "conv 3x3/1 8x8 -> 8x8", "", f"{TEXTS[1]} skip "])
def test_text_that_is_no_shape(text):
    with pytest.raises(ShapeError, match="expected a shape"):
        Shape.parse(text)


def test_bits_and_text():
    for pair in ((8, 8), (2, 4), (None, 4)):
        assert parse_bits(format_bits(*pair)) == pair
    for text in ("w9a8", "w4", "4", "a1"):
        with pytest.raises(ShapeError, match="expected bits"):
            parse_bits(text)


@pytest.mark.parametrize("seed", range(4))
def test_layers_are_the_calls_of_a_network(seed):
    """And every layer alone is the same layer: its own shape, and the kernel rule that it has in the network."""
    for graph in (
        random_graph(seed, ops=OPS[seed::2]),
        quantized_to_the_end(seed),
        resnet_like(((8, 8), (4, 4), (2, 2)), seed),
    ):
        calls, found = lower(graph, X86).calls, layer_calls(graph)
        assert [layer.name for layer in found] == [call.name for call in calls]
        for layer, call in zip(found, calls, strict=True):
            assert len(layer.shape.borders) == len(call.step.writes)
            assert Shape.parse(str(layer.shape)) == layer.shape
            one, name = single(layer.shape, layer.bits)
            assert [x.shape for x in layer_calls(one) if x.name == name] == [layer.shape]
            rule = profile.layer_call(layer.shape, layer.bits, X86).kernel.rule
            assert rule.partition(",")[0] == call.kernel.rule.partition(",")[0]


def test_work():
    assert Shape.parse(TEXTS[0]).work == 16 * 16 * 32 * 9 * 16
    assert Shape.parse(TEXTS[1]).work == 12 * 12 * 48 * 9
    assert Shape.parse(TEXTS[2]).work == 9 * 7 * 20 * 9 * 4


@runs_here
@pytest.mark.parametrize("text", TEXTS)
def test_loop_computes_what_the_kernel_does(text):
    """A timed loop leaves in every copy what one call of the kernel leaves; and it ran over each copy."""
    shape = Shape.parse(text)
    call = profile.layer_call(shape, own_bits(shape)[-1], X86)
    where, given = measured.scratch(call), measured.contents(call)
    library = measured.Local(X86).load(measured.timing_module([call]))
    memory, table = (tvm.runtime.tensor(a) for a in (given, measured.table_of(call)))
    library["time_0"](memory, table, where.copies)
    after = memory.numpy().reshape(where.copies, where.stride)
    np.testing.assert_array_equal(after, np.broadcast_to(after[0], after.shape))
    begin = where.writes[0]
    np.testing.assert_array_equal(after[:, :begin], given.reshape(after.shape)[:, :begin])
    assert where.size == given.size <= max(where.stride, measured.FOOTPRINT)
    assert all(at % 64 == 0 for at in (*where.reads, where.weights, *where.writes, where.stride))
    bits = call.step.write.tensor.bits
    out = after[0, begin : begin + call.step.write.size * (4 if bits == 32 else 1)]
    assert out.any() and (bits == 32 or out.max() <= call.step.write.tensor.qmax)


@runs_here
def test_same_code_is_timed_once(monkeypatch):
    shape, timed = Shape.parse("conv 3x3/1 6x6x8 -> 6x6x16 border 1"), []
    calls = [profile.layer_call(shape, bits, X86) for bits in ("w2a2", "w2a2", "w8a8")]
    monkeypatch.setattr(measured, "_least", lambda given, *_: [timed.append(c) or float(len(timed)) for c in given])
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


def todo() -> profile.Wanted:
    return profile.wanted([resnet_like(), resnet_like(((8, 8),))], profile.pairs("2,4,w7a8"))


def test_wanted():
    found = todo()
    first = next(s for s in found if s.kind == "conv" and s.input[2] == 3)
    linear = next(s for s in found if s.kind == "linear")
    assert found[first] == {"w8a8"} and found[linear] == {"w8a8"}
    inner = next(s for s in found if str(s).startswith("conv 3x3/1 4x4x32 -> 4x4x32"))
    assert found[inner] >= {"w2a2", "w2a4", "w4a2", "w4a4", "w7a8"}
    with pytest.raises(CostsError, match="expected widths"):
        profile.pairs("4,9")


def test_interrupted_profile_goes_on(tmp_path):
    path, wanted = tmp_path / "costs.json", todo()
    total = sum(map(len, wanted.values()))
    with pytest.raises(KeyboardInterrupt):
        profile.profile(wanted, X86, Clock(fail_after=total // 2), path)
    kept = path.read_text()
    there = sum(map(len, load(X86.name, path).entries.values()))
    assert 0 < there <= total // 2
    rest = Clock()
    costs = profile.profile(wanted, X86, rest, path)
    assert len(rest.asked) == total - there
    assert {s: set(e) for s, e in costs.entries.items()} == wanted
    for shape, entries in json.loads(kept)["entries"].items():  # what was there stayed
        assert all(costs.entries[Shape.parse(shape)][b] == Entry(**e) for b, e in entries.items())
    assert profile.profile(wanted, X86, Clock(fail_after=0), path) == costs
    other = {Shape.parse(TEXTS[2]): {"w8a8"}}
    again = profile.profile(other, X86, Clock(), path)
    assert len(again.entries) == len(costs.entries) + 1
    anew = Clock()
    profile.profile(other, X86, anew, path, again=True)
    assert len(anew.asked) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["costs.json"]


def test_table_of_another_machine_is_left_alone(tmp_path):
    path, other = tmp_path / "costs.json", Clock()
    profile.profile({Shape.parse(TEXTS[1]): {"w8a8"}}, X86, other, path)
    before, other.name = path.read_text(), "another"
    with pytest.raises(CostsError, match="'a clock'"):
        profile.profile({Shape.parse(TEXTS[1]): {"w4a4"}}, X86, other, path)
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


def test_file_is_read_as_written_and_sorted(tmp_path):
    entries = {
        Shape.parse(t): {b: Entry(k + 0.25, "rule") for b in own_bits(Shape.parse(t))}
        for k, t in enumerate(reversed(TEXTS))
    }
    costs, path = Costs("x86:avx2", "us", "a machine", "0.1.0", entries), tmp_path / "c.json"
    costs.save(path)
    first = path.read_bytes()
    assert load("x86:avx2", path) == costs
    load("x86:avx2", path).save(path)
    assert path.read_bytes() == first
    assert list(load("x86:avx2", path).entries) == sorted(entries)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "a table"),
        ("[]", "a table"),
        ('{"format": 1}', "a table"),
        ('{"format": 9, "target": "x86:avx2"}', "format 9"),
        ('{"format": 1, "target": "arm:cortex-a72"}', "arm:cortex-a72"),
    ],
)
def test_damaged_files(tmp_path, text, words):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CostsError, match=words):
        load("x86:avx2", tmp_path / "c.json")
    with pytest.raises(CostsError, match="measure one"):
        load("x86:avx2", tmp_path / "absent.json")


def linear_time(shape: Shape) -> float:
    return shape.work / 100 + shape.outputs * len(shape.borders) / 10 + 3 + 0.05 * shape.outputs * shape.skip


def some_shapes(kind="conv") -> list[Shape]:
    return [
        Shape(kind, (k, k), 1, (n, n, c), (n, n, 2 * c), 1, skip, borders)
        for k in (1, 3)
        for n in (4, 9)
        for c in (8, 24)
        for skip in (False, True)
        for borders in ((0,), (0, 1))
    ]


def test_fit_finds_the_rates():
    model = fit([(s, linear_time(s)) for s in some_shapes()])
    np.testing.assert_allclose(model.rates, [0.01, 0.1, 3, 0.05], rtol=1e-6)


def test_fit_of_few_is_never_negative():
    shapes = some_shapes()
    for count in (1, 2, 3):
        model = fit([(s, 1e3 / s.work) for s in shapes[:count]])  # less work, more time: no rate can say that
        assert (model.rates >= 0).all() and model(shapes[0]) > 0


def test_layers_not_in_the_table():
    shapes = some_shapes()
    missing, known = shapes[5], shapes[:5] + shapes[6:]
    costs = Costs(
        "t",
        "us",
        "m",
        "0",
        {s: {"w8a8": Entry(linear_time(s), "r"), "w4a4": Entry(linear_time(s) / 2, "r")} for s in known},
    )
    time, how = costs.layer(missing, "w8a8")
    assert how == INTERPOLATED and time == pytest.approx(linear_time(missing), rel=1e-6)
    assert costs.layer(known[0], "w4a4") == (linear_time(known[0]) / 2, MEASURED)
    assert costs.layer(known[0], "w3a4") == (linear_time(known[0]) / 2, INTERPOLATED)
    assert costs.layer(known[0], "w4a5")[0] == linear_time(known[0])
    with pytest.raises(CostsError, match="depthwise"):
        costs.layer(Shape.parse(TEXTS[1]), "w8a8")
    few = Costs("t", "us", "m", "0", {known[0]: {"w4a4": Entry(1.0, "r")}})
    with pytest.raises(CostsError, match="w4a8 or wider"):
        few.layer(known[0], "w4a8")


def test_prediction_is_of_every_call(tmp_path):
    graph, path = resnet_like(), tmp_path / "c.json"
    costs = profile.profile(profile.wanted([graph]), X86, Clock(), path)
    predicted = costs.predict(graph)
    assert [name for name, _, _ in predicted] == [call.name for call in lower(graph, X86).calls]
    assert all(how == MEASURED and time > 0 for _, time, how in predicted)


def test_shipped_tables_are_of_their_targets():
    for target in profile.targets():
        if path_of(target.name).exists():
            assert load(target.name).entries


def test_alone_is_one_call_of_main():
    call = profile.layer_call(Shape.parse(TEXTS[0]), "w4a4", X86)
    only, sizes = alone(call)
    assert only.reads == (None, None) and sizes.picture >= max(r.size for r in call.step.reads)
    assert only.writes[1] >= call.step.writes[0].size and sizes.workspace >= only.writes[1] + call.step.writes[1].size


def test_target_that_cannot_run_here():
    with pytest.raises(TargetError, match="--rpc"):
        profile.machine_for(find("cuda:sm_87"))
    with pytest.raises(TargetError, match="expected one of its levels.*arm:cortex-a76, arm:cortex-a72"):
        profile.machine_for(find("arm"))
    with pytest.raises(TargetError, match="HOST:PORT"):
        measured.Board(X86, "nowhere")


@runs_here
def test_report(monkeypatch):
    graph = resnet_like(blocks=(1,), size=8)
    lowered = lower(graph, X86)
    found = report(graph, X86, lowered)
    assert [row.layer for row in found.rows] == [call.name for call in lowered.calls]
    assert all(row.measured > 0 for row in found.rows) and found.total("measured") > 0
    quiet = report(graph, X86, lowered, times=False)
    assert all(row.measured is None for row in quiet.rows) and quiet.total("measured") is None


@runs_here
def test_command(tmp_path, capsys, monkeypatch):
    out = tmp_path / "c.json"
    monkeypatch.setattr(profile, "known", lambda: {Shape.parse(TEXTS[3]): {"w8a8"}})
    assert profile.main(["--target", "x86:avx2", "--out", str(out)]) == 0
    costs = load("x86:avx2", out)
    assert costs.unit == "us" and costs.entries[Shape.parse(TEXTS[3])]["w8a8"].time > 0
    assert profile.main(["--target", "x86:avx2", "--out", str(out), str(tmp_path / "absent.onnx")]) == 2
    assert "expected a run folder" in capsys.readouterr().err
