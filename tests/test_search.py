"""Searches for bits: costs, open widths, policies, integer programs, reduction to variants, and whole searches."""

import dataclasses
import itertools
import json
import re
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runtime.quality import D
from train import checkpoint, configs, loop
from train.architectures import architecture
from train.batches import Batches, generator
from train.configs import Configs, ConfigsError, Variant, distinct, pareto
from train.cost import CostError, CostTable, bitops, layer_cost, relative, size
from train.dqmq import PolicyPhase, Quality, reduce
from train.fracbits import RealWidths, interpolate, uniform_width
from train.groups import Groups, find_groups
from train.ilp import from_steps, solve
from train.loop import Run
from train.lowering import lower
from train.networks import Network
from train.onnx_writer import to_onnx
from train.parallel import Group
from train.phases import Bits, variant_bits
from train.policy import Policy, log_probability, policy_gradient, sample
from train.reduction import clusters, configurations, items, k_medoids, within
from train.relaxed import Mixed, Mixture, RelaxedNetwork, one_hot, open_layers
from train.run import learn
from train.search import Search
from train.settings import Settings, parse

ARCH = architecture("resnet8", (8, 8, 3), 10)
WIDTHS = (2, 3, 4, 8)
LAYERS = len(open_layers(ARCH))
SMALL = ["--limit", "48", "--batch", "16", "--epochs", "1", "--search-epochs", "4", "--families", "clean,contrast",
         "--workers", "1", "--checkpoint-minutes", "0", "--widths", "2,4,8"]


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def table() -> CostTable:
    return CostTable.of(bitops, ARCH, WIDTHS)


def small_table(layers: int, widths: int, seed: int) -> CostTable:
    prices = torch.rand(layers, widths, widths, generator=chance(seed)).double()
    return CostTable(ARCH, tuple(range(2, 2 + widths)), prices, 0.1)


# costs

def test_table_and_network_agree_on_the_cost(table):
    for cost in (bitops, size):
        some = CostTable.of(cost, ARCH, WIDTHS)
        for seed in range(3):
            indices = torch.randint(4, (LAYERS, 2), generator=chance(seed))
            config = some.config(indices)
            assert float(some.of_indices(indices)) == pytest.approx(relative(cost, ARCH, config), rel=1e-12)
            assert torch.equal(some.indices(config), indices)
    assert relative(bitops, ARCH, variant_bits(ARCH, 8, 8)) == 1.0
    ends = sum(layer.macs for layer in (ARCH.stem, ARCH.classifier)) / sum(layer.macs for layer in ARCH.layers)
    assert relative(bitops, ARCH, variant_bits(ARCH, 4, 2)) == pytest.approx(ends + (1 - ends) / 8, rel=1e-12)
    assert relative(size, ARCH, variant_bits(ARCH, 4, 8)) == relative(size, ARCH, variant_bits(ARCH, 4, 2))


def test_expected_cost_is_the_mean_over_drawn_configurations(table):
    p = torch.softmax(torch.randn(LAYERS, 2, 4, generator=chance()).double(), -1)
    drawn = torch.multinomial(p.flatten(0, 1), 20000, True, generator=chance(1)).T.reshape(-1, LAYERS, 2)
    costs = table.of_indices(drawn)
    assert abs(float(costs.mean() - table.expected(p))) < 5 * float(costs.std()) / len(costs)**0.5
    assert torch.allclose(table.expected(one_hot(drawn[:9], 4).double()), costs[:9], rtol=1e-12, atol=0)


def test_gradients_of_cost_and_policy_are_right(table):
    policy = Policy(LAYERS, WIDTHS, 3).double()
    q = torch.randn(2, 3, generator=chance(), dtype=torch.float64)
    with torch.no_grad():
        policy.v.normal_(0, 0.5, generator=chance(1))
    drawn = torch.randint(4, (LAYERS, 2), generator=chance(2))
    parameters = [policy.u, policy.v, policy.t]

    def both(*values):
        log_p = torch.func.functional_call(policy, dict(zip(("u", "v", "t"), values, strict=True)), (q,))
        return table.expected(log_p.exp()).sum(), log_probability(log_p[0], drawn)
    assert torch.autograd.gradcheck(both, parameters)


