"""DQMQ: bits by a policy that sees the picture's quality (after Wang et al. 2023, arXiv 2302.04453).

    loss = task + COST_WEIGHT * [expected cost / budget - 1]_+ - lambda_H * entropy + lambda_RL * policy gradient

The paper's hybrid objective: the task's gradient reaches the policy through the one-hot widths (straight-through Gumbel
softmax), and the policy gradient corrects what that leaves out. The policy's form is ours (train/search/policy.py).
Batches are of one quality kind each, since a convolution has one weight for its whole batch. Policy and weights learn
in the same steps: taking turns (MetaMix, arXiv 2311.06798) left both behind after as many. With --quantizer csq all
widths of a layer's weights share bit planes, and the policy says how many of them count.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.choice.quality import features
from train.bits.configs import Configuration
from train.data.batches import Batches, Order, generator
from train.loop.phase import distillation_loss, teacher_logits
from train.network.network import Network
from train.network.relaxed import Mixture, RelaxedNetwork, one_hot
from train.search.depths import temperatures
from train.search.fracbits import uniform_width
from train.search.integers import SETTLING_PICTURES, give_integers
from train.search.judging import judge_bits
from train.search.policy import Policy, entropy, policy_gradient, sample
from train.search.quality import ViewQuality, find_quality
from train.search.reduction import cluster, count_items, within_budget
from train.search.shared import Search, SearchModules, SearchPhase, held_losses

WARM = 0.1  # share of the steps at the widest widths, before the policy learns
FREEZE = 0.8  # share of the steps after which the most likely widths are fixed
COST_WEIGHT = 4.0
ENTROPY_WEIGHT = 0.02  # lambda_H when the policy starts to learn; it falls to 0 until the policy is frozen
HOTTEST = 1.0  # temperature of the samples in the beginning
COLDEST = 0.1  # and in the end; it falls geometrically
REDUCED_VIEWS = 768  # whose configurations are clustered


class DqmqModules(SearchModules):
    """The network of open widths, and the policy that chooses them."""

    def __init__(self, relaxed: RelaxedNetwork, policy: Policy):
        super().__init__(relaxed)
        self.policy = policy


@dataclass
class PolicyPhase(SearchPhase):
    """Training of weights and policy at once; quality: that of all training views."""

    net: DqmqModules
    quality: ViewQuality = field(kw_only=True)

    def orders(self, batches: Batches, epoch: int) -> list[Order]:
        """Returns an order whose batches are each of one quality kind."""
        return [batches.alike(self.name, epoch, self.quality.kind)[0]]

    def losses(self, batches: Batches, orders: list[Order], epoch: int, step: int) -> Iterator[tuple[str, Tensor]]:
        """Yields the task's scalar loss of each sample of widths, and the policy's loss while it learns."""
        settings = self.search.settings.bits
        pictures, labels = batches.get(orders[0], self.name, epoch, step)
        q, kind = self._batch_quality(orders[0], batches, step)
        taught = teacher_logits(self.teacher, pictures)
        learned = self._learned(batches, epoch, step)
        learning = 0 <= learned < 1
        beta, _ = temperatures(self.progress(batches, epoch, step))
        rng = generator(batches.seed, self.name, "widths", epoch, step)
        drawn: list[Tensor] = []
        rewards: list[float] = []
        samples = settings.samples if learning else 1
        for number in range(samples):
            part = slice(number, None, samples)
            y, indices = self._choose_widths(self.net.policy(q), learned, rng)
            logits = self.net.relaxed(pictures[part], Mixture.of(y, kind, beta))
            taught_part = None if taught is None else taught[part]
            yield "task", distillation_loss(logits, labels[part], taught_part) / batches.batch
            drawn.append(indices)
            rewards.append(reward(logits.detach(), taught_part, labels[part]))
        if learning:
            log_p = self.net.policy(q)
            excess = torch.relu(self.expected_cost() / self.budget - 1)
            chosen = settings.policy_gradient * policy_gradient(log_p, drawn, rewards)
            exploring = ENTROPY_WEIGHT * (1 - learned) * entropy(log_p)
            yield "policy", (COST_WEIGHT * excess - exploring + chosen) / self.processes

    def expected_cost(self) -> Tensor:
        """Returns the scalar mean cost over all kinds: pictures of one may cost more if those of another cost less."""
        p = self.net.policy(self.quality.centres.to(self.net.policy.u.device)).exp()
        return (self.table.expected(p) * self.quality.shares.to(p.device)).sum()

    def validate(self) -> dict[str, float]:
        """Writes the configurations found so far; returns cost, mean widths of each kind, and held losses."""
        with torch.no_grad():
            centres = self.quality.centres.to(self.search.device)
            means = self.net.policy.mean(centres).mean(1).cpu()
            cost = float(self.expected_cost())
        bits = {f"{head}_bits/group{g}": float(means[g, k]) for g in range(len(means)) for k, head in enumerate("wa")}
        return {"cost": cost, **bits, **held_losses(self.record_best())}

    def record_result(self) -> None:
        """Writes the variants that the policy has come to."""
        self.record_best()

    def record_best(self) -> list[Configuration]:
        """Makes variants of the policy, and writes and returns them."""
        best = [replace(v, loss=self._held_loss(v)) for v in reduce_policy(self.search, self.net.policy, self.quality)]
        self.search.record(best, [v for v in best if not v.kinds])  # losses on other pictures do not compare
        return best

    def _held_loss(self, variant: Configuration) -> float | None:
        """The loss of a variant on held pictures of its kinds; None where there are none."""
        parts = [part for part in self.parts if not variant.kinds or part.kind in variant.kinds]
        return judge_bits(self.net.relaxed, self.table.indices(variant.bits), parts) if parts else None

    def _learned(self, batches: Batches, epoch: int, step: int) -> float:
        """The share that is done of the time in which the policy learns; negative before, 1 or more after it."""
        return (self.progress(batches, epoch, step) - WARM) / (FREEZE - WARM)

    def _batch_quality(self, order: Order, batches: Batches, step: int) -> tuple[Tensor, int]:
        """The mean q [D] of a whole batch, whichever part of it this process has, and the batch's kind."""
        pictures, families = order
        rows = slice(step * batches.batch, (step + 1) * batches.batch)
        q = self.quality.q[families[rows], pictures[rows]].mean(0).to(batches.device)
        first = step * batches.batch
        return q, int(self.quality.kind[families[first], pictures[first]])

    def _choose_widths(self, log_p: Tensor, learned: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """One-hot y [L, 2, W] and its indices: the widest first, then drawn from the policy, last its most likely."""
        widths = log_p.shape[-1]
        if 0 <= learned < 1:
            return sample(log_p, HOTTEST * (COLDEST / HOTTEST) ** learned, rng)
        widest = torch.full_like(log_p[..., 0], widths - 1).long()
        indices = log_p.argmax(-1) if learned >= 1 else widest
        return one_hot(indices, widths), indices


def reward(logits: Tensor, taught: Tensor | None, labels: Tensor) -> float:
    """Returns minus the mean cross entropy of logits [B, classes], less that of the teacher's on the same pictures.

    How hard the pictures are is no sample's merit. Cost is not in it, since its gradient is exact already. taught:
    [B, classes]; labels: int64 [B].
    """
    hardness = 0.0 if taught is None else float(F.cross_entropy(taught, labels))
    return hardness - float(F.cross_entropy(logits, labels))


def reduce_policy(search: Search, policy: Policy, quality: ViewQuality) -> list[Configuration]:
    """Returns the variants of a policy: clustered configurations for kinds and cost levels, and one for everything.

    The latter keeps the budget alone; a cluster that is for all kinds at the budget as well gives way to it.
    """
    table = search.table
    budget = search.settings.bits.budget
    q = quality.q.flatten(0, 1)
    some = torch.linspace(0, len(q) - 1, min(REDUCED_VIEWS, len(q))).long()
    with torch.no_grad():
        log_p = policy(q[some].to(policy.u.device)).cpu().double()
    budgets = search.budgets(search.settings.bits.levels)
    levels = [within_budget(log_p, table, b, cheaper=b <= budget) for b in budgets]
    items = count_items(levels, quality.kind.flatten()[some].numpy())
    clusters = cluster(items, table, quality.centres.numpy(), max(1, search.settings.bits.variants - 1))
    shared = within_budget(log_p.mean(0, keepdim=True), table, budget, cheaper=True)[0]
    variants = [search.configuration("shared", table.widened(shared))]
    for c in clusters:
        if c.kinds or budgets[c.level] != budget:
            name = "q" + "_".join(map(str, c.kinds)) if c.kinds else "all"
            variants.append(search.configuration(name, table.widened(c.indices), kinds=c.kinds))
    return variants


def initialise_by_planes(search: Search, net: RelaxedNetwork, student: Network) -> None:
    """Gives all variants of a student the exact bits of the planes they share: the widest theirs, others rounded."""
    variants = search.configs().variants
    widest = torch.stack([search.table.indices(v.bits) for v in variants]).amax(0)
    first_kind = {v.name: v.kinds[0] for v in variants if v.kinds}
    give_integers(net, widest, student, search.session.batches.sample(SETTLING_PICTURES), first_kind)


def find_bits(search: Search) -> PolicyPhase:
    """Trains policy and weights; returns the phase, which then records the variants of the policy."""
    table = search.table
    kinds, quality = find_quality(search)
    search.session.run.configs = replace(search.configs(), kinds=kinds.to_dict())
    planes = None
    if search.settings.bits.quantizer == "csq":
        width = uniform_width(table, search.settings.bits.budget)
        planes = min(range(len(table.widths)), key=lambda k: abs(table.widths[k] - width))
    policy = Policy(search.layers, table.widths, quality.q.shape[-1]).to(search.device)
    net = DqmqModules(search.open_network(len(kinds), planes), policy)
    search.register(net)
    held_kinds = torch.from_numpy(kinds.classify(features(search.session.held.pictures)))
    phase = PolicyPhase.of(search, net, ("task", "policy"), held_kinds, quality=quality)
    search.train(phase)
    if planes is not None:
        search.session.run.initialise = lambda student: initialise_by_planes(search, net.relaxed, student)
    return phase
