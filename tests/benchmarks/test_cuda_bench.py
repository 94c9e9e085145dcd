"""The benchmark for GPUs: what can be shown of it without one."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

tvm = pytest.importorskip("tvm")
torch = pytest.importorskip("torch")

from benchmarks.cuda import cases as cuda_cases
from benchmarks.cuda import checks as cuda_checks
from benchmarks.cuda import golden, peak
from benchmarks.cuda import times as cuda_times
from benchmarks.cuda.case import FloatLayer
from benchmarks.cuda.peer import FloatPeer
from benchmarks.cuda.records import CheckRecord
from targets import find
from targets.cuda import routes, toolchain
from targets.cuda.emulation import host
from tests.benchmarks.conftest import BATCH, GOLDEN
from tests.support.graphs import OPS, random_graph

pytestmark = pytest.mark.slow


def emulated(library, tensors):
    """Stands for the GPU: `main` over torch tensors of this machine."""
    runner = host.Runner(library.with_suffix(".cu"))
    x, weights, table, workspace, logits = (t.numpy() for t in tensors)

    def main():
        logits[:] = runner(x, weights, table, workspace.size, logits.size)

    return main


@pytest.fixture(scope="module")
def ours(cuda_case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_checks, "bind", emulated)
        yield cuda_checks.Compiled(cuda_case, device="cpu")


def test_a_prepared_network_gives_its_golden_logits(ours, monkeypatch):
    """Five pictures by two: the last batch is not full."""
    assert ours.count_differing() == 0 and ours.count_differing(most=3) == 0
    wrong = np.array(ours.expected)
    wrong[3, 1] += 1
    wrong[4] += 1
    monkeypatch.setattr(ours, "expected", wrong)
    assert ours.count_differing() == 2 and ours.count_differing(most=4) == 1


def test_a_call_that_does_nothing_is_seen(ours):
    ours()
    assert ours.count_differing(lambda: None) == GOLDEN


def test_every_part_of_a_check_is_counted(cuda_case, ours, monkeypatch):
    """Where graphs replay the pictures that they were captured with, only the other pictures show it."""
    monkeypatch.setattr(cuda_checks, "Compiled", lambda case: ours)

    def stuck(call):
        call.put_pictures(0)
        call()
        first = call.logits.clone()
        return lambda: call.logits.copy_(first)

    monkeypatch.setattr(cuda_checks, "Captured", stuck)
    assert cuda_checks.check_case(cuda_case) == [
        CheckRecord("small-mixed-2", "logits", GOLDEN, 0),
        CheckRecord("small-mixed-2", "CUDA graph", GOLDEN, GOLDEN - BATCH),
    ]


def test_equal_arrays_are_written_once(tmp_path):
    names = [
        cuda_cases.write_array(tmp_path, np.full(shape, 7, dtype))
        for shape, dtype in (((4,), np.int8), ((4,), np.int8), ((2, 2), np.int8), ((4,), np.uint8))
    ]
    assert names[0] == names[1] and len(set(names)) == 3 == len(list(tmp_path.iterdir()))
    assert np.load(tmp_path / names[2]).shape == (2, 2)


def test_golden_pictures_by_shape(tmp_path):
    picture = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    np.save(tmp_path / "noise.npy", picture)
    for name in ("b.png", "a.png", "c.png"):
        Image.fromarray(picture).save(tmp_path / name)
    some = golden.GoldenPictures(folder=tmp_path, count=2)
    assert some.of_shape((12, 10, 3)).shape == (2, 12, 10, 3)
    np.testing.assert_array_equal(some.of_shape((6, 5, 3))[0], picture)
    assert some.of_shape((32, 32, 3)).shape == (golden.NOISY, 32, 32, 3)
    with pytest.raises(ValueError, match="expected pictures .*found none"):
        golden.GoldenPictures(folder=tmp_path / "absent").of_shape((8, 8, 3))


def test_only_known_networks_and_archs(tmp_path, capsys):
    assert cuda_cases.main([str(tmp_path), "--networks", "resnet9", "--source-only"]) == 2
    assert "expected networks among resnet8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cuda_cases.main([str(tmp_path), "--archs", "75"])
    assert "expected compute capabilities among 80" in capsys.readouterr().err
    assert cuda_cases.make_target(["90", "86"]).archs == (86, 90)


def test_multiply_adds_are_counted_by_container(cuda_case):
    assert set(cuda_case.macs) == {"8", "4"} and min(cuda_case.macs.values()) > 0
    assert cuda_case.work == 2 * sum(work_of(layer) for layer in cuda_case.layers if layer.op == "Conv")


def work_of(layer: FloatLayer) -> int:
    outputs = {"conv1": 64, "layer1": 64, "layer2": 16, "layer3": 4, "logits": 1}
    area = outputs[layer.output.split(":")[0].split(".")[0]]
    return area * layer.channels * layer.in_channels * layer.kernel[0] * layer.kernel[1]


@pytest.mark.parametrize("seed", range(2))
def test_the_peer_is_the_same_network(seed):
    """Every operator: the float network has the shapes of ours all the way to the logits."""
    graph = random_graph(seed, ops=OPS, size=(13, 12))
    logits = FloatPeer(cuda_cases.float_layers(graph))(torch.rand(2, 3, 13, 12))
    assert logits.shape == (2, graph.tensors[graph.output].shape[2])


def test_engines_take_turns_and_the_least_time_counts():
    ms, order = {"a": iter([9, 0.5, 3, 1, 2]), "b": iter([90, 20.0, 9, 8, 7])}, []

    def timer(call, repeat):
        order.append((call(), repeat))
        return next(ms[call()])

    assert cuda_times.least_times({"a": lambda: "a", "b": lambda: "b"}, timer, rounds=3) == {"a": 1, "b": 7}
    assert order == [*[("a", 3), ("b", 3)] * 2, *[("a", 20), ("b", 1)] * 3]


def test_share_of_the_peak():
    peaks = {"8": 100.0, "4": 200.0}
    assert cuda_times.Gpu("", 87, peaks).peak_share({"8": 100, "4": 200}, 4.0) == 0.5
    assert cuda_times.Gpu("", 90, peaks).peak_share({"8": 100, "4": 200}, 6.0) == 0.5  # bytes: three units of time
    assert cuda_times.Gpu("", 87, {"8": 100.0}).peak_share({"8": 100, "4": 0}, 4.0) == 0.25
    assert cuda_times.Gpu("", 87, {"8": 100.0}).peak_share({"8": 100, "4": 1}, 4.0) is None


def test_records_say_who_and_how_fast(cuda_case):
    gpu = cuda_times.Gpu("GPU", 90, {})
    own, other = cuda_times._records([cuda_case], gpu, {"mixed": 0.5, "torch fp16": 1.0})
    assert asdict(own) == {
        "network": "small",
        "engine": "bitgrade",
        "bits": "mixed",
        "batch": 2,
        "gpu": "GPU",
        "ms": 0.5,
        "exact": None,
        "peak_share": None,
    }
    assert (other.engine, other.bits, other.ms) == ("torch fp16", "fp16", 1.0)


def test_the_peak_multiplies_as_often_as_it_says(cuda_folder, tmp_path, monkeypatch):
    """Few blocks and turns of it, counted in the emulator by ones times ones."""
    for name, value in (("BLOCKS", 1), ("WARPS", 1), ("TURNS", 3), ("CHAINS", 1)):
        monkeypatch.setattr(peak, name, value)
    source = tmp_path / "peak.cu"
    source.write_text(toolchain.source(peak.make_peak_module(routes.Route(4, 4)), find("cuda:sm_87")))
    ones = np.full(16, 0x01010101, np.int32)  # as nibbles 0 and 1, joined from pairs of bytes to 1 and 1
    got = host.Runner(source)(np.zeros(16, np.uint8), np.zeros(64, np.int8), ones, 64, 32)
    assert set(got.tolist()) == {0}  # four equal sums: exclusive or
    facts = json.loads((cuda_folder / "peak-4" / "case.json").read_text())
    assert facts["macs"] % (16 * 8 * 64) == 0 and facts["bits"] == "4"


def test_times_are_of_one_network_and_batch(cuda_folder):
    assert len(cuda_times.read_one_network([cuda_folder / "small-mixed-2"])) == 1
    with pytest.raises(ValueError, match="expected one network for one batch, each configuration once"):
        cuda_times.read_one_network([cuda_folder / "small-mixed-2"] * 2)
