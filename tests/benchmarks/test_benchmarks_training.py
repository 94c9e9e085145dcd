"""Training benchmark: what it times is training itself, and every method is in it."""

import json

import numpy as np
import pytest
import torch

from benchmarks import training, training_steps
from benchmarks.networks.plain import plain_resnet
from benchmarks.training_steps import CLASSES, EPOCH, STEPS, Bench, Method
from train.network.architectures import architecture
from train.network.network import Network
from train.phases import find_bits

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FIELDS = {"network", "method", "device", "batch", "threads", "pictures_per_second", "ratio_to_fp32"}


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    monkeypatch.setattr(training_steps, "SIDE", 16)
    return Bench.of("resnet8", 8, CPU, tmp_path)


@pytest.mark.parametrize("method", ["fp32", *training.FIXED, *find_bits.SEARCHES])
def test_what_is_timed_trains(bench, method):
    """Two steps move the weights (csq: planes), and most parameters: what stays is of widths no step went through."""
    phase = bench.phase(method)
    before = [p.detach().clone() for p in phase.parameters]
    step = training_steps.phase_step(bench, phase, Method.parse(method))
    assert all(np.isfinite(step(k)) for k in (0, 1))
    moved = [not torch.equal(p, old) for p, old in zip(phase.parameters, before, strict=True)]
    ends = "_conv1.variants.relaxed.w.positive" if method == "csq" else "_conv1.weight"
    weights = [m for n, m in zip(phase.names, moved, strict=True) if n.endswith(ends)]
    used = [m for n, m in zip(phase.names, moved, strict=True) if method != "csq" or not n.endswith("conv1.weight")]
    assert all(weights) and len(weights) == 3 and np.mean(used) > 0.5


def test_searches_are_met_in_their_middle(bench):
    for method in find_bits.SEARCHES:
        phase = bench.phase(method)
        progress = [phase.progress(bench.batches, EPOCH, k) for k in range(STEPS)]
        assert phase.name == "search" and all(0.5 <= p < 0.8 for p in progress)


@pytest.mark.parametrize("network", training.NETWORKS)
def test_reference_has_the_network_s_multiplications(network):
    """The plain network's parameters are as many as the described one's in full precision."""
    nets = Network(architecture(network, (32, 32, 3), CLASSES), {}), plain_resnet(network, 32, CLASSES)
    counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    shapes = [sorted(tuple(p.shape) for p in net.parameters() if p.dim() == 4) for net in nets]
    assert shapes[0] == sorted([*shapes[1], (10, 64, 1, 1)]) and counts[0] == counts[1]


def test_records_say_what_ran(tmp_path, monkeypatch):
    monkeypatch.setattr(training_steps, "SIDE", 16)
    path = tmp_path / "training.json"
    options = "--networks resnet8 --batch 8 --methods fixed:8,2 fp32@bfloat16 --device cpu --turns 1"
    assert training.main([*options.split(), "--json", str(path)]) == 0
    records = json.loads(path.read_text())
    assert [r["method"] for r in records] == ["torch", "fp32", "fixed:8,2", "fp32@bfloat16"]
    assert all(set(r) == FIELDS for r in records)
    assert records[1]["ratio_to_fp32"] == 1
    for r in records:
        assert r["pictures_per_second"] * r["ratio_to_fp32"] == pytest.approx(records[1]["pictures_per_second"])


@pytest.mark.parametrize("method", ["guess", "csq@float8"])
def test_unknown_methods_are_refused(capsys, method):
    with pytest.raises(SystemExit):
        training.main(["--methods", method])
    assert "expected fp32, fixed:BITS or some of fracbits" in capsys.readouterr().err


def test_steps_that_diverge_are_not_timed():
    with pytest.raises(ValueError, match="a loss is nan in turn 0"):
        training.time_steps([lambda k: float("nan")], CPU, 1)
