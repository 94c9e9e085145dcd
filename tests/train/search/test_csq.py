"""CSQ: gates, budget, rounding of depths, and what the variants start from."""

import numpy as np
import pytest
import torch

from tests.support.searches import ARCH, LAYERS, chance
from tests.train.network.test_planes import WIDTHS, weights_by_hand
from train.bits.cost import CostError, CostTable, bitops, latency, size
from train.network.architectures import architecture, open_layers
from train.network.network import Network, key
from train.network.planes import Planes
from train.network.relaxed import RELAXED, RelaxedNetwork
from train.search.csq import budget_loss
from train.search.depths import Depths, mix_exactly, mix_weights, temperatures
from train.search.fracbits import uniform_width
from train.search.integers import give_integers, open_variants


@pytest.fixture(scope="module")
def table() -> CostTable:
    return CostTable.of(size, ARCH, WIDTHS)


def tiny(widths=WIDTHS, fitted=1, seed=0):
    """(full-precision network, open network of bit planes, pictures)."""
    torch.manual_seed(seed)
    full_precision = Network(ARCH, {})
    pictures = torch.randint(256, (64, 8, 8, 3), generator=chance(), dtype=torch.uint8)
    net = RelaxedNetwork(ARCH, widths, planes=fitted, one_input=True)
    net.inherit(full_precision)
    net.calibrate(pictures)
    return full_precision, net.train(), pictures


def moved(net: RelaxedNetwork, by: float = 0.3) -> None:
    """Digits as training leaves them: some turned over, P and M both on among them, none near 0."""
    with torch.no_grad():
        for per_variant in open_variants(net):
            for logits in (per_variant.w.positive, per_variant.w.negative):
                logits.add_(by * torch.randn(logits.shape, generator=chance(5)))
                logits.copy_(torch.where(logits.abs() < 0.1, 0.1 * torch.sign(logits) + 1e-3, logits))


def test_first_network_is_close_to_full_precision():
    """Soft at temperature 1, gates included, the first outputs are nearer to full precision than exact ones are."""
    full_precision, net, pictures = tiny(fitted=2)
    depths = Depths(LAYERS, WIDTHS, 4.0)
    with torch.no_grad():
        full_precision.train()
        wanted = full_precision(pictures)
        soft = net(pictures, mix_weights(depths(1.0), 6, 1.0))
        hard = net(pictures, mix_exactly(torch.tensor([[2, 6]] * LAYERS), net))
    error = [float((out - wanted).square().mean() / wanted.var()) for out in (soft, hard)]
    assert error[0] < 0.25 and error[1] < 0.5


def test_gates_take_the_leading_planes_alone():
    for widths in (WIDTHS, (2, 4, 8)):
        planes, depths = Planes(widths, (1, 1, 1, 1), 0), Depths(3, widths, 2.0)
        with torch.no_grad():
            depths.depth.copy_(torch.tensor([1.0, 3.2, 7.0]))
        for beta in (1.0, 20.0, 1e4):
            shares = depths(beta)
            assert torch.allclose(shares.sum(-1), torch.ones(3)) and bool((shares >= 0).all())
            gates = torch.stack([planes.gates(row) for row in shares]).detach()
            assert bool((gates.diff(dim=1) <= 1e-6).all()) and float(gates.max()) <= 1 + 1e-6
        counts = gates.round().sum(1) + 1
        assert counts.tolist() == [float(min(widths, key=lambda b: abs(b - d - 1))) for d in depths.depth.tolist()]
        assert torch.equal(gates, gates.round())


def test_constants_are_not_trained():
    planes = Planes(WIDTHS, (2, 1, 1, 1), 0)
    assert {n for n, _ in planes.named_parameters()} == {"positive", "negative", "log_scale"}
    assert {n for n, _ in planes.named_buffers()} == {"units", "within"}
    assert float(planes.units.sum()) == pytest.approx(1, abs=1e-6)
    depths = Depths(2, WIDTHS, 4.0)
    assert [n for n, _ in depths.named_parameters()] == ["depth"]
    _, net, pictures = tiny()
    before = [per_variant.w.units.clone() for per_variant in open_variants(net)]
    trained = [p for per_variant in open_variants(net) for p in per_variant.w.parameters()]
    optimizer = torch.optim.SGD(trained, 1.0)
    net(pictures, mix_weights(Depths(LAYERS, WIDTHS, 4.0)(2.0), 6, 2.0)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(a, per_variant.w.units) for a, per_variant in zip(before, open_variants(net), strict=True))


def test_every_plane_and_depth_learns_in_every_open_layer():
    """Shortcuts too; and no activation is left at full precision."""
    _, net, pictures = tiny()
    depths = Depths(LAYERS, WIDTHS, 4.0)
    net(pictures, mix_weights(depths(1.0), 2, 1.0)).square().sum().backward()
    assert bool((depths.depth.grad.abs() > 0).all()) and len(open_layers(ARCH)) == LAYERS
    shortcuts = [block.shortcut for block in ARCH.blocks]
    for layer, per_variant in zip(open_layers(ARCH), open_variants(net), strict=True):
        assert bool((per_variant.w.positive.grad.abs().flatten(1).sum(1) > 0).all())
        learning = [k for k, q in enumerate(per_variant.a.quantizers) if q is not None and q.log_step.grad is not None]
        assert learning == ([] if layer in shortcuts else [2])  # a shortcut reads its block's codes


