"""The bit policy, and the way from a policy to few variants."""

import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runtime.choice.quality import D
from tests.support.searches import LAYERS, WIDTHS, bitops_table, chance
from tests.support.sessions import bare_session, quiet_run
from train.bits.configs import distinct
from train.bits.cost import CostTable
from train.data.batches import Batches
from train.loop.training import train_phase
from train.network.relaxed import one_hot
from train.search.dqmq import DqmqModules, PolicyPhase, reduce_policy
from train.search.policy import Policy, log_probability, policy_gradient, sample
from train.search.quality import ViewQuality
from train.search.reduction import cluster, count_items, k_medoids, most_likely, within_budget
from train.search.shared import Search
from train.settings.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table() -> CostTable:
    return bitops_table()


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
    wanted = torch.autograd.grad(sum(a * r for a, r in zip(p, rewards, strict=True)), parameters, retain_graph=True)
    loss = sum(
        float((p[i] * p[j]).detach()) * policy_gradient(log_p, [every[i], every[j]], [rewards[i], rewards[j]])
        for i in range(4)
        for j in range(4)
    )
    gradients = torch.autograd.grad(loss, parameters)
    assert all(torch.allclose(-a, b, rtol=1e-9) for a, b in zip(gradients, wanted, strict=True))


class Needy(nn.Module):
    """Logits that are right the more often, the more bits a picture gets, but only on pictures of a needy kind.

    A picture's first pixel is its label, the second its kind. detached: the widths' gradient is hidden, so that only
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
    quality = ViewQuality(q, (q[..., 0] > 0).long(), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.5, 0.5]))
    batches = Batches(views, labels, batch=batch, pictures=0, seed=1, flip=False, device=torch.device("cpu"))
    batches.get = lambda order, phase, epoch, step: tuple(
        torch.from_numpy(a)
        for a in (
            views[order[1][step * batch :][:batch], order[0][step * batch :][:batch]],
            labels[order[0][step * batch :][:batch]],
        )
    )
    settings = Settings.of(method="dqmq", budget=0.4, policy_gradient=2.0 if detached else 0.5, policy_lr=0.05)
    net = DqmqModules(Needy(needy, WIDTHS, detached), Policy(LAYERS, WIDTHS, 1))
    run = quiet_run(tmp_path)
    search = Search(bare_session(settings, run), table)
    epochs = steps * batch // count
    beside = {"search": search, "parts": [], "quality": quality}
    phase = PolicyPhase("search", net, ("task", "policy"), epochs, 0.01, None, **beside)
    train_phase(phase, run, batches, None, dict)
    clear, poor = net.policy.mean(quality.centres).mean((1, 2)).tolist()
    wanted, other = (poor, clear) if needy else (clear, poor)
    assert wanted > other + 0.7, (clear, poor)
    assert float(phase.expected_cost().detach()) < 0.4 * 1.1


def test_medoids_are_as_good_as_trying_all():
    rng = np.random.default_rng(0)
    for k in (1, 2, 3):
        points, weight = rng.normal(size=(9, 2)), rng.random(9)
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
        least = min((weight * distance[:, list(c)].min(1)).sum() for c in itertools.combinations(range(9), k))
        medoids = k_medoids(distance, weight, k)
        assert (weight * distance[:, medoids].min(1)).sum() <= 1.05 * least and len(set(medoids)) == k


def test_configurations_keep_the_budget_and_spend_what_the_policy_wants(table):
    log_p = torch.log_softmax(torch.randn(20, LAYERS, 2, 4, generator=chance()).double(), -1)
    free = float(table.of_indices(most_likely(log_p, table, 0)).mean())
    before = 0.0
    for budget in (0.1, 0.2, 0.35, free, 0.7):
        cost = float(table.of_indices(within_budget(log_p, table, budget, cheaper=True)).mean())
        assert before <= cost <= min(budget, free) * (1 + 1e-9)
        before = cost
    assert float(table.of_indices(within_budget(log_p, table, 0.7, cheaper=False)).mean()) > free


def test_clusters_tell_qualities_apart_before_they_repeat_one(table):
    wide, narrow = torch.full((LAYERS, 2), 3), torch.zeros(LAYERS, 2, dtype=torch.int64)
    kinds, centres = np.array([0, 0, 1, 1, 2, 2]), np.array([[0.0], [1.0], [5.0]])
    unlike = count_items([torch.stack([wide, wide, wide, wide, narrow, narrow])], kinds)
    clusters = cluster(unlike, table, centres, 2)
    assert {(c.kinds, tuple(c.indices.flatten().tolist())) for c in clusters} == {
        ((0, 1), tuple(wide.flatten().tolist())),
        ((2,), tuple(narrow.flatten().tolist())),
    }
    alike = count_items([wide.expand(6, -1, -1)], kinds)
    assert [c.kinds for c in cluster(alike, table, centres, 1)] == [()]
    assert {c.kinds for c in cluster(alike, table, centres, 2)} == {(0, 1), (2,)}


@pytest.mark.parametrize("levels", [1, 3])
def test_a_policy_becomes_variants_within_the_budget(table, levels):
    policy, rng = Policy(LAYERS, WIDTHS, 2), chance()
    with torch.no_grad():
        policy.v.normal_(0, 0.7, generator=rng)
        policy.t.fill_(0.5)
    q = torch.randn(2, 60, 2, generator=rng)
    kind = (q[..., 0] > 0).long()
    centres = torch.stack([q[kind == k].mean(0) for k in (0, 1)])
    quality = ViewQuality(q, kind, centres, torch.tensor([0.5, 0.5]))
    settings = Settings.of(method="dqmq", budget=0.3, variants=4, levels=levels)
    variants = distinct(reduce_policy(Search(bare_session(settings), table), policy, quality))
    (shared,) = (v for v in variants if v.name.startswith("shared"))
    assert shared.cost <= 0.3 and shared.kinds == () and 3 <= len(variants) <= 4
    assert sum(not v.kinds for v in variants) <= levels
    assert any(v.kinds for v in variants) and all(set(v.kinds) <= {0, 1} for v in variants)
    assert all(re.fullmatch(r"[\w-]+", v.name) for v in variants)
    costs = [v.cost for v in variants]
    assert (max(costs) > 0.36) == (levels == 3)
