"""Networks of open widths, real widths, and the integer program over sensitivities."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.searches import ARCH, LAYERS, WIDTHS, bitops_table, chance
from train.bits.cost import CostTable
from train.network import quantizers
from train.network.network import Network
from train.network.relaxed import Mixed, Mixture, RelaxedNetwork, one_hot
from train.phases.find_bits import variant_bits
from train.search.fracbits import FractionalWidths, interpolate, uniform_width
from train.search.ilp import additive, sensitivity_of_steps, solve


@pytest.fixture(scope="module")
def table() -> CostTable:
    return bitops_table()


def small_table(layers: int, widths: int, seed: int) -> CostTable:
    prices = torch.rand(layers, widths, widths, generator=chance(seed)).double()
    return CostTable(ARCH, tuple(range(2, 2 + widths)), prices, 0.1)


def test_mixed_tensor_and_its_gradients():
    mixed, x = Mixed(WIDTHS, False).double(), torch.randn(4, 3, 5, 5, generator=chance(), dtype=torch.float64)
    mixed.fit(x)
    x.requires_grad_()
    y = torch.tensor([0.1, 0.2, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
    out = mixed(x, y, y.tolist())
    parts = [q(x) for q in mixed.quantizers]
    assert torch.allclose(out, sum(s * p for s, p in zip(y, parts, strict=True)), rtol=1e-12)
    upstream = torch.randn(out.shape, generator=chance(1), dtype=torch.float64)
    slopes = torch.stack([(upstream * p).sum() for p in parts])
    plain = torch.autograd.grad(sum(s * p for s, p in zip(y.tolist(), parts, strict=True)), x, upstream)[0]
    y_grad, x_grad = torch.autograd.grad(out, (y, x), upstream)
    assert torch.allclose(y_grad, slopes, rtol=1e-9) and torch.allclose(x_grad, plain, rtol=1e-9)


def test_one_convolution_a_layer_and_one_quantizer_a_tensor(monkeypatch):
    net, counts = RelaxedNetwork(ARCH, WIDTHS, kinds=2), {"conv": 0, "quantize": 0}
    net.inherit(Network(ARCH, {}))
    pictures = torch.randint(256, (6, 8, 8, 3), generator=chance(), dtype=torch.uint8)
    net.calibrate(pictures)
    convolve, apply = F.conv2d, quantizers.fake_quantize

    def count_convolution(*arguments, **options):
        counts["conv"] += 1
        return convolve(*arguments, **options)

    def count_quantization(*arguments):
        counts["quantize"] += 1
        return apply(*arguments)

    monkeypatch.setattr(F, "conv2d", count_convolution)
    monkeypatch.setattr(quantizers, "fake_quantize", count_quantization)
    y = one_hot(torch.full((LAYERS, 2), 1), 4).requires_grad_()
    net(pictures, Mixture.of(y, 1)).square().sum().backward()
    assert counts["conv"] == len(ARCH.layers)
    streams = 1 + len(ARCH.blocks) + 2  # the residual stream, and two projected shortcuts
    assert counts["quantize"] == 2 * len(ARCH.layers) - 1 + streams  # the picture is not quantized
    assert bool((y.grad.abs().sum(-1) > 0).all())
    counts["conv"] = 0
    net(pictures, Mixture.of(torch.full((LAYERS, 2, 4), 0.25)))
    assert counts["conv"] == len(ARCH.layers)


def test_eight_bits_everywhere_compute_what_the_variant_computes():
    """The open network at its widest is the network of variants at 8 bits, but for whose statistics norms take."""
    teacher, pictures = Network(ARCH, {}), torch.randint(256, (64, 8, 8, 3), generator=chance(), dtype=torch.uint8)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    teacher(pictures)
    open_net, closed = RelaxedNetwork(ARCH, WIDTHS), Network(ARCH, {"w8a8": variant_bits(ARCH, 8, 8)})
    for net in (open_net, closed):
        net.inherit(teacher)
    closed.train()
    open_net.calibrate(pictures)
    closed.calibrate(pictures)
    with torch.no_grad():
        opened = open_net(pictures, Mixture.of(one_hot(torch.full((LAYERS, 2), 3), 4)))
        expected = closed(pictures, "w8a8")
    assert float((opened - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_interpolated_widths_have_the_mean_asked_for():
    widths = torch.tensor(WIDTHS, dtype=torch.float64)
    bits = torch.tensor([2.0, 2.25, 3.0, 5.0, 8.0, 9.0, 1.0], dtype=torch.float64, requires_grad=True)
    y = interpolate(bits, widths)
    assert torch.allclose(y @ widths, bits.clamp(2, 8)) and bool((y >= 0).all()) and bool(((y > 0).sum(-1) <= 2).all())
    (y @ widths).sum().backward()
    assert torch.equal(bits.grad[:5], torch.ones(5, dtype=torch.float64))


def test_rounded_widths_keep_the_budget_and_their_order(table):
    real = FractionalWidths(LAYERS, WIDTHS, 0)
    with torch.no_grad():
        real.bits.uniform_(2, 8, generator=chance())
    before = None
    for budget in (0.12, 0.3, 0.5, 0.9):
        indices = real.round(table, budget)
        assert float(table.of_indices(indices)) <= budget
        order = real.bits.flatten().argsort()
        assert bool((indices.flatten()[order].diff() >= 0).all())
        assert before is None or bool((indices >= before).all())
        before = indices
    middle = uniform_width(table, 0.5)
    y = interpolate(torch.full((LAYERS, 2), middle).double(), torch.tensor(WIDTHS).double())
    assert float(table.expected(y)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_integer_program_is_as_good_as_trying_all(seed):
    table, rng = small_table(3, 2, seed), np.random.default_rng(seed)
    loss = rng.normal(size=(3, 2, 2))
    everything = [torch.tensor(c).view(3, 2) for c in itertools.product(range(2), repeat=6)]
    costs = torch.stack([table.of_indices(c) for c in everything])
    losses = np.array([sum(loss[layer, w, a] for layer, (w, a) in enumerate(c.tolist())) for c in everything])
    for budget in (table.least(), 0.9, 1.4, 5.0):
        solved = solve(loss, table, budget)
        assert float(table.of_indices(solved)) <= budget + 1e-9
        best = losses[(costs <= budget + 1e-9).numpy()].min()
        assert sum(loss[la, w, a] for la, (w, a) in enumerate(solved.tolist())) == pytest.approx(best, abs=1e-9)


def test_steps_alone_say_that_fewer_bits_hurt_more(table):
    net = RelaxedNetwork(ARCH, WIDTHS)
    net.inherit(Network(ARCH, {}))
    net.calibrate(torch.randint(256, (32, 8, 8, 3), generator=chance(), dtype=torch.uint8))
    loss = sensitivity_of_steps(net)
    assert loss.shape == (LAYERS, 4, 4) and (np.diff(loss, axis=1) < 0).all() and (np.diff(loss, axis=2) < 0).all()
    assert float(table.of_indices(solve(loss, table, 0.3))) <= 0.3


@pytest.mark.parametrize("widths", [2, 3, 6])
def test_sensitivities_are_freed_from_noise(widths):
    """What is a sum of falling losses stays; noise on it is taken out for the better; no luck is left to be chosen."""
    rng = np.random.default_rng(widths)
    w, a = (np.sort(rng.exponential(size=(12, widths)))[:, ::-1] for _ in range(2))
    truth = (w - w[:, -1:])[:, :, None] + (a - a[:, -1:])[:, None]
    np.testing.assert_allclose(additive(truth), truth, atol=1e-9)
    noisy = truth + rng.normal(scale=0.5, size=truth.shape)
    freed = additive(noisy)
    assert np.square(freed - truth).mean() < 0.6 * np.square(noisy - truth).mean()
    assert (freed[:, -1, -1] == 0).all() and (np.diff(freed, axis=1) <= 0).all() and (np.diff(freed, axis=2) <= 0).all()
    assert (additive(-truth) == 0).all()
