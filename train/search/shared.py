"""What all searches for bits share: the open network, its phase of training, and the best configurations so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from train.bits.configs import Configs, Configuration, distinct, pareto_front
from train.bits.cost import TOLERANCE, CostTable
from train.data.batches import Batches
from train.loop.phase import Phase
from train.loop.run import SEARCH_NETWORK
from train.loop.session import Session
from train.loop.state import SEARCH
from train.network.network import FULL
from train.network.relaxed import RelaxedNetwork
from train.search.judging import HeldPart, split_held
from train.settings.settings import Settings

CALIBRATION = 256  # pictures that set the first steps
RUNG = math.sqrt(2)  # between what the budgets of several variants leave above the least cost
SLIVER = 0.02  # share of the range of costs that a budget leaves above the least for this purpose
OFFSETS = 1601  # that are tried when real widths are rounded


@dataclass(frozen=True, eq=False)
class Search:
    """A search for bits: the session that it trains in, and the table of what bits cost."""

    session: Session
    table: CostTable

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        return self.session.settings

    @property
    def device(self) -> torch.device:
        """The device that the search trains on."""
        return self.session.batches.device

    @property
    def layers(self) -> int:
        """How many layers have open widths."""
        return len(self.table.table)

    def open_network(self, kinds: int = 1, planes: int | None = None, one_input: bool = False) -> RelaxedNetwork:
        """Returns the network of open widths, which starts from the full-precision one.

        kinds: how many batch norms a layer has, one a quality kind. planes: index of the width that weights as bit
        planes round best to, None for a learned step a width (LSQ). one_input: see RelaxedNetwork.
        """
        full_precision = self.session.networks.full_precision
        widths = self.settings.bits.candidates
        net = RelaxedNetwork(full_precision.arch, widths, kinds, planes, one_input).to(self.device)
        net.inherit(full_precision)
        if not self.session.resume.inside(SEARCH):
            net.calibrate(self.session.batches.sample(CALIBRATION))
        return net.train()

    def register(self, modules: nn.Module) -> None:
        """Makes modules part of every checkpoint, and fills them from the one that the search goes on from."""
        self.session.run.modules[SEARCH_NETWORK] = modules
        if self.session.resume.inside(SEARCH):
            self.session.resume.fill_module(modules, SEARCH_NETWORK)

    def train(self, phase: "SearchPhase") -> None:
        """Trains the search's phase, and validates it after each epoch."""
        self.session.train(phase, phase.validate)

    def configuration(
        self, name: str, indices: Tensor, loss: float | None = None, kinds: tuple[int, ...] = ()
    ) -> Configuration:
        """Returns the configuration of indices int64 [L, 2] into the widths.

        name: gets the cost in thousandths behind it. loss: on held pictures, None where not measured. kinds: the
        quality kinds that it is for, none for all pictures.
        """
        cost = float(self.table.of_indices(indices))
        name = f"{name}-{round(1000 * cost):03d}"
        return Configuration(name, self.table.config(indices), cost, self.settings.bits.method, kinds, loss)

    def record(self, best: Sequence[Configuration], judged: Sequence[Configuration] = ()) -> None:
        """Writes configs.json: the best, to be trained if the search ended now, and the Pareto front of all judged."""
        before = self.configs()
        front = pareto_front(distinct((*judged, *before.pareto)))  # one judged again counts with its newest loss
        self.session.run.record_configs(replace(before, variants=distinct(best), pareto=front))

    def configs(self) -> Configs:
        """Returns the configurations found so far."""
        configs = self.session.run.configs
        return Configs(self.settings.costs) if configs is None else configs

    def budgets(self, count: int, a_bits: int | None = None) -> list[float]:
        """Returns `count` rising budgets around the one asked for, which is among them; fewer where they would pass 1.

        They lie apart by a factor of RUNG in what they leave above the least cost, which by time may be most of that of
        8 bits. a_bits: width of all inner activations, where it is fixed.
        """
        budget = self.settings.bits.budget
        least = self.table.least(a_bits) * (1 + TOLERANCE)
        above = max(budget - least, SLIVER * (1 - least))
        first = -((count - 1) // 2)
        others = [least + above * RUNG**k for k in range(first, first + count) if k != 0]
        return sorted({min(b, 1.0) for b in [*others, budget]})


class SearchModules(nn.Module):
    """All that a search trains: the network of open widths, and in subclasses what chooses the widths."""

    def __init__(self, relaxed: RelaxedNetwork):
        super().__init__()
        self.relaxed = relaxed


SomePhase = TypeVar("SomePhase", bound="SearchPhase")


@dataclass
class SearchPhase(Phase):
    """Training of a network of open widths together with what chooses the widths, which has a rate of its own.

    parts: the held pictures that configurations are judged by.
    """

    net: SearchModules
    search: Search = field(kw_only=True)
    parts: list[HeldPart] = field(kw_only=True)

    @classmethod
    def of(
        cls: type[SomePhase],
        search: Search,
        net: SearchModules,
        loss_names: tuple[str, ...],
        held_kinds: Tensor | None = None,
        **fields: Any,
    ) -> SomePhase:
        """Returns the phase as a search's settings ask for it.

        held_kinds: quality kinds of the held pictures, int64 [N], where they are told apart. fields: a subclass's own.
        """
        training = search.settings.training
        teacher = search.session.networks.teacher
        parts = split_held(search.session.held, search.device, held_kinds)
        epochs = training.bit_epochs
        return cls(SEARCH, net, loss_names, epochs, training.lr, teacher, search=search, parts=parts, **fields)

    def validate(self) -> dict[str, float]:
        """Writes the configurations found so far, and returns what the journal gets after each epoch."""
        raise NotImplementedError

    def record_result(self) -> None:
        """Writes the configurations that the search has come to at its end."""
        raise NotImplementedError

    def parameters_by_rate(self) -> list[tuple[float, list[tuple[str, nn.Parameter]]]]:
        """Returns weights at the network's learning rate, and what chooses the widths at a rate of its own."""
        named = [(n, p) for n, p in self.net.named_parameters() if f".variants.{FULL}." not in n]
        weights = [(n, p) for n, p in named if n.startswith("relaxed.")]
        choosing = [(n, p) for n, p in named if not n.startswith("relaxed.")]
        rates = [(self.lr, weights), (self.search.settings.bits.policy_lr, choosing)]
        return [(rate, parameters) for rate, parameters in rates if parameters]

    def progress(self, batches: Batches, epoch: int, step: int) -> float:
        """Returns the share of the phase that is done before this step, 0..1."""
        return (epoch * batches.steps + step) / (self.epochs * batches.steps)

    def after_step(self) -> None:
        """Keeps the gains of batch norms positive."""
        self.net.relaxed.keep_gains_positive()

    @property
    def table(self) -> CostTable:
        """What bits cost."""
        return self.search.table

    @property
    def budget(self) -> float:
        """The mean cost that a picture may have."""
        return self.search.settings.bits.budget

    @property
    def processes(self) -> int:
        """How many processes sum their gradients: a loss that all of them compute alike is divided by it."""
        return self.search.session.run.processes.count


def common_offsets(reach: float) -> Tensor:
    """Returns what real widths are moved by before they are rounded: float64 [OFFSETS], from reach to -reach."""
    return torch.linspace(reach, -reach, OFFSETS, dtype=torch.float64)


def held_losses(configurations: Sequence[Configuration]) -> dict[str, float]:
    """Returns "held/K" -> loss on held pictures of the configurations where it was measured, for the journal."""
    return {f"held/{k}": v.loss for k, v in enumerate(configurations) if v.loss is not None}
