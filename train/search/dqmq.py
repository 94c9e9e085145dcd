"""Bits by a policy that sees the picture's quality (after DQMQ, Wang et al. 2023, arXiv 2302.04453).

    loss = task + COST * [expected cost / budget - 1]_+ - lambda_H * entropy + lambda_RL * policy gradient

The task's gradient reaches the policy through the one-hot widths (straight-through Gumbel softmax); the policy gradient
corrects what that leaves out. Batches are of one quality each, since a convolution has one weight for its whole batch.
Policy and weights learn in the same steps: taking turns (MetaMix, arXiv 2311.06798) left both behind after as many.
With --quantizer csq all widths of a layer's weights share bit planes, and the policy says how many of them count.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.choice.quality import features
from train.bits.configs import Configuration
from train.data.batches import Batches, Order, generator
from train.kinds.groups import Groups, quality_groups, view_features
from train.loop.phase import answers, distillation, train
from train.network.network import Network
from train.network.relaxed import Mixture, RelaxedNetwork, one_hot
from train.search.csq import SETTLING, start, temperatures
from train.search.fracbits import uniform_width
from train.search.policy import Policy, entropy, policy_gradient, sample
from train.search.reduction import clusters, items, within
from train.search.shared import Search, SearchPhase, held_parts, judge

WARM, FREEZE = 0.1, 0.8  # shares of the steps: at the widest widths before, at the most likely ones behind
COST = 4.0  # weight of the budget
ENTROPY = 0.02  # weight of the entropy when the policy starts to learn; falls to 0 until it is frozen
HOT, COLD = 1.0, 0.1  # temperature, falling geometrically in between
REDUCED = 768  # views whose configurations are clustered


@dataclass(frozen=True, eq=False)
class Quality:
    """Quality of all training views: q float32 [F, N, D], group int64 [F, N], and mean q of each group [G, D]."""

    q: Tensor
    group: Tensor
    centres: Tensor
    shares: Tensor

    @classmethod
    def of(cls, groups: Groups, quality: np.ndarray) -> "Quality":
        """quality: int32 [F, N, D]. Every group has a centre, the mixture's own where no view is of it."""
        q = groups.standardize(quality)
        group = groups.assign(q)
        counts = np.bincount(group.reshape(-1), minlength=len(groups))
        means = [q[group == g].mean(0) if counts[g] else groups.means[g] for g in range(len(groups))]
        return cls(
            torch.from_numpy(q),
            torch.from_numpy(group),
            torch.tensor(np.stack(means)).float(),
            torch.from_numpy(counts / counts.sum()).float(),
        )


