"""The training loop: one phase over its epochs, with checkpoints, a journal, and one end after any interruption."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from train.bits.configs import Configs
from train.data.batches import Batches, Order
from train.loop import checkpoint
from train.loop.fused import fused
from train.loop.journal import Journal
from train.loop.parallel import Group
from train.network.network import FULL, Network, QuantConv, multiplying_in

WARM_UP = 0.05  # share of the steps
BETAS = (0.9, 0.99)
TEMPERATURE = 2.0  # of the distillation
DISTILLED = 0.5  # share of the teacher in the loss
JOURNAL_LINES = 10  # an epoch's, beside that of its end


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the phase, the step, and the last good checkpoint."""


@dataclass
class Run:
    """What all phases of a run share."""

    folder: Path
    settings: dict
    group: Group
    journal: Journal | None  # of the writing process only
    checkpoint_seconds: float
    console: Console
    modules: dict[str, nn.Module] = field(default_factory=dict)  # all that a checkpoint holds
    configs: Configs | None = None  # what the search found so far
    start: Callable[[Network], None] | None = None  # gives the variants a search's tensors in place of the teacher's
    last_checkpoint: Path | None = None
    operands: torch.dtype | None = None  # of convolutions in training; None for the weights' own
    fuses: bool = False  # teachers, and networks whose phase says fusible, run as fused code


@dataclass
class Phase:
    """Training of variants of a network: the full-precision one from labels, or all variants from labels and teacher.

    feeds: (which views are a variant's own, bool [F, N], or None for all alike; the variants that learn from that
    order). A search has its own `parameters_by_rate`, `order` and `losses`.
    """

    name: str
    net: nn.Module
    variants: tuple[str, ...]  # names of the losses
    epochs: int
    lr: float
    teacher: Network | None = None
    feeds: tuple[tuple[Tensor | None, tuple[str, ...]], ...] = ()
    fusible = True  # few variants, each of which has the same operations in every step

    def __post_init__(self):
        self.feeds = self.feeds or ((None, self.variants),)
        rated = self.parameters_by_rate()
        self.names = [n for _, named in rated for n, _ in named]
        self.parameters = [p for _, named in rated for _, p in named]
        groups = [{"params": [p for _, p in named], "peak": rate} for rate, named in rated]
        self.optimizer = torch.optim.Adam(groups, lr=self.lr, betas=BETAS, fused=True)

    def parameters_by_rate(self) -> list[tuple[float, list[tuple[str, nn.Parameter]]]]:
        """(largest learning rate, named parameters): what is trained, and how fast."""
        # Adam needs no momentum for what has no gradient: the full-precision variant of a network of variants rests.
        resting = () if FULL in self.variants else (f".variants.{FULL}.",)
        return [(self.lr, [(n, p) for n, p in self.net.named_parameters() if not any(r in n for r in resting)])]

    def order(self, batches: Batches, epoch: int) -> list[Order]:
        """One for each feed."""
        return [batches.order(self.name, epoch, own) for own, _ in self.feeds]

    def losses(
        self, run: "Run", batches: Batches, order: list[Order], epoch: int, step: int
    ) -> Iterator[tuple[str, Tensor]]:
        """(name, loss) of one step, each to be differentiated before the next is asked for."""
        for (_, variants), feed in zip(self.feeds, order, strict=True):
            pictures, labels = batches.get(feed, self.name, epoch, step)
            taught = answers(self.teacher, pictures)
            for variant in variants:
                yield variant, distillation(self.net(pictures, variant), labels, taught) / batches.batch

    def restore(self, resumed: dict) -> dict:
        """Takes the optimizer's state from a checkpoint inside this phase; returns where to go on."""
        checkpoint.restore_optimizer(self.optimizer, self.names, resumed["tensors"])
        return {k: resumed[k] for k in ("epoch", "step", "sums", "counted")}

    def stepped(self) -> None:
        """Called after each step of the optimizer."""
        self.net.keep_gains_positive()

    def notes(self) -> dict[str, float]:
        """What is written in the journal beside the losses."""
        return {}


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def answers(teacher: Network | None, pictures: Tensor) -> Tensor | None:
    return None if teacher is None else teacher(pictures)


