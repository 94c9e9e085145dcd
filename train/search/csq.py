"""CSQ (Xiao et al. 2023, arXiv 2212.02770): weights as bit planes, and a budget-aware choice of how many planes count.

Both the digits of the planes (train/network/planes.py) and their gates are sigmoids whose temperatures rise until they
are exact bits. The paper gates every plane alone; here one real depth a layer gates them all, so that the leading
planes come first by construction, and the sign counts as a bit:

    gate_j = sigmoid(beta_g * (depth - rank_j)),   loss = task + BUDGET_WEIGHT * stopgrad(D) * cost / budget + overlap

with D = cost / budget - 1 (the paper's Eq. 4, but the cost is weighted by layers): above the budget depths are pushed
down, below it they grow. Widths that are no candidates share a rank. Behind ANNEALED of the steps the gates are exact,
of the nearest widths within the budget. Activations have one fixed width. All other variants are the integers found
here on a coarser or finer grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from train.bits.configs import Configuration, distinct
from train.data.batches import Batches, Order
from train.loop.phase import distillation_loss, teacher_logits
from train.network.architectures import open_layers
from train.network.network import Network
from train.network.relaxed import Mixture, RelaxedNetwork
from train.search.depths import ANNEALED, Depths, mix_exactly, mix_weights, temperatures
from train.search.fracbits import uniform_width
from train.search.integers import SETTLING_PICTURES, give_integers, open_variants
from train.search.judging import judge
from train.search.shared import Search, SearchModules, SearchPhase, held_losses

BUDGET_WEIGHT = 4.0
OVERLAP_WEIGHT = 1e-2


class CsqModules(SearchModules):
    """The network of bit planes, and how many planes count in each layer."""

    def __init__(self, relaxed: RelaxedNetwork, depths: Depths):
        super().__init__(relaxed)
        self.depths = depths


@dataclass
class CsqPhase(SearchPhase):
    """Training of digits and depths while both become exact."""

    net: CsqModules

    @property
    def a_bits(self) -> int:
        """The width of all inner activations."""
        return self.search.settings.bits.activation_bits

    @property
    def a_index(self) -> int:
        """The index of the activations' width among the candidates."""
        return self.table.widths.index(self.a_bits)

    def soft_mixture(self, progress: float) -> Mixture:
        """Returns what is trained after a share of the steps, 0..1."""
        beta, beta_gates = temperatures(progress)
        if progress < ANNEALED:
            return mix_weights(self.net.depths(beta_gates), self.a_index, beta)
        return mix_exactly(self.rounded(), self.net.relaxed, beta)

    def rounded(self, budget: float | None = None) -> Tensor:
        """Returns indices int64 [L, 2] of the nearest configuration within a budget, the run's where none is given.

        That of the run's budget no longer changes once the gates are exact.
        """
        return self.net.depths.round(self.table, self.a_index, self.budget if budget is None else budget)

    def losses(self, batches: Batches, orders: list[Order], epoch: int, step: int) -> Iterator[tuple[str, Tensor]]:
        """Yields the task's scalar loss, the budget's while gates are soft, and that of overlapping digits."""
        pictures, labels = batches.get(orders[0], self.name, epoch, step)
        progress = self.progress(batches, epoch, step)
        self.net.depths.progress.fill_(progress)
        logits = self.net.relaxed(pictures, self.soft_mixture(progress))
        yield "task", distillation_loss(logits, labels, teacher_logits(self.teacher, pictures)) / batches.batch
        beta, beta_gates = temperatures(progress)
        if progress < ANNEALED:
            yield "budget", budget_loss(self.expected_cost(beta_gates), self.budget) / self.processes
        overlaps = [per_variant.w.overlap(beta) for per_variant in open_variants(self.net.relaxed)]
        yield "overlap", OVERLAP_WEIGHT * torch.stack(overlaps).mean() / self.processes

    def expected_cost(self, beta: float) -> Tensor:
        """Returns the scalar cost over the gates at a temperature, as a share of that of 8 bits; differentiable."""
        shares = self.net.depths(beta)
        a = F.one_hot(torch.tensor(self.a_index), shares.shape[1]).to(shares).expand_as(shares)
        return self.table.expected(torch.stack([shares, a], 1))

    def measurements(self) -> dict[str, float]:
        """Returns the width of the weights of every open layer, real while gates are soft."""
        if float(self.net.depths.progress) < ANNEALED:
            bits = [depth + 1 for depth in self.net.depths.depth.tolist()]
        else:
            bits = [float(self.table.widths[k]) for k in self.rounded()[:, 0].tolist()]
        return {f"w_bits/{layer.name}": b for layer, b in zip(open_layers(self.table.arch), bits, strict=True)}

    def after_step(self) -> None:
        """Keeps gains positive, and depths within the candidate widths."""
        super().after_step()
        depths = self.net.depths
        with torch.no_grad():
            depths.depth.clamp_(*depths.ends)

    def validate(self) -> dict[str, float]:
        """Writes the configurations found so far; returns how far soft and exact bits are apart, costs and losses."""
        progress = float(self.net.depths.progress)
        indices = self.rounded()
        soft, exact = (self._accuracy(m) for m in (self.soft_mixture(progress), mix_exactly(indices, self.net.relaxed)))
        with torch.no_grad():
            cost = float(self.expected_cost(temperatures(progress)[1]))
        return {
            "accuracy/soft": soft,
            "accuracy/hard": exact,
            "gap": 100 * (soft - exact),
            "cost": cost,
            "hard_cost": float(self.table.of_indices(indices)),
            **self.measurements(),
            **held_losses(self.record_best()),
        }

    def record_result(self) -> None:
        """Writes the configurations that the depths have come to."""
        self.record_best()

    def record_best(self) -> list[Configuration]:
        """Rounds the depths to the budgets of all variants, and writes and returns these configurations."""
        budgets = self.search.budgets(self.search.settings.bits.variants, self.a_bits)
        configurations = distinct(self.search.configuration("csq", self.rounded(b)) for b in budgets)
        full_precision = self.search.session.networks.full_precision
        student = Network(full_precision.arch, {v.name: v.bits for v in configurations})
        student = student.to(self.search.device).eval()
        student.inherit(full_precision)
        self.initialise(student)
        best = [replace(v, loss=self._loss(student, v.name)) for v in configurations]
        self.search.record(best, best)
        return best

    def initialise(self, student: Network) -> None:
        """Gives a student the integers of the configuration within the run's budget."""
        pictures = self.search.session.batches.sample(SETTLING_PICTURES)
        give_integers(self.net.relaxed, self.rounded(), student, pictures)

    def _accuracy(self, mixture: Mixture) -> float:
        return judge(lambda part: self.net.relaxed(part.pictures, mixture), self.parts).accuracy

    def _loss(self, student: Network, variant: str) -> float:
        return judge(lambda part: student(part.pictures, variant), self.parts).loss


def budget_loss(cost: Tensor, budget: float) -> Tensor:
    """Returns a scalar loss whose gradient is that of the scalar cost, times how far this is off the budget (Eq. 4).

    The gradient has either sign: widths shrink above the budget and grow below it.
    """
    relative = cost / budget
    return BUDGET_WEIGHT * (relative.detach() - 1) * relative


def find_bits(search: Search) -> CsqPhase:
    """Trains digits and depths; returns the phase, which then records the configurations found.

    The joint training starts from the integers found.
    """
    table = search.table
    bits = search.settings.bits
    first = uniform_width(table, bits.budget, bits.activation_bits)
    nearest = min(range(len(table.widths)), key=lambda k: abs(table.widths[k] - first))  # digits round best there
    depths = Depths(search.layers, table.widths, first).to(search.device)
    net = CsqModules(search.open_network(planes=nearest, one_input=True), depths)
    search.register(net)
    phase = CsqPhase.of(search, net, ("task", "budget", "overlap"))
    search.train(phase)
    search.session.run.initialise = phase.initialise
    return phase