def test_a_budget_out_of_reach_is_refused_with_what_can_be_reached(table):
    table.check(table.minimum)
    assert float(table.of_indices(table.cheapest())) == pytest.approx(table.minimum)
    with pytest.raises(CostError, match=f"--budget 0.05: the least that widths 2, 3, 4, 8.*{table.minimum:.4f}"):
        table.check(0.05)
    with pytest.raises(CostError, match="--budget 0.05"):
        Bits.of(Settings(method="dqmq", budget=0.05), ARCH)


def test_latency_is_read_from_the_target_s_table(monkeypatch):
    asked = []

    def load(target):
        if target != "x86:avx2":
            raise ValueError(f"{target}: expected a table of costs, found none")
        return types.SimpleNamespace(layer=lambda shape, bits: (asked.append((shape, bits)) or (3.0, "measured")))
    shapes = types.SimpleNamespace(Shape=lambda *a, **k: (*a, *k.values()))
    monkeypatch.setitem(sys.modules, "compile.costs", types.SimpleNamespace(load=load, CostsError=KeyError))
    monkeypatch.setitem(sys.modules, "compile.shapes", shapes)
    cost = layer_cost("latency", "x86")
    assert cost(ARCH.blocks[1].conv2, 4, 2) == 3.0
    assert asked == [(("conv", (3, 3), 1, (4, 4, 32), (4, 4, 32), True, (1,)), "w4a2")]
    with pytest.raises(CostError, match="--cost latency --target arm: arm:cortex-a72: expected a table.*--cost bitops"):
        layer_cost("latency", "arm")


def test_widths_grow_where_that_is_free(table):
    indices = torch.randint(4, (LAYERS, 2), generator=chance())
    assert torch.equal(table.widened(indices), indices)  # BitOPs: no width is free
    steps = table.table.clone()
    steps[:, :2, :2] = steps[:, :1, :1]  # 3 bits as fast as 2
    some = dataclasses.replace(table, table=steps)
    narrow = torch.zeros(LAYERS, 2, dtype=torch.int64)
    assert torch.equal(some.widened(narrow), narrow + 1)
    assert float(some.of_indices(narrow + 1)) == float(some.of_indices(narrow))


# open widths

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
    came = torch.autograd.grad(out, (y, x), upstream)
    assert torch.allclose(came[0], slopes, rtol=1e-9) and torch.allclose(came[1], plain, rtol=1e-9)


def test_one_convolution_a_layer_and_one_quantizer_a_tensor(monkeypatch):
    net, counts = RelaxedNetwork(ARCH, WIDTHS, groups=2), {"conv": 0, "quantize": 0}
    net.inherit(Network(ARCH, {}))
    pictures = torch.randint(256, (6, 8, 8, 3), generator=chance(), dtype=torch.uint8)
    net.calibrate(pictures)
    convolve, apply = F.conv2d, __import__("train.quant").quant.fake_quantize
    monkeypatch.setattr(F, "conv2d", lambda *a, **k: (counts.update(conv=counts["conv"] + 1), convolve(*a, **k))[1])
    monkeypatch.setattr("train.quant.fake_quantize",
                        lambda *a: (counts.update(quantize=counts["quantize"] + 1), apply(*a))[1])
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
        ours = open_net(pictures, Mixture.of(one_hot(torch.full((LAYERS, 2), 3), 4)))
        theirs = closed(pictures, "w8a8")
    assert float((ours - theirs).abs().max()) < 0.1 * float(theirs.abs().max())


# real widths