def distillation(logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    """Summed over the batch: cross entropy, mixed with the divergence from the teacher's softened answer."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    if taught is None:
        return loss
    ours, theirs = F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(taught / TEMPERATURE, 1)
    divergence = F.kl_div(ours, theirs, reduction="sum", log_target=True) * TEMPERATURE**2
    return (1 - DISTILLED) * loss + DISTILLED * divergence


def optimize(phase: Phase, run: Run, batches: Batches, order, epoch: int, step: int) -> list[float]:
    """One step on the summed gradients of all its losses. Returns the mean of each, in the order of the variants."""
    phase.optimizer.zero_grad(set_to_none=True)
    sums = dict.fromkeys(phase.variants, torch.zeros((), device=batches.device))
    for name, loss in phase.losses(run, batches, order, epoch, step):
        loss.backward()
        sums[name] = sums[name] + loss.detach()
    losses = run.group.combine(phase.net, phase.parameters, torch.stack(list(sums.values()))).tolist()
    if all(math.isfinite(loss) for loss in losses):
        phase.optimizer.step()
        phase.stepped()
    return losses


def train(phase: Phase, batches: Batches, run: Run, state: dict | None, validate: Callable[[Phase], dict]) -> None:
    """All epochs of a phase, from `state` where a checkpoint was taken inside it.

    validate: called by the writing process after each epoch; what it returns is written in the journal.
    Raises TrainingError where a loss is no longer finite.
    """
    if state is None:
        state = {"epoch": 0, "step": 0, "sums": [0.0] * len(phase.variants), "counted": 0}
        if run.group.writes:
            keep(phase, run, state)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, TextColumn("{task.fields[note]}"), console=run.console, disable=not run.group.writes)
    with shown as progress:
        bar = progress.add_task(
            f"training, {phase.name}",
            total=phase.epochs * batches.steps,
            note="making fused code" if run.fuses else "",
            completed=state["epoch"] * batches.steps + state["step"],
        )
        while state["epoch"] < phase.epochs:
            with passes(phase, run):
                _epoch(phase, batches, run, state, lambda note: progress.update(bar, advance=1, note=note))
            state |= {"epoch": state["epoch"] + 1, "step": 0}
            if run.group.writes:
                run.journal.write(
                    {
                        "phase": phase.name,
                        "epoch": state["epoch"],
                        "step": state["epoch"] * batches.steps,
                        **validate(phase),
                    }
                )
                if state["epoch"] < phase.epochs:
                    keep(phase, run, state)


@contextmanager
def passes(phase: Phase, run: Run) -> Iterator[None]:
    """Inside, the phase's networks compute as the run wants it; outside, as they are evaluated."""
    with ExitStack() as stack:
        stack.enter_context(multiplying_in(run.operands, phase.net, phase.teacher))
        if run.fuses:
            stack.enter_context(fused(phase.net if phase.fusible else None, phase.teacher))
        yield


def _epoch(phase: Phase, batches: Batches, run: Run, state: dict, advance: Callable[[str], None]) -> None:
    order, total = phase.order(batches, state["epoch"]), phase.epochs * batches.steps
    interval, saved = max(1, batches.steps // JOURNAL_LINES), time.monotonic()
    phase.net.train()
    while state["step"] < batches.steps:
        step = state["epoch"] * batches.steps + state["step"]
        rate = learning_rate(step, total, phase.lr)
        for group in phase.optimizer.param_groups:
            group["lr"] = learning_rate(step, total, group["peak"])
        losses = optimize(phase, run, batches, order, state["epoch"], state["step"])
        if not all(math.isfinite(loss) for loss in losses):
            _give_up(phase, run, batches, order, state, losses)
        state["sums"] = [a + b for a, b in zip(state["sums"], losses, strict=True)]
        state |= {"step": state["step"] + 1, "counted": state["counted"] + 1}
        advance(" ".join(f"{loss:.3f}" for loss in losses))
        if state["counted"] >= interval:
            _note(phase, run, state, step + 1, rate)
        if run.group.writes and time.monotonic() - saved > run.checkpoint_seconds:
            keep(phase, run, state)
            saved = time.monotonic()


def _note(phase: Phase, run: Run, state: dict, step: int, rate: float) -> None:
    means = {
        f"loss/{variant}": total / state["counted"]
        for variant, total in zip(phase.variants, state["sums"], strict=True)
    }
    if run.group.writes:
        run.journal.write(
            {"phase": phase.name, "epoch": state["epoch"] + 1, "step": step, "lr": rate, **means, **phase.notes()}
        )
    state |= {"sums": [0.0] * len(phase.variants), "counted": 0}


def _give_up(phase: Phase, run: Run, batches: Batches, order, state: dict, losses: list[float]) -> None:
    told = ", ".join(f"{variant} {loss}" for variant, loss in zip(phase.variants, losses, strict=True))
    last = f"the last good checkpoint is {run.last_checkpoint}" if run.last_checkpoint else "there is no checkpoint yet"
    layer = _first_not_finite(phase, run, batches, order, state)
    where = f"first in layer {layer}" if layer else "in no layer's output"
    raise TrainingError(
        f"the loss is not finite in phase {phase.name}, epoch {state['epoch'] + 1}, "
        f"step {state['step'] + 1} ({told}), {where}; {last}; try a smaller --lr"
    )


@torch.no_grad()
def _first_not_finite(phase: Phase, run: Run, batches: Batches, order, state: dict) -> str | None:
    """The step once more, for the name of the first layer that computes something not finite."""
    found = []

    def look(module, inputs, output):
        if not found and not bool(torch.isfinite(output).all()):
            found.append(module.layer.name)

    hooks = [m.register_forward_hook(look) for m in phase.net.modules() if isinstance(m, QuantConv)]
    with torch.compiler.set_stance("force_eager"):  # fused code calls no hooks
        for _ in phase.losses(run, batches, order, state["epoch"], state["step"]):
            pass
    for hook in hooks:
        hook.remove()
    return found[0] if found else None


def keep(phase: Phase | None, run: Run, state: dict) -> None:
    """Writes a checkpoint; `phase` None between phases, state then saying which one is next."""
    found = None if run.configs is None else run.configs.to_dict()
    state = {**state, "settings": run.settings, "journal": run.journal.size, "configs": found}
    if phase is None:
        run.last_checkpoint = checkpoint.save(run.folder, run.modules, None, [], state)
    else:
        state["phase"] = phase.name
        run.last_checkpoint = checkpoint.save(run.folder, run.modules, phase.optimizer, phase.names, state)
