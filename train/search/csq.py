"""CSQ (Xiao et al. 2023, arXiv 2212.02770): weights as soft bit planes, and a real depth per layer: how many count.

    gate_j = sigmoid(beta_g * (depth - rank_j)),   loss = task + BUDGET_WEIGHT * stopgrad(D) * cost / budget + overlap

with D = cost / budget - 1, the cost being expected over the gates: above the budget depths are pushed down, below it
they grow. Leading planes come first by construction, since ranks rise; widths that are no candidates share a rank. Both
temperatures rise exponentially; behind ANNEALED the gates are exact, of the nearest widths within the budget.
Activations have one fixed width. Other variants are the integers found here on a coarser or finer grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.bits.configs import Configuration, distinct
from train.bits.cost import CostTable
from train.loop.phase import answers, distillation, train
from train.network.architectures import open_layers
from train.network.network import Network
from train.network.relaxed import RELAXED, Mixture, RelaxedNetwork
from train.network.statistics import reestimate_statistics
from train.search.fracbits import uniform_width
from train.search.shared import Search, SearchPhase, held_parts, judged

ANNEALED = 0.9  # share of the steps in which the temperatures rise
SHARP, SHARP_GATES = 200.0, 20.0  # temperatures in the end, 1 in the beginning; a depth moves in whole bits
BUDGET_WEIGHT = 4.0
OVERLAP_WEIGHT = 1e-2
OFFSETS = 1601  # tried when depths are rounded, from the whole range down to minus it
SETTLING = 2048  # pictures whose statistics the variants' batch norms start with


class Depths(nn.Module):
    """depth float32 [L], in magnitude bits; `first`: stored width, sign included, that all layers start with.

    progress: share of the steps behind the last one.
    """

    def __init__(self, layers: int, widths: tuple[int, ...], first: float):
        super().__init__()
        stored = torch.tensor(widths, dtype=torch.float32)
        self.register_buffer("ranks", (stored[:-1] + stored[1:]) / 2 - 1)  # depth at which the next width begins
        self.register_buffer("ends", stored[[0, -1]] - 1)
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.depth = nn.Parameter(torch.full((layers,), first - 1.0))

    def forward(self, beta: float) -> Tensor:
        """Shares [L, W] of the widths: what each one's planes pass beyond those of the next."""
        gates = torch.sigmoid(beta * (self.depth[:, None] - self.ranks))
        return F.pad(gates, (1, 0), value=1.0) - F.pad(gates, (0, 1))

    def round(self, table: CostTable, a_index: int, budget: float) -> Tensor:
        """Indices int64 [L, 2] on the CPU: nearest widths after the largest common offset within the budget."""
        ranks, reach = self.ranks.cpu().double(), float(self.ends[1] - self.ends[0])
        offsets = torch.linspace(reach, -reach, OFFSETS, dtype=torch.float64)
        weights = torch.bucketize(self.depth.detach().cpu().double() + offsets[:, None], ranks)
        indices = torch.stack([weights, torch.full_like(weights, a_index)], -1)
        return table.first_within(budget, indices, table.widths[a_index])


def temperatures(progress: float) -> tuple[float, float]:
    """(beta, beta_g) when a share of the steps is behind."""
    risen = min(progress / ANNEALED, 1.0)
    return SHARP**risen, SHARP_GATES**risen


def mixture(weights: Tensor, a_index: int, beta: float | None) -> Mixture:
    """Shares [L, W] of the widths of weights, one width of all activations."""
    a = F.one_hot(torch.tensor(a_index), weights.shape[1]).to(weights)
    shown = a.tolist()
    return Mixture(
        tuple(row for w in weights.unbind(0) for row in (w, a)), [[w, shown] for w in weights.tolist()], beta=beta
    )


def exact(indices: Tensor, like: RelaxedNetwork, beta: float | None = None) -> Mixture:
    """One configuration, indices int64 [L, 2]; of exact bits where no beta is given."""
    weights = F.one_hot(indices[:, 0], len(like.widths)).float().to(like.zero_point.device)
    return mixture(weights, int(indices[0, 1]), beta)


@dataclass
class CsqPhase(SearchPhase):
    @property
    def a_index(self) -> int:
        return self.search.table.widths.index(self.search.settings.bits.activation_bits)

    def soft(self, progress: float) -> Mixture:
        """What is trained when a share of the steps is behind."""
        beta, beta_gates = temperatures(progress)
        if progress < ANNEALED:
            return mixture(self.net["depths"](beta_gates), self.a_index, beta)
        return exact(self.found(), self.net["open"], beta)

    def found(self) -> Tensor:
        """Indices of the budget's configuration; it no longer changes once gates are exact."""
        return self.net["depths"].round(self.search.table, self.a_index, self.search.settings.bits.budget)

    def losses(self, run, batches, order, epoch, step):
        pictures, labels = batches.get(order[0], self.name, epoch, step)
        progress = self.progress(batches, epoch, step)
        self.net["depths"].progress.fill_(progress)
        logits = self.net["open"](pictures, self.soft(progress))
        yield "task", distillation(logits, labels, answers(self.teacher, pictures)) / batches.batch
        beta, beta_gates = temperatures(progress)
        if progress < ANNEALED:
            cost = self.expected_cost(beta_gates)
            yield "budget", budget_loss(cost, self.search.settings.bits.budget) / run.group.processes
        overlaps = [per_variant.w.overlap(beta) for per_variant in open_variants(self.net["open"])]
        yield "overlap", OVERLAP_WEIGHT * torch.stack(overlaps).mean() / run.group.processes

    def expected_cost(self, beta: float) -> Tensor:
        shares = self.net["depths"](beta)
        a = F.one_hot(torch.tensor(self.a_index), shares.shape[1]).to(shares).expand_as(shares)
        return self.search.table.expected(torch.stack([shares, a], 1))

    def notes(self) -> dict[str, float]:
        depths, table = self.net["depths"], self.search.table
        real = [d + 1 for d in depths.depth.tolist()]
        chosen = [float(table.widths[k]) for k in self.found()[:, 0].tolist()]
        bits = real if float(depths.progress) < ANNEALED else chosen
        return {f"w_bits/{layer.name}": b for layer, b in zip(open_layers(table.arch), bits, strict=True)}

    def stepped(self) -> None:
        super().stepped()
        depths = self.net["depths"]
        with torch.no_grad():
            depths.depth.clamp_(*depths.ends)


