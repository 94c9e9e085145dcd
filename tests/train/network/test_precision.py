"""Training that multiplies in bfloat16: convolutions alone do, while it trains; what fits in 8 bits is exact."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.sessions import quiet_run
from train.data.batches import Batches
from train.learn import learn
from train.loop.checkpoint import load_checkpoint
from train.loop.phase import VariantsPhase
from train.loop.training import train_phase
from train.network.architectures import architecture
from train.network.network import FULL, Network, multiplying_in
from train.network.planes import Planes
from train.network.relaxed import RELAXED, Mixture, RelaxedNetwork
from train.phases.find_bits import variant_bits
from train.settings.command_line import parse
from train.settings.options import SettingsError
from train.settings.settings import Settings

pytestmark = pytest.mark.slow

ARCH = architecture("resnet8", (16, 16, 3), 10)
LAYERS = len(ARCH.layers)


def some_pictures(count=16) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8))


@pytest.fixture
def net() -> Network:
    torch.manual_seed(0)
    made = Network(ARCH, {"w4a4": variant_bits(ARCH, 4, 4)})
    made.calibrate(some_pictures())
    return made.eval()


@pytest.fixture
def multiplied(monkeypatch) -> list[tuple]:
    """Types of the operands of every convolution, and of its result's gradient."""
    types, convolve = [], F.conv2d

    def convolve_and_note(x, weight, *rest):
        out = convolve(x, weight, *rest)
        types.append((x.dtype, weight.dtype))
        if out.requires_grad:
            out.register_hook(lambda grad: types.append((grad.dtype,)))
        return out

    monkeypatch.setattr(F, "conv2d", convolve_and_note)
    return types


@pytest.mark.parametrize("variant", [FULL, "w4a4"])
def test_convolutions_alone_multiply_in_it_both_ways(net, multiplied, variant):
    with multiplying_in(torch.bfloat16, net):
        logits = net(some_pictures(), variant)
        logits.sum().backward()
    assert len(multiplied) == 2 * LAYERS and {t for operands in multiplied for t in operands} == {torch.bfloat16}
    assert logits.dtype == torch.float32
    assert all(p.grad is None or p.grad.dtype == p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("planes", [None, 1])
def test_searches_multiply_in_it_too(multiplied, planes):
    torch.manual_seed(0)
    net = RelaxedNetwork(ARCH, (2, 4, 8), planes=planes)
    net.calibrate(some_pictures())
    multiplied.clear()
    shares = torch.full((len(net.positions), 2, 3), 1 / 3)
    with multiplying_in(torch.bfloat16, net):
        net(some_pictures(), Mixture.of(shares, beta=2.0)).sum().backward()
    assert len(multiplied) == 2 * LAYERS and {t for operands in multiplied for t in operands} == {torch.bfloat16}
    weights = {type(conv.variants[RELAXED].w) for conv in net.convs.values()}
    assert (Planes in weights) == (planes is not None)


def test_outside_nothing_is_changed_even_after_an_error(net):
    before = net(some_pictures(), "w4a4")
    with pytest.raises(KeyError), multiplying_in(torch.bfloat16, None, net):
        assert not torch.equal(net(some_pictures(), "w4a4"), before)
        net(some_pictures(), "unknown")
    assert torch.equal(net(some_pictures(), "w4a4"), before)


@pytest.mark.parametrize("w_bits,a_bits", [(8, 8), (4, 4), (2, 8)])
def test_codes_and_sums_of_eight_bits_are_exact(net, w_bits, a_bits):
    """bfloat16 holds every integer up to 256, so any code; sums are added up in float32 and rounded once."""
    conv = list(net.convs.values())[2]
    chance = np.random.default_rng(w_bits)
    x = torch.from_numpy(chance.integers(0, 1 << a_bits, (4, conv.layer.inputs, 9, 9)).astype(np.float32))
    w = torch.from_numpy(chance.integers(-(1 << w_bits - 1), 1 << w_bits - 1, conv.weight.shape).astype(np.float32))
    exact = conv.convolve(x, w)
    with multiplying_in(torch.bfloat16, net):
        assert torch.equal(conv.convolve(x, w), exact.to(torch.bfloat16).float())


def test_gradients_are_those_of_float32_but_for_rounding(net):
    """Operands and results are rounded to 8 significant bits, at most 2^-8 of each; errors of many terms average."""
    conv, chance = list(net.convs.values())[2], torch.Generator().manual_seed(0)
    x = torch.randn(8, conv.layer.inputs, 16, 16, generator=chance)
    gradients = []
    for operands in (None, torch.bfloat16):
        data = x.clone().requires_grad_()
        conv.weight.grad = None
        with multiplying_in(operands, net):
            out = conv.convolve(data, conv.weight)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
        gradients.append((data.grad, conv.weight.grad.clone()))
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() < 2**-7 * a.norm() and not torch.equal(a, b)


def test_a_phase_trains_in_it_and_validates_in_float32(net, multiplied, tmp_path):
    views = some_pictures(32)[None].numpy()
    batches = Batches(views, np.arange(32) % 10, batch=16, pictures=0, seed=0, flip=True, device=torch.device("cpu"))
    run = quiet_run(tmp_path, operands=torch.bfloat16)
    teacher = Network(ARCH, {}).eval()
    phase = VariantsPhase("joint", net, ("w4a4",), 1, 1e-3, teacher)
    train_phase(phase, run, batches, None, lambda: {})
    assert {t for operands in multiplied for t in operands} == {torch.bfloat16} and len(multiplied) == 2 * 3 * LAYERS
    multiplied.clear()
    net(some_pictures(), "w4a4"), teacher(some_pictures())
    assert {t for operands in multiplied for t in operands} == {torch.float32}


def test_a_run_in_it_is_another_run_and_repeats_itself(tmp_path):
    options = "--limit 64 --batch 32 --epochs 1 --families clean --bits 4 --workers 1"
    runs = {}
    for name, precision in (("a", "bfloat16"), ("b", "bfloat16"), ("c", "float32")):
        learn(parse([*options.split(), "--precision", precision, "--out", str(tmp_path / name)]))
        tensors, state = load_checkpoint(tmp_path / name)
        assert state.settings["precision"] == precision
        runs[name] = {k: t for k, t in tensors.items() if k.startswith("student.")}
    assert all(torch.equal(t, runs["b"][k]) for k, t in runs["a"].items())
    assert not all(torch.equal(t, runs["c"][k]) for k, t in runs["a"].items())


def test_a_precision_that_cannot_be_is_refused():
    with pytest.raises(SettingsError, match="--precision: expected one of float32, bfloat16, got 'half'"):
        Settings.of(precision="half")