@pytest.mark.parametrize("cost", [size, bitops])
def test_budget_counts_the_sign_and_every_layer_by_its_size(cost):
    """Against the cost summed by hand; a layer's share of the gradient is its share of the weights (or operations)."""
    prices, depths = CostTable.of(cost, ARCH, WIDTHS), Depths(LAYERS, WIDTHS, 5.0)
    with torch.no_grad():
        depths.depth.copy_(torch.arange(LAYERS) % 7 + 1.0)
    shares = depths(1e4)
    a = torch.eye(len(WIDTHS))[2].expand_as(shares)
    bits = dict(zip((la.name for la in open_layers(ARCH)), (depths.depth + 1).tolist(), strict=True))
    whole = sum(cost(la, 8, 8) for la in ARCH.layers)
    wanted = sum(cost(la, bits.get(la.name, 8), 4 if la.name in bits else 8) for la in ARCH.layers) / whole
    assert float(prices.expected(torch.stack([shares, a], 1)).detach()) == pytest.approx(wanted, rel=1e-6)
    depths = Depths(LAYERS, WIDTHS, 5.0)
    prices.expected(torch.stack([depths(1.0), a], 1)).backward()
    unit = torch.tensor([cost(la, 3, 4) - cost(la, 2, 4) for la in open_layers(ARCH)])
    assert torch.allclose(depths.depth.grad / depths.depth.grad.sum(), unit / unit.sum(), rtol=1e-4)


def test_depths_shrink_above_the_budget_and_grow_below_it(table):
    for budget, sign in ((0.4, 1), (0.9, -1)):
        depths = Depths(LAYERS, WIDTHS, 5.0)
        shares = depths(1.0)
        a = torch.eye(len(WIDTHS))[6].expand_as(shares)
        budget_loss(table.expected(torch.stack([shares, a], 1)), budget).backward()
        assert bool((sign * depths.depth.grad > 0).all())


def test_temperatures_rise_to_their_ends():
    assert temperatures(0.0) == (1.0, 1.0)
    assert temperatures(0.45) == pytest.approx((200**0.5, 20**0.5))
    assert temperatures(0.9) == temperatures(1.0) == (200.0, 20.0)


def test_rounded_depths_keep_the_budget_and_their_order(table):
    depths = Depths(LAYERS, WIDTHS, 4.0)
    with torch.no_grad():
        depths.depth.uniform_(1, 7, generator=chance())
    before = None
    for budget in (0.35, 0.5, 0.7, 1.0 + 1e-9):
        indices = depths.round(table, 6, budget)
        assert float(table.of_indices(indices)) <= budget and bool((indices[:, 1] == 6).all())
        order = depths.depth.argsort()
        assert bool((indices[order, 0].diff() >= 0).all()) and (before is None or bool((indices >= before).all()))
        before = indices
    middle = float(table.of_indices(torch.tensor([[2, 6]] * LAYERS)))
    assert uniform_width(table, middle, 8) == pytest.approx(4, abs=1e-4)
    with pytest.raises(CostError, match="with 8-bit activations is"):
        CostTable.of(bitops, ARCH, WIDTHS).check(0.2, 8)


def test_rounded_depths_keep_a_budget_of_time_where_fewer_bits_cost_more():
    """On the table of the Cortex-A72 no offset common to all depths keeps some budgets that the table can keep."""
    arch = architecture("resnet20", (32, 32, 3), 10)
    table = CostTable.of(latency("arm"), arch, WIDTHS)
    layers = len(open_layers(arch))
    budgets = torch.linspace(table.least(4) + 1e-4, 1.0, 300).tolist()
    depths = Depths(layers, WIDTHS, 4.0)
    assert all(float(table.of_indices(depths.round(table, WIDTHS.index(4), b))) <= b * (1 + 1e-9) for b in budgets)


def test_variants_start_as_the_exact_network():
    """The one found computes the same logits; a wider one has the same weights, a narrower one rounds them."""
    full_precision, net, pictures = tiny(fitted=2)
    moved(net)
    indices = torch.tensor([[k % 3 + 1, 2] for k in range(LAYERS)])
    table = CostTable.of(size, ARCH, WIDTHS)
    shifts = {"same": 0, "wider": 2, "narrower": -1}
    student = Network(ARCH, {n: table.config(indices + torch.tensor([by, 0])) for n, by in shifts.items()})
    student.inherit(full_precision)
    give_integers(net, indices, student, pictures)
    student.train()
    with torch.no_grad():
        wanted = net(pictures, mix_exactly(indices, net))
        logits = {name: student(pictures, name) for name in shifts}
    assert torch.equal(logits["same"], wanted)  # to the last bit: steps are equal, not only near
    errors = {name: float((logits[name] - wanted).abs().max()) for name in shifts}
    assert errors["wider"] < 0.1 * errors["narrower"]
    for position, layer in enumerate(open_layers(ARCH)):
        conv, planes = student.convs[key(layer)], net.convs[key(layer)].variants[RELAXED].w
        codes, _ = weights_by_hand(planes, WIDTHS[int(indices[position, 0])])
        for name, by in shifts.items():
            q = conv.variants[name].w
            quantized = (conv.weight / q.step() + 0.5).floor()
            off = np.abs(quantized.detach().numpy() - codes * 2.0**by)
            assert off.max() == 0 if by >= 0 else off.max() <= 0.5
            assert by < 0 or bool((quantized >= q.qmin).all() and (quantized <= q.qmax).all())