def budget_loss(cost: Tensor, budget: float) -> Tensor:
    """Its gradient is that of the cost times how far the cost is off: of either sign."""
    relative = cost / budget
    return BUDGET_WEIGHT * (relative.detach() - 1) * relative


def open_variants(net: RelaxedNetwork) -> list[nn.Module]:
    """In the order of their positions."""
    return [
        conv.variants[RELAXED]
        for conv in sorted(net.convs.values(), key=lambda c: c.position or 0)
        if conv.position is not None
    ]


@torch.no_grad()
def start(
    net: RelaxedNetwork, found: Tensor, student: Network, pictures: Tensor, groups: dict[str, int] | None = None
) -> None:
    """Gives a network of variants the integers of a configuration, indices int64 [L, 2], and all steps.

    The variant of this configuration computes what `net` computes with exact bits; of a wider one the very same weights
    have a finer step, of a narrower one they are rounded. Running statistics are those of the pictures. groups: variant
    -> whose batch norm it takes, the first one's where it is not named.
    """
    groups = groups or {}
    for name, conv in net.convs.items():
        own, theirs, index = conv.variants[RELAXED], student.convs[name], conv.position
        theirs.weight.copy_(conv.weight if index is None else own.w.hard(int(found[index, 0])))
        for variant, config in student.bits.items():
            w_bits, a_bits = config[conv.layer.name]
            per_variant = theirs.variants[variant]
            per_variant.w.log_step.copy_(own.w.log_step if index is None else own.w.log_step(net.widths.index(w_bits)))
            if per_variant.a is not None:
                own_a = own.a if index is None else own.a.quantizers[net.widths.index(a_bits)]
                per_variant.a.log_step.copy_(own_a.log_step)
            per_variant.norm.load_state_dict(own.norms[groups.get(variant, 0)].state_dict(), strict=False)
    for variant in student.bits:
        student.streams[variant].load_state_dict(net.streams[RELAXED].state_dict())
        reestimate_statistics(student, variant, pictures)


def search(given: Search) -> Callable[[], None]:
    """Trains planes and depths; the function returned keeps the variants, which start from the integers found."""
    settings, table, device = given.settings, given.table, given.batches.device
    first = uniform_width(table, settings.bits.budget, settings.bits.activation_bits)
    nearest = min(range(len(table.widths)), key=lambda k: abs(table.widths[k] - first))  # digits round best there
    net = nn.ModuleDict(
        {
            "open": given.open_network(planes=nearest, one_input=True),
            "depths": Depths(len(table.table), table.widths, first).to(device),
        }
    )
    given.enter(net)
    parts, phase = held_parts(given.held, device), CsqPhase.start(given, net, ("task", "budget", "overlap"))

    def begin(student: Network) -> None:
        start(net["open"], phase.found(), student, given.batches.sample(SETTLING))

    def keep() -> list[Configuration]:
        budgets = given.budgets(settings.bits.variants, settings.bits.activation_bits)
        found = distinct(given.variant("csq", net["depths"].round(table, phase.a_index, b)) for b in budgets)
        student = Network(given.teacher.arch, {v.name: v.bits for v in found}).to(device).eval()
        student.inherit(given.teacher)
        begin(student)
        kept = [replace(v, loss=judged(lambda x, _, name=v.name: student(x, name), parts)[0]) for v in found]
        given.keep(kept, kept)
        return kept

    def validate(phase: CsqPhase) -> dict[str, float]:
        found, progress = phase.found(), float(net["depths"].progress)
        soft, hard = (
            judged(lambda x, _, how=how: net["open"](x, how), parts)[1]
            for how in (phase.soft(progress), exact(found, net["open"]))
        )
        with torch.no_grad():
            cost = float(phase.expected_cost(temperatures(progress)[1]))
        return {
            "accuracy/soft": soft,
            "accuracy/hard": hard,
            "gap": 100 * (soft - hard),
            "cost": cost,
            "hard_cost": float(table.of_indices(found)),
            **phase.notes(),
            **{f"held/{k}": v.loss for k, v in enumerate(keep())},
        }

    train(phase, given.batches, given.run, given.state(phase), validate)
    given.run.start = begin
    return keep
