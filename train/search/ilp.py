"""Bits by integer programming over the sensitivities of layers, as in LIMPQ and HAWQ-V3.

LIMPQ is Tang et al. 2022 (arXiv 2203.08368), HAWQ-V3 Yao et al. 2021 (arXiv 2011.10680). One network learns all widths
together; then each layer alone is set to each pair of widths, and the loss that this adds on held pictures is its
sensitivity. Two things that are known of sensitivities free them from most of their noise: weights and activations add
to the loss apart, and fewer bits never help. The configuration is the exact solution of

    min sum_l sensitivity_l(w_l, a_l)   subject to   sum_l cost_l(w_l, a_l) <= budget

With --sensitivity steps no pictures are needed: as in LIMPQ the learned steps alone say how sensitive a layer is.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp, nnls
from torch import Tensor, nn

from train.bits.configs import Configuration
from train.bits.cost import CostError, CostTable
from train.data.batches import Batches, Held, Order, generator
from train.loop.journal import JournalLine
from train.loop.phase import distillation_loss, teacher_logits
from train.loop.state import Position
from train.network.architectures import open_layers
from train.network.relaxed import Mixture, RelaxedNetwork, one_hot
from train.search.judging import PART_PICTURES, HeldPart, judge_bits, split_held
from train.search.shared import Search, SearchModules, SearchPhase

FRONT_BUDGETS = 9  # budgets solved for the Pareto front
SENSITIVITY_PICTURES = 2 * PART_PICTURES
ROUNDING_VARIANCE = 1 / 12  # of a rounding error that is uniform in a step, in squared steps
SLACK = 1e-12  # of the budget, for the solver's sums


class Sensitivity(nn.Module):
    """What a pair of widths in one layer adds to the loss: buffer float64 [L, W, W], NaN before it is measured."""

    loss: Tensor

    def __init__(self, layers: int, widths: int):
        super().__init__()
        self.register_buffer("loss", torch.full((layers, widths, widths), float("nan"), dtype=torch.float64))


class IlpModules(SearchModules):
    """The network of open widths, and the sensitivities measured on it."""

    def __init__(self, relaxed: RelaxedNetwork, sensitivity: Sensitivity):
        super().__init__(relaxed)
        self.sensitivity = sensitivity


@dataclass
class IlpPhase(SearchPhase):
    """Training of all widths together: in every step each layer has widths drawn anew, all candidates alike."""

    net: IlpModules

    def losses(self, batches: Batches, orders: list[Order], epoch: int, step: int) -> Iterator[tuple[str, Tensor]]:
        """Yields the task's scalar loss at random widths."""
        pictures, labels = batches.get(orders[0], self.name, epoch, step)
        rng = generator(batches.seed, self.name, "widths", epoch, step)
        count = len(self.table.widths)
        indices = torch.randint(count, (self.search.layers, 2), generator=rng)
        logits = self.net.relaxed(pictures, Mixture.of(one_hot(indices, count).to(batches.device)))
        yield "task", distillation_loss(logits, labels, teacher_logits(self.teacher, pictures)) / batches.batch

    def validate(self) -> dict[str, float]:
        """Writes configurations by the learned steps; returns the held loss of each width in all layers."""
        uniform = [
            self.judged(f"uniform{bits}", torch.full((self.search.layers, 2), k))
            for k, bits in enumerate(self.table.widths)
        ]
        sensitivity = sensitivity_of_steps(self.net.relaxed)
        budgets = self.search.budgets(self.search.settings.bits.variants)
        best = [self.search.configuration("ilp", self.solved(sensitivity, b)) for b in budgets]
        self.search.record(best, uniform)
        widths = zip(self.table.widths, uniform, strict=True)
        return {f"held/{bits}": v.loss for bits, v in widths if v.loss is not None}

    def record_result(self) -> None:
        """Measures the sensitivities, solves for every budget, and writes the configurations."""
        if self.search.settings.bits.sensitivity == "loss":
            end = Position(self.epochs, 0, (0.0,), 0)
            measure_sensitivities(self, lambda: self.search.session.run.write_checkpoint(self, end))
            sensitivity = additive(self.net.sensitivity.loss.cpu().numpy())
        else:
            sensitivity = sensitivity_of_steps(self.net.relaxed)
        budgets = self.search.budgets(self.search.settings.bits.variants)
        every = sorted({*budgets, *self.search.budgets(FRONT_BUDGETS)})
        solutions = {budget: self.judged("ilp", self.solved(sensitivity, budget)) for budget in every}
        self.search.record([solutions[budget] for budget in budgets], list(solutions.values()))

    def solved(self, sensitivity: np.ndarray, budget: float) -> Tensor:
        """Returns the indices int64 [L, 2] of least sensitivity [L, W, W], widened to what costs no more."""
        return self.table.widened(solve(sensitivity, self.table, budget))

    def judged(self, name: str, indices: Tensor) -> Configuration:
        """Returns the configuration of indices int64 [L, 2] with its loss on held pictures."""
        return self.search.configuration(name, indices, judge_bits(self.net.relaxed, indices, self.parts))