def test_interpolated_widths_have_the_mean_asked_for():
    widths = torch.tensor(WIDTHS, dtype=torch.float64)
    bits = torch.tensor([2.0, 2.25, 3.0, 5.0, 8.0, 9.0, 1.0], dtype=torch.float64, requires_grad=True)
    y = interpolate(bits, widths)
    assert torch.allclose(y @ widths, bits.clamp(2, 8)) and bool((y >= 0).all()) and bool(((y > 0).sum(-1) <= 2).all())
    (y @ widths).sum().backward()
    assert torch.equal(bits.grad[:5], torch.ones(5, dtype=torch.float64))


def test_rounded_widths_keep_the_budget_and_their_order(table):
    real = RealWidths(LAYERS, WIDTHS, 0)
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


# integer program

@pytest.mark.parametrize("seed", range(4))
def test_integer_program_is_as_good_as_trying_all(seed):
    table, rng = small_table(3, 2, seed), np.random.default_rng(seed)
    loss = rng.normal(size=(3, 2, 2))
    everything = [torch.tensor(c).view(3, 2) for c in itertools.product(range(2), repeat=6)]
    costs = torch.stack([table.of_indices(c) for c in everything])
    losses = np.array([sum(loss[layer, w, a] for layer, (w, a) in enumerate(c.tolist())) for c in everything])
    for budget in (table.minimum, 0.9, 1.4, 5.0):
        found = solve(loss, table, budget)
        assert float(table.of_indices(found)) <= budget + 1e-9
        best = losses[(costs <= budget + 1e-9).numpy()].min()
        assert sum(loss[la, w, a] for la, (w, a) in enumerate(found.tolist())) == pytest.approx(best, abs=1e-9)


def test_steps_alone_say_that_fewer_bits_hurt_more(table):
    net = RelaxedNetwork(ARCH, WIDTHS)
    net.inherit(Network(ARCH, {}))
    net.calibrate(torch.randint(256, (32, 8, 8, 3), generator=chance(), dtype=torch.uint8))
    loss = from_steps(net, table)
    assert loss.shape == (LAYERS, 4, 4) and (np.diff(loss, axis=1) < 0).all() and (np.diff(loss, axis=2) < 0).all()
    assert float(table.of_indices(solve(loss, table, 0.3))) <= 0.3


# policy

def test_a_new_policy_believes_nothing_of_quality():
    log_p = Policy(LAYERS, WIDTHS, D)(torch.randn(5, D, generator=chance()))
    assert torch.equal(log_p, log_p[:1].expand_as(log_p))
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(5, LAYERS, 2))


def test_samples_follow_the_distribution():
    log_p = torch.log_softmax(torch.randn(1, 2, 4, generator=chance()), -1)
    drawn, random = [], chance(1)
    for _ in range(4000):
        y, indices = sample(log_p, 0.5, random)
        drawn.append(indices)
        assert torch.equal(y.argmax(-1), indices)
    share = one_hot(torch.cat(drawn), 4).mean(0)
    assert float((share - log_p[0].exp()).abs().max()) < 5 * 0.5 / 4000**0.5


def test_policy_gradient_is_that_of_the_expected_reward():
    """Over all pairs of samples of a policy of four configurations, by their probabilities: exact."""
    policy, rewards = Policy(1, (2, 8), 1).double(), [0.3, -1.0, 2.0, 0.7]
    log_p = policy(torch.zeros(1, dtype=torch.float64))
    every = [torch.tensor([c]) for c in itertools.product(range(2), repeat=2)]
    p = [log_probability(log_p, c).exp() for c in every]
    parameters = (policy.u, policy.t)
    wanted = torch.autograd.grad(sum(a * r for a, r in zip(p, rewards, strict=True)), parameters,
                                 retain_graph=True)
    loss = sum(float((p[i] * p[j]).detach()) * policy_gradient(log_p, [every[i], every[j]], [rewards[i], rewards[j]])
               for i in range(4) for j in range(4))
    came = torch.autograd.grad(loss, parameters)
    assert all(torch.allclose(-a, b, rtol=1e-9) for a, b in zip(came, wanted, strict=True))


