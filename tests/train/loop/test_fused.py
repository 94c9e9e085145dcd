"""Training by fused code: the same steps as without, made once a variant, and errors that still name the layer."""

import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.sessions import quiet_run
from train.data.batches import Batches
from train.learn import learn
from train.loop.checkpoint import load_checkpoint
from train.loop.fused import FusingError, fused
from train.loop.phase import VariantsPhase
from train.loop.training import TrainingError, train_phase
from train.network.architectures import architecture
from train.network.network import FULL, Network
from train.phases.find_bits import variant_bits
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

ARCH = architecture("resnet8", (8, 8, 3), 10)
COUNT, EPOCHS = 32, 2
HEADERS = Path(sysconfig.get_path("include"), "Python.h")
compiles = pytest.mark.skipif(
    shutil.which("g++") is None or not HEADERS.is_file(),
    reason="torch.compile needs g++ and Python's headers: apt install g++ python3-dev",
)


def some_pictures() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8))


def networks() -> tuple[Network, Network]:
    """(one with a variant, one to learn from), in float64: so nothing lies so near to a tie that its code changes.

    Steps are beside the searched ones, which put the largest weights right on the bounds of the clamp.
    """
    torch.manual_seed(0)
    net = Network(ARCH, {"w4a4": variant_bits(ARCH, 4, 4)}).double()
    teacher = Network(ARCH, {}).double()
    net.calibrate(some_pictures())
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("log_step"):
                parameter += 0.01
    return net, teacher.eval()


def trained(folder, net: Network, teacher: Network) -> None:
    """Two epochs of two steps."""
    batches = Batches(
        some_pictures()[None].numpy(),
        np.arange(COUNT) % 10,
        batch=COUNT // 2,
        pictures=0,
        seed=0,
        flip=True,
        device=torch.device("cpu"),
    )
    phase = VariantsPhase("joint", net, ("w4a4",), EPOCHS, 1e-3, teacher)
    train_phase(phase, quiet_run(folder, fuses=True), batches, None, lambda: {})


@compiles
def test_a_phase_trains_with_the_same_gradients_and_compiles_once_a_variant(tmp_path, monkeypatch):
    """Sums are taken in another order, and a step's gradient is a small difference of long ones: hence 1e-9."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net, teacher = networks()
    results = []
    for networks_fused in ((), (net,)):
        net.load_state_dict(networks()[0].state_dict())
        net.zero_grad()
        with fused(*networks_fused):
            logits = net(some_pictures()[: COUNT // 2], "w4a4")
            logits.square().sum().backward()
        results.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None} | {"": logits})
    plain, quick = results
    assert plain.keys() == quick.keys() and len(plain) > 4 * len(ARCH.layers)
    for name, wanted in plain.items():
        assert (quick[name] - wanted).norm() < 1e-9 * wanted.norm(), name

    before = {n: p.detach().clone() for n, p in net.named_parameters() if n.endswith("_conv1.weight")}
    trained(tmp_path, net, teacher)
    assert before and all(not torch.equal(net.get_parameter(n), p) for n, p in before.items())
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] == 2 and not counted["graph_break"]  # the variant's and the teacher's
    assert "forward" not in vars(net) and "forward" not in vars(teacher)  # outside nothing is fused any more

    monkeypatch.setattr("train.loop.fused.MOST_VARIANTS", 2)  # and two graphs are there
    with pytest.raises(FusingError, match="--torch-compile: expected at most 2 variants, got more"), fused(net):
        net(some_pictures(), FULL)
    monkeypatch.undo()

    net.convs["block2_conv1"].weight.data[0] = float("nan")
    with pytest.raises(TrainingError, match="not finite.*in layer block2.conv1;"):
        trained(tmp_path, net, teacher)


@compiles
def test_a_run_repeats_itself(tmp_path):
    words = "--limit 64 --batch 32 --epochs 1 --families clean --bits 4 --workers 1".split()
    runs = []
    for name in ("a", "b"):
        learn(parse([*words, "--torch-compile", "--out", str(tmp_path / name)]))
        tensors, state = load_checkpoint(tmp_path / name)
        assert state.settings["torch_compile"] is True
        runs.append(tensors)
    assert runs[0].keys() == runs[1].keys() and all(torch.equal(t, runs[1][k]) for k, t in runs[0].items())


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nonexistent"))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    torch._dynamo.reset()
    net = networks()[1]
    with pytest.raises(FusingError, match="--torch-compile: expected.*nonexistent.*apt install g"), fused(net):
        net(some_pictures(), FULL)
    assert "forward" not in vars(net)