def solve(sensitivity: np.ndarray, table: CostTable, budget: float) -> Tensor:
    """Returns the indices int64 [L, 2] of least summed sensitivity [L, W, W] whose cost keeps the budget; exact.

    Raises CostError where no configuration keeps it.
    """
    layers, widths = sensitivity.shape[:2]
    costs = table.table.numpy().reshape(-1)
    one_pair_a_layer = np.kron(np.eye(layers), np.ones(widths**2))
    constraints = [
        LinearConstraint(one_pair_a_layer, 1, 1),
        LinearConstraint(costs[None], -np.inf, budget - table.rest + SLACK),
    ]
    solution = milp(
        sensitivity.reshape(-1),
        integrality=np.ones(costs.size),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0},
    )
    if solution.x is None:
        raise CostError(
            f"expected a configuration that keeps a budget of {budget:.4f}, got none ({solution.message}); raise it"
        )
    pair = solution.x.reshape(layers, -1).argmax(1)
    return torch.from_numpy(np.stack([pair // widths, pair % widths], 1))


def additive(loss: np.ndarray) -> np.ndarray:
    """Returns the nearest [L, W, W], in least squares, that are sums f(w) + g(a) of falling functions that end at 0.

    Rounding errors of the two operands add to first order, and what is measured on few pictures swings by more than
    the narrower of two widths costs: a solver would take each such luck for a gain.
    """
    widths = loss.shape[-1]
    wider = np.tri(widths, widths - 1, -1)[::-1]  # [k, i]: from the widest down to width k, step i has been taken
    steps = np.hstack([np.repeat(wider, widths, 0), np.tile(wider, (widths, 1))])  # of weights, of activations
    return np.stack([steps @ nnls(steps, layer.reshape(-1))[0] for layer in loss]).reshape(loss.shape)


@torch.no_grad()
def sensitivity_of_steps(net: RelaxedNetwork) -> np.ndarray:
    """Returns sensitivities float64 [L, W, W] by the learned steps alone, without pictures.

    They are the rounding noise of both operands, as a share of the square of the largest range that a width covers.
    """
    layers = []
    for layer in open_layers(net.arch):
        per_variant = net.open_variant(layer)
        w_noise, a_noise = (_relative_noise(mixed.quantizers) for mixed in (per_variant.w, per_variant.a))
        layers.append(np.add.outer(w_noise, a_noise))
    return np.stack(layers)


def _relative_noise(quantizers: nn.Module) -> list[float]:
    """The rounding noise of one tensor at every width, as a share of the square of its largest range."""
    # An 8-bit input that is the residual stream itself adds no noise; its range is that of the next width.
    steps = [None if q is None else q.step().double() for q in quantizers]
    ranges = [float(step.mean()) * q.qmax for step, q in zip(steps, quantizers, strict=True) if step is not None]
    return [
        0.0 if step is None else float(step.square().mean()) * ROUNDING_VARIANCE / max(ranges) ** 2 for step in steps
    ]


def measure_sensitivities(phase: IlpPhase, save: Callable[[], None]) -> None:
    """Fills in the sensitivities that are still missing, layer after layer, on held pictures.

    save: writes a checkpoint; it is called whenever the run's time between checkpoints is over.
    """
    table = phase.table
    loss = phase.net.sensitivity.loss
    run = phase.search.session.run
    held = phase.search.session.held
    few = Held(held.pictures[:SENSITIVITY_PICTURES], held.labels[:SENSITIVITY_PICTURES])
    parts = split_held(few, phase.search.device)
    widest = torch.full((len(loss), 2), len(table.widths) - 1)
    base = judge_bits(phase.net.relaxed, widest, parts)
    saved = time.monotonic()
    with run.console.status("sensitivities") as status:
        for number, layer in enumerate(open_layers(table.arch)):
            if not bool(torch.isnan(loss[number]).any()):
                continue
            status.update(f"sensitivity of {layer.name}, {number + 1} of {len(loss)}")
            loss[number] = _sensitivity_of_layer(phase.net.relaxed, widest, number, parts, base)
            run.write_line(JournalLine("sensitivity", number, _by_widths(loss[number], table.widths), layer=layer.name))
            if time.monotonic() - saved > run.checkpoint_seconds:
                save()
                saved = time.monotonic()


def _sensitivity_of_layer(
    net: RelaxedNetwork, widest: Tensor, layer: int, parts: list[HeldPart], base: float
) -> Tensor:
    """What one layer adds to the loss `base` at every pair of widths, float64 [W, W], all others at their widest."""
    count = int(widest[0, 0]) + 1
    added = torch.zeros(count, count, dtype=torch.float64)
    for w, a in np.ndindex(count, count):
        indices = widest.clone()
        indices[layer] = torch.tensor([w, a])
        if not torch.equal(indices, widest):
            added[w, a] = judge_bits(net, indices, parts) - base
    return added


def _by_widths(loss: Tensor, widths: tuple[int, ...]) -> dict[str, float]:
    """A layer's losses [W, W] by the names of their widths, as "w4a8"."""
    return {f"w{w}a{a}": float(loss[i, j]) for i, w in enumerate(widths) for j, a in enumerate(widths)}


def find_bits(search: Search) -> IlpPhase:
    """Trains all widths together; returns the phase, which then measures, solves and records the configurations."""
    sensitivity = Sensitivity(search.layers, len(search.table.widths)).to(search.device)
    net = IlpModules(search.open_network(), sensitivity)
    search.register(net)
    phase = IlpPhase.of(search, net, ("task",))
    search.train(phase)
    return phase