class Needy(nn.Module):
    """Logits that are right the more often, the more bits a picture gets, but only on pictures of a needy group.

    A picture's first pixel is its label, the second its group. detached: the widths' gradient is hidden, so that only
    the policy gradient can tell.
    """

    def __init__(self, needy: int, widths, detached: bool):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.needy, self.detached, self.worth = needy, detached, torch.tensor(widths) / max(widths)

    def forward(self, pictures, mixture):
        y = torch.stack(mixture.rows)
        value = (y.detach() + 0 * y if self.detached else y) @ self.worth
        need = (pictures[:, 0, 1, 0] == self.needy).float()
        margin = 2.0 + need * 6 * (value.mean() - 0.7)
        return F.one_hot(pictures[:, 0, 0, 0].long(), 10) * margin[:, None] + 0 * self.unused

    def keep_gains_positive(self):
        pass


@pytest.mark.parametrize("needy", [0, 1], ids=["clear pictures need bits", "poor pictures need bits"])
@pytest.mark.parametrize("detached", [False, True], ids=["by relaxation", "by policy gradient alone"])
def test_policy_learns_which_quality_needs_bits(table, tmp_path, needy, detached):
    count, batch, steps = 64, 16, 480
    views = np.zeros((2, count, 8, 8, 3), np.uint8)
    labels = np.arange(count) % 10
    views[:, :, 0, 0, 0], views[1, :, 0, 1, 0] = labels, 1
    q = torch.tensor([-1.0, 1.0]).view(2, 1, 1).expand(2, count, 1)
    quality = Quality(q, (q[..., 0] > 0).long(), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.5, 0.5]))
    batches = Batches(views, labels, batch=batch, pictures=0, seed=1, flip=False, device=torch.device("cpu"))
    batches.get = lambda order, phase, epoch, step: tuple(
        torch.from_numpy(a) for a in (views[order[1][step * batch:][:batch], order[0][step * batch:][:batch]],
                                      labels[order[0][step * batch:][:batch]]))
    settings = Settings(method="dqmq", budget=0.4, policy_gradient=2.0 if detached else 0.5, policy_lr=0.05)
    net = nn.ModuleDict({"open": Needy(needy, WIDTHS, detached), "policy": Policy(LAYERS, WIDTHS, 1)})
    given = types.SimpleNamespace(settings=settings, table=table)
    phase = PolicyPhase("search", net, ("task", "policy"), steps * batch // count, 0.01, None, search=given)
    phase.quality = quality
    run = Run(tmp_path, {}, Group(rank=1), None, 1e9, None)
    loop.train(phase, batches, run, None, lambda phase: {})
    clear, poor = net["policy"].mean(quality.centres).mean((1, 2)).tolist()
    wanted, other = (poor, clear) if needy else (clear, poor)
    assert wanted > other + 0.7, (clear, poor)
    assert float(phase.expected_cost().detach()) < 0.4 * 1.1


# groups and batches

def test_groups_are_found_and_come_back_from_their_dictionary():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2000, (3, D))
    truth = rng.integers(0, 3, 900)
    quality = (centres[truth] + rng.normal(0, 100, (900, D))).astype(np.int32)
    groups = find_groups(quality, rng.random(900), 0, 0)
    assert len(groups) == 3
    again = Groups.from_dict(json.loads(json.dumps(groups.to_dict())))
    found = again.assign(again.standardize(quality))
    pairs = set(zip(truth.tolist(), found.tolist(), strict=True))
    assert len(pairs) == 3 and len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 3


def some_batches(views) -> Batches:
    return Batches(views, np.arange(views.shape[1]), batch=10, pictures=0, seed=3, flip=True,
                   device=torch.device("cpu"))


