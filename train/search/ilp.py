"""Bits by integer programming (as LIMPQ, arXiv 2203.08368, and HAWQ-V3): sensitivities first, then one exact choice.

One network learns all widths together; then each layer alone is set to each pair of widths, and the loss that this adds
on held pictures is its sensitivity, freed from most of its noise by what is known of it: weights and activations add to
it apart, and fewer bits never help. Least total sensitivity within a budget is a small integer program.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp, nnls
from torch import Tensor, nn

from train.bits.cost import CostError, CostTable
from train.data.batches import Held, generator
from train.loop.phase import answers, distillation, keep, train
from train.network.architectures import open_layers
from train.network.network import key
from train.network.relaxed import RELAXED, Mixture, one_hot
from train.search.shared import JUDGED, Search, SearchPhase, held_parts, judge

RUNGS = 9  # budgets solved for the Pareto list
SENSITIVITY_PICTURES = 2 * JUDGED
ROUNDING = 1 / 12  # variance of a rounding error, in squared steps


class Sensitivity(nn.Module):
    """loss float64 [L, W, W]: what a pair of widths in one layer adds to the loss; NaN before it is measured."""

    def __init__(self, layers: int, widths: int):
        super().__init__()
        self.register_buffer("loss", torch.full((layers, widths, widths), float("nan"), dtype=torch.float64))


@dataclass
class JointWidthsPhase(SearchPhase):
    """Every step through widths drawn anew for every layer, all candidates alike."""

    def losses(self, run, batches, order, epoch, step):
        pictures, labels = batches.get(order[0], self.name, epoch, step)
        table = self.search.table
        chance = generator(batches.seed, self.name, "widths", epoch, step)
        drawn = torch.randint(len(table.widths), (len(table.table), 2), generator=chance)
        y = one_hot(drawn, len(table.widths)).to(batches.device)
        logits = self.net["open"](pictures, Mixture.of(y))
        yield "task", distillation(logits, labels, answers(self.teacher, pictures)) / batches.batch


def solve(sensitivity: np.ndarray, table: CostTable, budget: float) -> Tensor:
    """Indices int64 [L, 2] of least summed sensitivity [L, W, W] whose cost keeps the budget; exact."""
    layers, widths = sensitivity.shape[:2]
    prices = table.table.numpy().reshape(-1)
    one_each = np.kron(np.eye(layers), np.ones(widths**2))
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(prices[None], -np.inf, budget - table.rest + 1e-12),
    ]
    found = milp(
        sensitivity.reshape(-1),
        integrality=np.ones(prices.size),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise CostError(f"no configuration found for a budget of {budget:.4f}: {found.message}")
    pair = found.x.reshape(layers, -1).argmax(1)
    return torch.from_numpy(np.stack([pair // widths, pair % widths], 1))


def additive(loss: np.ndarray) -> np.ndarray:
    """The nearest [L, W, W], in least squares, that are sums f(w) + g(a) of falling functions that end at 0.

    Rounding errors of the two operands add to first order, and what is measured on few pictures swings by more than
    the narrower of two widths costs: a solver would take each such luck for a gain.
    """
    widths = loss.shape[-1]
    wider = np.tri(widths, widths - 1, -1)[::-1]  # [k, i]: from the widest down to width k, step i has been taken
    w, a = (np.repeat(wider, widths, 0), np.tile(wider, (widths, 1)))
    steps = np.hstack([w, a])
    return np.stack([steps @ nnls(steps, layer.reshape(-1))[0] for layer in loss]).reshape(loss.shape)


@torch.no_grad()
def from_steps(net) -> np.ndarray:
    """Sensitivity without pictures, from the learned steps alone: rounding noise of both operands, as a share of the
    square of the largest range that a width covers."""
    rows = []
    for layer in open_layers(net.arch):
        per_variant = net.convs[key(layer)].variants[RELAXED]
        noise = []
        for mixed in (per_variant.w, per_variant.a):
            steps = [None if q is None else q.step().double() for q in mixed.quantizers]
            # An 8-bit input that is the residual stream itself adds no noise; its range is that of the next width.
            full = max(float(s.mean()) * q.qmax for s, q in zip(steps, mixed.quantizers, strict=True) if s is not None)
            noise.append([0.0 if s is None else float(s.square().mean()) * ROUNDING / full**2 for s in steps])
        rows.append(np.add.outer(*noise))
    return np.stack(rows)


def measure(given: Search, net: nn.ModuleDict, save: Callable[[], None]) -> None:
    """Fills in the sensitivities, layer after layer, on held pictures; `save` is called now and then."""
    table, loss, saved = given.table, net["sensitivity"].loss, time.monotonic()
    few = Held(given.held.pictures[:SENSITIVITY_PICTURES], given.held.labels[:SENSITIVITY_PICTURES])
    parts = held_parts(few, given.batches.device)
    most = torch.full((len(table.table), 2), len(table.widths) - 1)
    base = judge(net["open"], most, parts)
    with given.run.console.status("sensitivities") as status:
        for layer, described in enumerate(open_layers(table.arch)):
            if not bool(torch.isnan(loss[layer]).any()):
                continue
            status.update(f"sensitivity of {described.name}, {layer + 1} of {len(loss)}")
            loss[layer] = _alone(net, most, layer, parts, base)
            rows = {
                f"w{w}a{a}": float(loss[layer, i, j])
                for i, w in enumerate(table.widths)
                for j, a in enumerate(table.widths)
            }
            given.run.journal.write({"phase": "sensitivity", "step": layer, "layer": described.name, **rows})
            if time.monotonic() - saved > given.run.checkpoint_seconds:
                save()
                saved = time.monotonic()


def _alone(net: nn.ModuleDict, most: Tensor, layer: int, parts, base: float) -> Tensor:
    """Added loss float64 [W, W] of one layer at every pair of widths, all others at their widest."""
    count = int(most[0, 0]) + 1
    row = torch.zeros(count, count, dtype=torch.float64)
    for w, a in np.ndindex(count, count):
        indices = most.clone()
        indices[layer] = torch.tensor([w, a])
        if not torch.equal(indices, most):
            row[w, a] = judge(net["open"], indices, parts) - base
    return row


def search(given: Search) -> Callable[[], None]:
    """Trains all widths together; the function returned measures, solves and keeps."""
    table, settings = given.table, given.settings
    net = nn.ModuleDict(
        {
            "open": given.open_network(),
            "sensitivity": Sensitivity(len(table.table), len(table.widths)).to(given.batches.device),
        }
    )
    given.enter(net)
    parts = held_parts(given.held, given.batches.device)

    def validate(phase) -> dict[str, float]:
        uniform = [torch.full((len(table.table), 2), k) for k in range(len(table.widths))]
        seen = [
            given.variant(f"uniform{b}", i, judge(net["open"], i, parts))
            for b, i in zip(table.widths, uniform, strict=True)
        ]
        sensitivity = from_steps(net["open"])
        given.keep(
            [
                given.variant("ilp", table.widened(solve(sensitivity, table, b)))
                for b in given.budgets(settings.bits.variants)
            ],
            seen,
        )
        return {f"held/{b}": v.loss for b, v in zip(table.widths, seen, strict=True)}

    phase = JointWidthsPhase.start(given, net, ("task",))
    train(phase, given.batches, given.run, given.state(phase), validate)

    def harvest() -> None:
        state = {"epoch": phase.epochs, "step": 0, "sums": [0.0], "counted": 0}
        if settings.bits.sensitivity == "loss":
            measure(given, net, lambda: keep(phase, given.run, state))
            sensitivity = additive(net["sensitivity"].loss.cpu().numpy())
        else:
            sensitivity = from_steps(net["open"])
        ladder = sorted({*given.budgets(settings.bits.variants), *given.budgets(RUNGS)})
        solved = {budget: table.widened(solve(sensitivity, table, budget)) for budget in ladder}
        found = {b: given.variant("ilp", i, judge(net["open"], i, parts)) for b, i in solved.items()}
        given.keep([found[b] for b in given.budgets(settings.bits.variants)], list(found.values()))

    return harvest
