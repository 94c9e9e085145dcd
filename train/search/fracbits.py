"""FracBits (Yang and Jin 2021, arXiv 2007.02017): a real width per layer, mixed from the two candidates around it.

    A^ = (1 - f) Q_floor(A) + f Q_ceil(A),   loss = task + BUDGET_WEIGHT * [cost / budget - 1]_+

At HARDEN of the steps the widths are rounded, with the largest common offset that keeps the budget.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.bits.cost import CostTable
from train.loop.phase import answers, distillation, train
from train.network.architectures import open_layers
from train.network.relaxed import Mixture, one_hot
from train.search.shared import Search, SearchPhase, held_parts, judge

HARDEN = 0.8  # share of the steps with real widths
BUDGET_WEIGHT = 2.0
OFFSETS = 1601  # tried when widths are rounded, from the whole range down to minus it


class RealWidths(nn.Module):
    """bits float32 [L, 2] for weights and activations; hardened int64 [L, 2]: indices into the widths, -1 before."""

    def __init__(self, layers: int, widths: tuple[int, ...], first: float):
        super().__init__()
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float32))
        self.register_buffer("hardened", torch.full((layers, 2), -1))
        self.bits = nn.Parameter(torch.full((layers, 2), float(first)))

    def forward(self) -> Tensor:
        """Shares [L, 2, W] of the candidates: of the two around each width, by its distance to them."""
        return interpolate(self.bits, self.widths)

    def round(self, table: CostTable, budget: float) -> Tensor:
        """Indices int64 [L, 2] on the CPU: nearest candidates after the largest common offset within the budget."""
        bits, widths = self.bits.detach().cpu().double(), self.widths.cpu().double()
        reach = float(widths[-1] - widths[0])
        offsets = torch.linspace(reach, -reach, OFFSETS, dtype=torch.float64)
        moved = bits + offsets[:, None, None]
        indices = (moved[..., None] - widths).abs().argmin(-1)
        return table.first_within(budget, indices)


def interpolate(bits: Tensor, widths: Tensor) -> Tensor:
    """Shares [..., W] of ascending widths [W] whose mean is bits [...], clamped to their range; differentiable."""
    bits = bits.clamp(widths[0], widths[-1])
    low = (torch.searchsorted(widths, bits.detach(), right=True) - 1).clamp(max=len(widths) - 2)
    share = (bits - widths[low]) / (widths[low + 1] - widths[low])
    below, above = (torch.nn.functional.one_hot(k, len(widths)).to(bits) for k in (low, low + 1))
    return below * (1 - share)[..., None] + above * share[..., None]


def uniform_width(table: CostTable, budget: float, a_bits: int | None = None) -> float:
    """The real width that, in all open layers, costs the budget; of weights alone where a_bits is given."""
    widths = torch.tensor(table.widths, dtype=torch.float64)
    low, high = float(widths[0]), float(widths[-1])
    for _ in range(40):
        middle = (low + high) / 2
        pair = torch.tensor([middle, a_bits or middle], dtype=torch.float64)
        y = interpolate(pair.expand(len(table.table), 2), widths)
        low, high = (middle, high) if float(table.expected(y)) <= budget else (low, middle)
    return low


@dataclass
class FracBitsPhase(SearchPhase):
    def losses(self, run, batches, order, epoch, step):
        (pictures, labels), widths = batches.get(order[0], self.name, epoch, step), self.net["widths"]
        table, budget = self.search.table, self.search.settings.bits.budget
        real = self.progress(batches, epoch, step) < HARDEN
        if not real and int(widths.hardened[0, 0]) < 0:
            widths.hardened.copy_(widths.round(table, budget))
        y = widths() if real else one_hot(widths.hardened, len(table.widths))
        logits = self.net["open"](pictures, Mixture.of(y))
        yield "task", distillation(logits, labels, answers(self.teacher, pictures)) / batches.batch
        if real:
            over = torch.relu(table.expected(widths()) / budget - 1)
            yield "budget", BUDGET_WEIGHT * over / run.group.processes

    def notes(self) -> dict[str, float]:
        widths, layers = self.net["widths"], open_layers(self.search.teacher.arch)
        real = int(widths.hardened[0, 0]) < 0
        pairs = (widths.bits if real else widths.widths[widths.hardened]).tolist()
        return {
            f"{head}_bits/{layer.name}": pair[k]
            for layer, pair in zip(layers, pairs, strict=True)
            for k, head in enumerate("wa")
        }

    def stepped(self) -> None:
        super().stepped()
        widths = self.net["widths"]
        with torch.no_grad():
            widths.bits.clamp_(widths.widths[0], widths.widths[-1])


def search(given: Search) -> Callable[[], None]:
    """Trains widths and weights; the function returned rounds the widths to all variants' budgets and keeps them."""
    settings, table = given.settings, given.table
    widths = RealWidths(len(table.table), table.widths, uniform_width(table, settings.bits.budget))
    net = nn.ModuleDict({"open": given.open_network(), "widths": widths.to(given.batches.device)})
    given.enter(net)
    parts = held_parts(given.held, given.batches.device)

    def keep() -> list:
        found = [table.widened(widths.round(table, budget)) for budget in given.budgets(settings.bits.variants)]
        kept = [given.variant("fracbits", i, judge(net["open"], i, parts)) for i in found]
        given.keep(kept, kept)
        return kept

    def validate(phase) -> dict[str, float]:
        kept, bits = keep(), widths.bits.detach().mean(0)
        return {
            "w_bits": float(bits[0]),
            "a_bits": float(bits[1]),
            "cost": float(table.expected(widths().detach())),
            **{f"held/{k}": v.loss for k, v in enumerate(kept)},
        }

    phase = FracBitsPhase.start(given, net, ("task", "budget"))
    train(phase, given.batches, given.run, given.state(phase), validate)
    return keep