def test_batches_of_one_quality_and_of_mostly_one():
    groups = torch.randint(4, (3, 200), generator=chance())
    views = np.broadcast_to(groups.numpy().astype(np.uint8)[..., None, None, None], (3, 200, 8, 8, 3))
    batches = some_batches(views)
    (pictures, families), of = batches.alike("search", 2, groups)
    assert pictures.shape == families.shape == (200,) and of.shape == (20,)
    assert torch.equal(groups[families, pictures].view(20, 10), of[:, None].expand(20, 10))
    share = torch.bincount(of, minlength=4) / 20 - torch.bincount(groups.flatten(), minlength=4) / 600
    assert float(share.abs().max()) <= 1 / 20
    again = some_batches(views).alike("search", 2, groups)
    assert torch.equal(again[0][0], pictures) and not torch.equal(batches.alike("search", 1, groups)[0][0], pictures)
    pictures, families = batches.order("joint", 0, groups == 2)
    own = float((groups[families, pictures] == 2).float().mean())
    assert own == pytest.approx(0.75 + 0.25 / 4, abs=0.1)
    assert bool((batches.sample(7, groups == 2) == 2).all())


# from policy to variants

def test_medoids_are_as_good_as_trying_all():
    rng = np.random.default_rng(0)
    for k in (1, 2, 3):
        points, weight = rng.normal(size=(9, 2)), rng.random(9)
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
        least = min((weight * distance[:, list(c)].min(1)).sum() for c in itertools.combinations(range(9), k))
        found = k_medoids(distance, weight, k)
        assert (weight * distance[:, found].min(1)).sum() <= 1.05 * least and len(set(found)) == k


def test_configurations_keep_the_budget_and_spend_what_the_policy_wants(table):
    log_p = torch.log_softmax(torch.randn(20, LAYERS, 2, 4, generator=chance()).double(), -1)
    free = float(table.of_indices(configurations(log_p, table, 0)).mean())
    before = 0.0
    for budget in (0.1, 0.2, 0.35, free, 0.7):
        cost = float(table.of_indices(within(log_p, table, budget, cheaper=True)).mean())
        assert before <= cost <= min(budget, free) * (1 + 1e-9)
        before = cost
    assert float(table.of_indices(within(log_p, table, 0.7, cheaper=False)).mean()) > free


def test_clusters_tell_qualities_apart_before_they_repeat_one(table):
    wide, narrow = torch.full((LAYERS, 2), 3), torch.zeros(LAYERS, 2, dtype=torch.int64)
    groups, centres = np.array([0, 0, 1, 1, 2, 2]), np.array([[0.0], [1.0], [5.0]])
    found = clusters(items([torch.stack([wide, wide, wide, wide, narrow, narrow])], groups), table, centres, 2)
    assert {(c.groups, tuple(c.indices.flatten().tolist())) for c in found} == {
        ((0, 1), tuple(wide.flatten().tolist())), ((2,), tuple(narrow.flatten().tolist()))}
    alike = clusters(items([wide.expand(6, -1, -1)], groups), table, centres, 1)
    assert [c.groups for c in alike] == [()]
    assert {c.groups for c in clusters(items([wide.expand(6, -1, -1)], groups), table, centres, 2)} == {(0, 1), (2,)}


@pytest.mark.parametrize("levels", [1, 3])
def test_a_policy_becomes_variants_within_the_budget(table, levels):
    policy, rng = Policy(LAYERS, WIDTHS, 2), chance()
    with torch.no_grad():
        policy.v.normal_(0, 0.7, generator=rng)
        policy.t.fill_(0.5)
    q = torch.randn(2, 60, 2, generator=rng)
    group = (q[..., 0] > 0).long()
    centres = torch.stack([q[group == g].mean(0) for g in (0, 1)])
    quality = Quality(q, group, centres, torch.tensor([0.5, 0.5]))
    settings = Settings(method="dqmq", budget=0.3, variants=4, levels=levels)
    found = distinct(reduce(Search(settings, None, None, None, None, table, None), policy, quality))
    shared, = (v for v in found if v.name.startswith("shared"))
    assert shared.cost <= 0.3 and shared.groups == () and 3 <= len(found) <= 5
    assert sum(not v.groups for v in found) <= levels
    assert any(v.groups for v in found) and all(set(v.groups) <= {0, 1} for v in found)
    assert all(re.fullmatch(r"[\w-]+", v.name) for v in found)
    costs = [v.cost for v in found]
    assert (max(costs) > 0.36) == (levels == 3)


