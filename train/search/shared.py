"""What all searches for bits share: the open network, judging configurations on held pictures, and keeping the best."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.bits.configs import Configs, Configuration, distinct, pareto_front
from train.bits.cost import TOLERANCE, CostTable
from train.data.batches import Batches, Held
from train.loop import checkpoint
from train.loop.phase import Phase, Run
from train.network.network import FULL, Network
from train.network.relaxed import Mixture, RelaxedNetwork, one_hot
from train.settings.settings import Settings

CALIBRATION = 256  # pictures that set the first steps
JUDGED = 250  # held pictures at a time: batch norms take their statistics from them
RUNG = math.sqrt(2)  # between what the budgets of several variants leave above the least cost
SLIVER = 0.02  # share of the range of costs, which a budget leaves at least for this


@dataclass
class Search:
    """What a method is given. teacher: the full-precision network that the open one starts from. tutor: whose answers
    it learns from. resumed: state and tensors of a checkpoint inside this phase, or None."""

    settings: Settings
    run: Run
    batches: Batches
    teacher: Network
    tutor: Network
    held: Held
    table: CostTable
    resumed: dict | None

    def open_network(self, groups: int = 1, planes: int | None = None, one_input: bool = False) -> RelaxedNetwork:
        """Starts from the full-precision network or the checkpoint (see `enter`); planes: see RelaxedPerVariant."""
        arch, widths = self.teacher.arch, self.settings.bits.candidates
        net = RelaxedNetwork(arch, widths, groups, planes, one_input).to(self.batches.device)
        net.inherit(self.teacher)
        if self.resumed is None:
            net.calibrate(self.batches.sample(CALIBRATION))
        return net.train()

    def enter(self, modules: nn.Module) -> None:
        """Makes the modules part of every checkpoint, and takes their tensors from the one that is resumed."""
        self.run.modules["search"] = modules
        if self.resumed is not None:
            checkpoint.fill(modules, self.resumed["tensors"], "search")

    def state(self, phase: Phase) -> dict | None:
        """Where a resumed phase goes on."""
        return None if self.resumed is None else phase.restore(self.resumed)

    def variant(
        self, name: str, indices: Tensor, loss: float | None = None, groups: tuple[int, ...] = ()
    ) -> Configuration:
        """name gets the cost behind it, in thousandths."""
        price = float(self.table.of_indices(indices))
        name = f"{name}-{round(1000 * price):03d}"
        return Configuration(name, self.table.config(indices), price, self.settings.bits.method, groups, loss)

    def keep(self, variants: list[Configuration], seen: list[Configuration] = ()) -> None:
        """Writes configs.json: the variants to train if it ended now, and what is not beaten of all that was seen."""
        before = self.configs()
        found = pareto_front(
            distinct((*seen, *before.pareto))
        )  # a configuration seen again counts with its newest loss
        self.run.configs = replace(before, variants=distinct(variants), pareto=found)
        if self.run.group.writes:
            self.run.configs.write(self.run.folder)

    def configs(self) -> Configs:
        """What was found so far."""
        return self.run.configs or Configs(self.settings.costs)

    def budgets(self, count: int, a_bits: int | None = None) -> list[float]:
        """`count` budgets, rising, around the one asked for, which is among them; fewer where they would pass 1.

        Apart by a factor of RUNG in what they leave above the least cost, which by time may be most of that of 8 bits;
        a_bits: of all inner activations, where these are given.
        """
        first, budget, least = (
            -((count - 1) // 2),
            self.settings.bits.budget,
            self.table.least(a_bits) * (1 + TOLERANCE),
        )
        above = max(budget - least, SLIVER * (1 - least))
        wanted = [least + above * RUNG**k for k in range(first, first + count) if k] + [budget]
        return sorted({min(b, 1.0) for b in wanted})


@dataclass
class SearchPhase(Phase):
    """Trains the open network (`net["open"]`) and what chooses the widths (all else in `net`, at a rate of its own)."""

    search: Search | None = None
    fusible = False  # widths and their sharpness change in every step

    @classmethod
    def start(cls, given: Search, net: nn.ModuleDict, losses: tuple[str, ...]) -> "SearchPhase":
        settings = given.settings
        return cls("search", net, losses, settings.training.bit_epochs, settings.training.lr, given.tutor, search=given)

    def parameters_by_rate(self):
        named = [(n, p) for n, p in self.net.named_parameters() if f".variants.{FULL}." not in n]
        weights = [(n, p) for n, p in named if n.startswith("open.")]
        choosing = [(n, p) for n, p in named if not n.startswith("open.")]
        rated = [(self.lr, weights), (self.search.settings.bits.policy_lr, choosing)]
        return [(rate, named) for rate, named in rated if named]

    def progress(self, batches: Batches, epoch: int, step: int) -> float:
        """Share of the phase behind this step."""
        return (epoch * batches.steps + step) / (self.epochs * batches.steps)

    def stepped(self) -> None:
        self.net["open"].keep_gains_positive()


@torch.no_grad()
def judge(net: RelaxedNetwork, indices: Tensor, parts: list[tuple[Tensor, Tensor, int]]) -> float:
    """Mean cross entropy of one configuration, indices int64 [L, 2] into the widths.

    parts: pictures uint8 [N, H, W, 3] of one quality, labels int64 [N], and which batch norm is theirs.
    """
    y = one_hot(indices, len(net.widths)).to(parts[0][0].device)
    return judged(lambda pictures, group: net(pictures, Mixture.of(y, group)), parts)[0]


@torch.no_grad()
def judged(answer: Callable[[Tensor, int], Tensor], parts: list[tuple[Tensor, Tensor, int]]) -> tuple[float, float]:
    """(mean cross entropy, accuracy) of logits [N, classes] on held parts, see `held_parts`."""
    loss, right, count = 0.0, 0, 0
    for pictures, labels, group in parts:
        logits = answer(pictures, group)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return loss / count, right / count


def held_parts(held: Held, device: torch.device, groups: Tensor | None = None) -> list[tuple[Tensor, Tensor, int]]:
    """The held pictures in parts of one group each (int64 [N], one group when None), large enough for statistics."""
    pictures, labels = torch.tensor(held.pictures, device=device), torch.tensor(held.labels, device=device)
    groups = torch.zeros(len(labels), dtype=torch.int64) if groups is None else groups
    parts = []
    for group in groups.unique().tolist():
        mine = (groups == group).nonzero()[:, 0].to(device)
        for some in mine.tensor_split(max(1, len(mine) // JUDGED)):
            parts.append((pictures[some], labels[some], group))
    return parts
