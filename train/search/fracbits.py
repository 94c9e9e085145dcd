"""FracBits (Yang and Jin 2021, arXiv 2007.02017): fractional bit-widths, learned by gradient with the weights.

A tensor of fractional width b is mixed from the candidate widths around it, with f the distance of b from the lower one
as a share of the distance between both, and the loss grows with what the widths cost beyond the budget:

    Q_b(x) = (1 - f) Q_lower(x) + f Q_upper(x),   loss = task + BUDGET_WEIGHT * [cost / budget - 1]_+

The cost is multilinear in the shares 1 - f and f of every layer. After HARDEN of the steps the widths are rounded, with
the largest common offset that keeps the budget. Unlike the paper's, the penalty is one-sided and relative.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.bits.configs import Configuration
from train.bits.cost import CostTable
from train.data.batches import Batches, Order
from train.loop.phase import distillation_loss, teacher_logits
from train.network.architectures import open_layers
from train.network.relaxed import Mixture, RelaxedNetwork, one_hot
from train.search.judging import judge_bits
from train.search.shared import Search, SearchModules, SearchPhase, common_offsets, held_losses

HARDEN = 0.8  # share of the steps with fractional widths
BUDGET_WEIGHT = 2.0
BISECTIONS = 40


class FractionalWidths(nn.Module):
    """A fractional width for the weights and one for the activations of every open layer.

    bits: parameter float32 [L, 2]. widths: buffer float32 [W], the candidates, ascending. hardened: buffer int64
    [L, 2], indices into the candidates once the widths are rounded, -1 before. first: width that all layers start with.
    """

    widths: Tensor
    hardened: Tensor

    def __init__(self, layers: int, widths: tuple[int, ...], first: float):
        super().__init__()
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float32))
        self.register_buffer("hardened", torch.full((layers, 2), -1))
        self.bits = nn.Parameter(torch.full((layers, 2), float(first)))

    @property
    def fractional(self) -> bool:
        """Whether the widths are not rounded yet."""
        return int(self.hardened[0, 0]) < 0

    def forward(self) -> Tensor:
        """Returns the shares [L, 2, W] of the candidates in every tensor."""
        return interpolate(self.bits, self.widths)

    def round(self, table: CostTable, budget: float) -> Tensor:
        """Returns indices int64 [L, 2] of the nearest candidates after the largest common offset within the budget."""
        bits = self.bits.detach().cpu().double()
        widths = self.widths.cpu().double()
        moved = bits + common_offsets(float(widths[-1] - widths[0]))[:, None, None]
        indices = (moved[..., None] - widths).abs().argmin(-1)
        return table.first_within(budget, indices)


def interpolate(bits: Tensor, widths: Tensor) -> Tensor:
    """Returns shares [..., W] of ascending widths [W] whose mean is bits [...], clamped to their range.

    The shares are differentiable in the bits.
    """
    bits = bits.clamp(widths[0], widths[-1])
    lower = (torch.searchsorted(widths, bits.detach(), right=True) - 1).clamp(max=len(widths) - 2)
    f = (bits - widths[lower]) / (widths[lower + 1] - widths[lower])
    is_lower = nn.functional.one_hot(lower, len(widths)).to(bits)
    is_upper = nn.functional.one_hot(lower + 1, len(widths)).to(bits)
    return is_lower * (1 - f)[..., None] + is_upper * f[..., None]


def uniform_width(table: CostTable, budget: float, a_bits: int | None = None) -> float:
    """Returns the fractional width that costs the budget when all open layers have it.

    a_bits: width of all activations, where it is fixed and only that of the weights is free.
    """
    widths = torch.tensor(table.widths, dtype=torch.float64)
    low = float(widths[0])
    high = float(widths[-1])
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        pair = torch.tensor([middle, middle if a_bits is None else a_bits], dtype=torch.float64)
        shares = interpolate(pair.expand(len(table.table), 2), widths)
        if float(table.expected(shares)) <= budget:
            low = middle
        else:
            high = middle
    return low


class FracBitsModules(SearchModules):
    """The network of open widths, and the fractional widths of its layers."""

    def __init__(self, relaxed: RelaxedNetwork, widths: FractionalWidths):
        super().__init__(relaxed)
        self.widths = widths


@dataclass
class FracBitsPhase(SearchPhase):
    """Training of weights and fractional widths at once."""

    net: FracBitsModules

    def losses(self, batches: Batches, orders: list[Order], epoch: int, step: int) -> Iterator[tuple[str, Tensor]]:
        """Yields the task's scalar loss, and what the widths cost beyond the budget as long as they are fractional."""
        pictures, labels = batches.get(orders[0], self.name, epoch, step)
        widths = self.net.widths
        learning = self.progress(batches, epoch, step) < HARDEN
        if not learning and widths.fractional:
            widths.hardened.copy_(widths.round(self.table, self.budget))
        shares = widths() if learning else one_hot(widths.hardened, len(self.table.widths))
        logits = self.net.relaxed(pictures, Mixture.of(shares))
        yield "task", distillation_loss(logits, labels, teacher_logits(self.teacher, pictures)) / batches.batch
        if learning:
            excess = torch.relu(self.table.expected(widths()) / self.budget - 1)
            yield "budget", BUDGET_WEIGHT * excess / self.processes

    def measurements(self) -> dict[str, float]:
        """Returns the width of the weights and of the activations of every open layer."""
        widths = self.net.widths
        bits = widths.bits if widths.fractional else widths.widths[widths.hardened]
        return {
            f"{head}_bits/{layer.name}": pair[k]
            for layer, pair in zip(open_layers(self.table.arch), bits.tolist(), strict=True)
            for k, head in enumerate("wa")
        }

    def after_step(self) -> None:
        """Keeps gains positive, and widths within the candidates."""
        super().after_step()
        widths = self.net.widths
        with torch.no_grad():
            widths.bits.clamp_(widths.widths[0], widths.widths[-1])

    def validate(self) -> dict[str, float]:
        """Writes the configurations found so far; returns mean widths, their cost, and each variant's held loss."""
        best = self.record_best()
        w_bits, a_bits = self.net.widths.bits.detach().mean(0).tolist()
        cost = float(self.table.expected(self.net.widths().detach()))
        return {"w_bits": w_bits, "a_bits": a_bits, "cost": cost, **held_losses(best)}

    def record_result(self) -> None:
        """Writes the configurations that the widths have come to."""
        self.record_best()

    def record_best(self) -> list[Configuration]:
        """Rounds the widths to the budgets of all variants, and writes and returns these configurations."""
        count = self.search.settings.bits.variants
        rounded = [self.table.widened(self.net.widths.round(self.table, b)) for b in self.search.budgets(count)]
        best = [self.search.configuration("fracbits", i, judge_bits(self.net.relaxed, i, self.parts)) for i in rounded]
        self.search.record(best, best)
        return best


def find_bits(search: Search) -> FracBitsPhase:
    """Trains fractional widths and weights; returns the phase, which then records the configurations found."""
    first = uniform_width(search.table, search.settings.bits.budget)
    widths = FractionalWidths(search.layers, search.table.widths, first).to(search.device)
    net = FracBitsModules(search.open_network(), widths)
    search.register(net)
    phase = FracBitsPhase.of(search, net, ("task", "budget"))
    search.train(phase)
    return phase