# configurations on disk

def variant(name, cost, loss, bits=None, groups=()) -> Variant:
    return Variant(name, bits or variant_bits(ARCH, 4, 4), cost, "ilp", groups, loss)


def test_configurations_come_back_from_their_file(tmp_path):
    names = tuple(layer.name for layer in ARCH.layers)
    seen = (variant("a", 0.2, 1.0), variant("b", 0.3, 1.1), variant("c", 0.4, 0.5, variant_bits(ARCH, 8, 4)))
    assert [v.name for v in pareto(seen)] == ["a", "c"]
    assert [v.name for v in distinct((seen[0], dataclasses.replace(seen[2], name="a"), seen[1]))] == ["a", "a-2"]
    found = Configs({"arch": "resnet8"}, seen[:1], seen)
    path = found.write(tmp_path)
    assert configs.read(path) == found
    assert configs.load(str(path), names).variants == seen[:1]
    assert configs.load(f"{path}:c,b", names).variants == (seen[2], seen[1])
    assert [v.name for v in configs.load(f"{path}:c+{path}:b", names).variants] == ["c", "b"]
    for text, words in ((f"{path}:d", "no configuration d; it has a, b, c"), (f"{path}:a+{path}:a", "different names"),
                        (f"{tmp_path}/no.json", "give the configs.json of a run")):
        with pytest.raises(ConfigsError, match=words):
            configs.load(text, names)
    with pytest.raises(ConfigsError, match="--arch it was found for"):
        configs.load(str(path), names[:-1])


# whole searches

class Killed(BaseException):
    """As kill -9 would, a moment after a checkpoint was written."""


def learned(folder, cache, method, *more):
    """(settings, student) of a small run of the whole training."""
    settings = parse([*SMALL, "--method", method, "--out", str(folder), "--cache", str(cache), *more])
    return settings, learn(settings)[2]


@pytest.mark.parametrize("method,more", [("fracbits", ()), ("ilp", ("--variants", "2")), ("dqmq", ("--groups", "2"))])
def test_a_search_killed_and_resumed_ends_the_same(tmp_path, monkeypatch, method, more):
    (_, whole), cache = learned(tmp_path / "whole", tmp_path, method, *more), tmp_path
    save, saved = checkpoint.save, []

    def stop(folder, modules, optimizer, names, state):
        save(folder, modules, optimizer, names, state)
        saved.append(state["phase"])
        if saved.count("search") == 7:
            raise Killed
    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(Killed):
        learned(tmp_path / "again", cache, method, *more)
    monkeypatch.setattr(checkpoint, "save", save)
    assert (tmp_path / "again" / configs.NAME).exists()  # the best so far
    _, resumed = learned(tmp_path / "again", cache, method, *more, "--resume")
    for name in (configs.NAME, "metrics.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    found = configs.read(tmp_path / "whole" / configs.NAME)
    assert found.variants and all(v.method == method for v in found.variants)
    budget = 0.5 * 2**0.5 + 1e-6
    assert all(v.cost <= budget for v in found.variants if not v.groups)
    assert whole.bits == resumed.bits == found.bits
    for name in whole.bits:
        ours, theirs = (to_onnx(lower(net, name), {}).SerializeToString(deterministic=True) for net in (whole, resumed))
        assert ours == theirs
    if method == "dqmq":
        _, given = learned(tmp_path / "given", cache, "fixed", "--configs", str(tmp_path / "whole" / configs.NAME))
        for (name, ours), theirs in zip(given.state_dict().items(), whole.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), name


def test_random_numbers_of_a_search_are_its_own():
    assert not torch.equal(torch.rand(3, generator=generator(0, "search", "widths", 0, 0)),
                           torch.rand(3, generator=generator(0, "search", "widths", 0, 1)))