@dataclass
class PolicyPhase(SearchPhase):
    quality: Quality | None = None

    def order(self, batches, epoch):
        return batches.alike(self.name, epoch, self.quality.group)

    def losses(self, run, batches, order, epoch, step):
        (views, groups), settings, policy = order, self.search.settings, self.net["policy"]
        pictures, labels = batches.get(views, self.name, epoch, step)
        q = self._mean_quality(views, batches, step)
        taught, past = answers(self.teacher, pictures), self._past(batches, epoch, step)
        learning, beta = 0 <= past < 1, temperatures(self.progress(batches, epoch, step))[0]
        chance = generator(batches.seed, self.name, "widths", epoch, step)
        drawn, rewards, parts = [], [], settings.bits.samples if learning else 1
        for part in range(parts):
            y, indices = self._widths(policy(q), past, chance)
            logits = self.net["open"](pictures[part::parts], Mixture.of(y, int(groups[step]), beta))
            known, wanted = None if taught is None else taught[part::parts], labels[part::parts]
            yield "task", distillation(logits, wanted, known) / batches.batch
            drawn.append(indices)
            rewards.append(reward(logits.detach(), known, wanted))
        if learning:
            log_p = policy(q)
            over = torch.relu(self.expected_cost() / settings.bits.budget - 1)
            chosen = settings.bits.policy_gradient * policy_gradient(log_p, drawn, rewards)
            yield "policy", (COST * over - ENTROPY * (1 - past) * entropy(log_p) + chosen) / run.group.processes

    def _past(self, batches, epoch: int, step: int) -> float:
        """Share of the time in which the policy learns that is behind; negative before, 1 or more after it."""
        return (self.progress(batches, epoch, step) - WARM) / (FREEZE - WARM)

    def _mean_quality(self, order: Order, batches: Batches, step: int) -> Tensor:
        """q [D] of a whole batch, whichever part of it this process has."""
        mine = slice(step * batches.batch, (step + 1) * batches.batch)
        return self.quality.q[order[1][mine], order[0][mine]].mean(0).to(batches.device)

    def _widths(self, log_p: Tensor, past: float, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """One-hot y [L, 2, W] and its indices: the widest first, then drawn from the policy, last its most likely."""
        if 0 <= past < 1:
            return sample(log_p, HOT * (COLD / HOT) ** past, chance)
        indices = log_p.argmax(-1) if past >= 1 else torch.full_like(log_p[..., 0], log_p.shape[-1] - 1).long()
        return one_hot(indices, log_p.shape[-1]), indices

    def expected_cost(self) -> Tensor:
        """Mean over all qualities: one kind of picture may cost more if another costs less."""
        p = self.net["policy"](self.quality.centres.to(self.net["policy"].u.device)).exp()
        return (self.search.table.expected(p) * self.quality.shares.to(p.device)).sum()


def reward(logits: Tensor, taught: Tensor | None, labels: Tensor) -> float:
    """Minus the mean cross entropy, less the teacher's own on the same pictures: how hard they are is no one's merit.

    Cost is not in it, since its gradient is exact already.
    """
    hard = 0.0 if taught is None else float(F.cross_entropy(taught, labels))
    return hard - float(F.cross_entropy(logits, labels))


def find_quality(given: Search) -> tuple[Groups, Quality]:
    """Groups from a spread of the training views, and the quality of all of them."""
    groups = quality_groups(given.batches, given.teacher, given.settings.private.kinds, given.settings.training.seed)
    return groups, Quality.of(groups, view_features(given.batches.views_numpy()))


def reduce(given: Search, policy: Policy, quality: Quality) -> list[Configuration]:
    """The variants of a policy: clustered configurations for groups and cost levels, and one for everything.

    The latter keeps the budget alone; a cluster that is for all groups at the budget as well gives way to it.
    """
    q, group = quality.q.flatten(0, 1), quality.group.flatten()
    some = torch.linspace(0, len(q) - 1, min(REDUCED, len(q))).long()
    with torch.no_grad():
        log_p = policy(q[some].to(policy.u.device)).cpu().double()
    table, budget, groups = given.table, given.settings.bits.budget, group[some].numpy()
    budgets = given.budgets(given.settings.bits.levels)
    levels = [within(log_p, table, b, cheaper=b <= budget) for b in budgets]
    shared = within(log_p.mean(0, keepdim=True), table, budget, cheaper=True)[0]
    centres = quality.centres.numpy()
    found = clusters(items(levels, groups), table, centres, max(1, given.settings.bits.variants - 1))
    named = [("shared", shared, ())]
    named += [
        ("q" + "_".join(map(str, c.groups)) if c.groups else "all", c.indices, c.groups)
        for c in found
        if c.groups or budgets[c.level] != budget
    ]
    return [given.variant(name, table.widened(indices), None, groups) for name, indices, groups in named]


def search(given: Search) -> Callable[[], None]:
    """Trains policy and weights; the function returned makes variants of the policy and keeps them."""
    table, device = given.table, given.batches.device
    groups, quality = find_quality(given)
    given.run.configs = dataclasses.replace(given.configs(), kinds=groups.to_dict())
    planes = None
    if given.settings.bits.quantizer == "csq":
        width = uniform_width(table, given.settings.bits.budget)
        planes = min(range(len(table.widths)), key=lambda k: abs(table.widths[k] - width))
    net = nn.ModuleDict(
        {
            "open": given.open_network(len(groups), planes),
            "policy": Policy(len(table.table), table.widths, quality.q.shape[-1]).to(device),
        }
    )
    given.enter(net)
    held = torch.from_numpy(groups.of(features(given.held.pictures)))
    parts = held_parts(given.held, device, held)

    def keep() -> list[Configuration]:
        kept = []
        for v in reduce(given, net["policy"], quality):
            mine = [part for part in parts if part[2] in v.kinds] if v.kinds else parts
            loss = judge(net["open"], table.indices(v.bits), mine) if mine else None
            kept.append(dataclasses.replace(v, loss=loss))
        given.keep(kept, [v for v in kept if not v.kinds])  # losses on other pictures do not compare
        return kept

    def validate(phase: PolicyPhase) -> dict[str, float]:
        with torch.no_grad():
            mean, cost = net["policy"].mean(quality.centres.to(device)).mean(1).cpu(), float(phase.expected_cost())
        bits = {f"{head}_bits/group{g}": float(mean[g, k]) for g in range(len(groups)) for k, head in enumerate("wa")}
        return {"cost": cost, **bits, **{f"held/{k}": v.loss for k, v in enumerate(keep()) if v.loss is not None}}

    phase = PolicyPhase.start(given, net, ("task", "policy"))
    phase.quality = quality
    train(phase, given.batches, given.run, given.state(phase), validate)
    if planes is not None:
        given.run.start = lambda student: start_shared(given, net["open"], student)
    return keep


def start_shared(given: Search, net: RelaxedNetwork, student: Network) -> None:
    """Gives the variants the exact bits of the planes they share: the widest theirs, the others theirs rounded."""
    variants = given.run.configs.variants
    widest = torch.stack([given.table.indices(v.bits) for v in variants]).amax(0)
    first = {v.name: v.kinds[0] for v in variants if v.kinds}
    start(net, widest, student, given.batches.sample(SETTLING), first)
