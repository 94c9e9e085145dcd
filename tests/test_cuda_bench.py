"""The benchmark for GPUs: what can be shown of it without one."""

import json

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")
torch = pytest.importorskip("torch")

from benchmarks import cuda, cuda_cases  # noqa: E402
from targets import find  # noqa: E402
from targets.cuda import emulate, routes, toolchain  # noqa: E402
from tests.graphs import OPS, random_graph, resnet_like  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared without nvcc: a small network for two pictures, and one peak."""
    root = tmp_path_factory.mktemp("cases")
    graph = resnet_like(((8, 8), (4, 4)), size=8)
    cuda_cases.write_case(root, "small", "mixed", graph, find("cuda:sm_87"), 2, source_only=True)
    cuda_cases.write_peak(root, 4, find("cuda:sm_87"), source_only=True)
    return root


def emulated(library):
    """Stands for the GPU: `main` over torch tensors of this machine."""
    runner = emulate.Runner(library.with_suffix(".cu"))

    def main(*tensors):
        x, weights, table, workspace, logits = (t.numpy() for t in tensors)
        logits[:] = runner(x, weights, table, workspace.size, logits.size)

    return main


def test_a_prepared_network_gives_its_golden_logits(folder, monkeypatch):
    monkeypatch.setattr(cuda, "load", emulated)
    (case,) = cuda.cases(folder)
    assert (case.batch, case.facts["requires"]) == (2, ["sm_87"])
    ours = cuda.Compiled(case, device="cpu")
    assert len(ours.data["pictures"]) == cuda_cases.GOLDEN and ours.differing() == 0
    ours.data["logits"][3, 1] += 1
    assert ours.differing() == 1


def test_multiply_adds_are_counted_by_container(folder):
    (case,) = cuda.cases(folder)
    layers = [d for d in case.facts["layers"] if d["op"] == "Conv"]
    assert set(case.facts["macs"]) == {"8", "4"} and min(case.facts["macs"].values()) > 0
    assert sum(case.facts["macs"].values()) == 2 * sum(_work(d, case.facts["layers"]) for d in layers)


def _work(layer, layers) -> int:
    outputs = {"conv1": 64, "layer1": 64, "layer2": 16, "layer3": 4, "logits": 1}
    area = outputs[layer["output"].split(":")[0].split(".")[0]]
    return area * layer["channels"] * layer["in_channels"] * layer["kernel"][0] * layer["kernel"][1]


@pytest.mark.parametrize("seed", range(2))
def test_the_peer_is_the_same_network(seed):
    """Every operator: the float network has the shapes of ours all the way to the logits."""
    graph = random_graph(seed, ops=OPS, size=(13, 12))
    peer = cuda.Peer(json.loads(json.dumps(cuda_cases.layers(graph))))
    logits = peer(torch.rand(2, 3, 13, 12))
    assert logits.shape == (2, graph.tensors[graph.output].shape[2])


def test_engines_take_turns_and_the_least_time_counts():
    ms, order = {"a": iter([0.5, 3, 1, 2]), "b": iter([20.0, 9, 8, 7])}, []

    def timer(call, repeat):
        order.append((call(), repeat))
        return next(ms[call()])

    assert cuda.least({"a": lambda: "a", "b": lambda: "b"}, timer, rounds=3) == {"a": 1, "b": 7}
    assert order == [("a", 3), ("b", 3), *[("a", 20), ("b", 1)] * 3]


def test_share_of_the_peak():
    peaks = {"8": 100.0, "4": 200.0}
    assert cuda.peak_share({"8": 100, "4": 200}, 4.0, peaks, 87) == 0.5
    assert cuda.peak_share({"8": 100, "4": 200}, 6.0, peaks, 90) == 0.5  # bytes: three units of time
    assert cuda.peak_share({"8": 100, "4": 0}, 4.0, {"8": 100.0}, 87) == 0.25
    assert cuda.peak_share({"8": 100, "4": 1}, 4.0, {"8": 100.0}, 87) is None


def test_records_say_who_and_how_fast(folder):
    (case,) = cuda.cases(folder)
    assert cuda.record(case, "bitgrade", "mixed", "GPU", 0.5, True, 0.25) == {
        "network": "small", "engine": "bitgrade", "bits": "mixed", "batch": 2, "gpu": "GPU", "ms": 0.5, "exact": True,
        "peak_share": 0.25}


def test_the_peak_multiplies_as_often_as_it_says(folder, tmp_path, monkeypatch):
    """Few blocks and turns of it, counted in the emulator by ones times ones."""
    for name, value in (("PEAK_BLOCKS", 1), ("PEAK_WARPS", 1), ("PEAK_TURNS", 3), ("PEAK_CHAINS", 1)):
        monkeypatch.setattr(cuda_cases, name, value)
    source = tmp_path / "peak.cu"
    source.write_text(toolchain.source(cuda_cases.peak_module(routes.Route(4, 4)), find("cuda:sm_87")))
    ones = np.full(16, 0x01010101, np.int32)  # as nibbles 0 and 1, joined from pairs of bytes to 1 and 1
    got = emulate.Runner(source)(np.zeros(16, np.uint8), np.zeros(64, np.int8), ones, 64, 32)
    assert set(got.tolist()) == {0}  # four equal sums: exclusive or
    facts = json.loads((folder / "peak-4" / "case.json").read_text())
    assert facts["macs"] % (16 * 8 * 64) == 0 and facts["bits"] == "4"


def test_without_a_gpu_it_says_so(folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert cuda.main([str(folder)]) == 2
    assert "expected an NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected prepared networks, found none"):
        cuda.cases(folder / "peak-4")
