"""The training loop: one phase over its epochs, with checkpoints, a journal, and one end after any interruption."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from train import checkpoint
from train.batches import Batches
from train.journal import Journal
from train.networks import FULL, Network
from train.parallel import Group

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
    modules: dict[str, Network] = field(default_factory=dict)  # all that a checkpoint holds
    last_checkpoint: Path | None = None


@dataclass
class Phase:
    """Training of arms of a network: the full-precision one from labels, or all variants from labels and teacher."""

    name: str
    net: Network
    arms: tuple[str, ...]
    epochs: int
    lr: float
    teacher: Network | None = None

    def __post_init__(self):
        # Adam needs no momentum for what has no gradient: the full-precision arm of a network of variants rests.
        resting = () if FULL in self.arms else (f".arms.{FULL}.",)
        named = [(n, p) for n, p in self.net.named_parameters() if not any(r in n for r in resting)]
        self.names, self.parameters = [n for n, _ in named], [p for _, p in named]
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.lr, betas=BETAS, fused=True)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def distillation(logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    """Summed over the batch: cross entropy, mixed with the divergence from the teacher's softened answer."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    if taught is None:
        return loss
    ours, theirs = F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(taught / TEMPERATURE, 1)
    divergence = F.kl_div(ours, theirs, reduction="sum", log_target=True) * TEMPERATURE**2
    return (1 - DISTILLED) * loss + DISTILLED * divergence


def optimize(phase: Phase, run: Run, pictures: Tensor, labels: Tensor, batch: int) -> list[float]:
    """One step: the batch through each arm in turn, their gradients added. Returns the mean loss of each arm."""
    with torch.no_grad():
        taught = None if phase.teacher is None else phase.teacher(pictures)
    phase.optimizer.zero_grad(set_to_none=True)
    losses = []
    for arm in phase.arms:
        loss = distillation(phase.net(pictures, arm), labels, taught) / batch
        loss.backward()
        losses.append(loss.detach())
    losses = run.group.combine(phase.net, phase.parameters, torch.stack(losses)).tolist()
    if all(math.isfinite(loss) for loss in losses):
        phase.optimizer.step()
        phase.net.keep_gains_positive()
    return losses


def train(phase: Phase, batches: Batches, run: Run, state: dict | None, validate: Callable[[Phase], dict]) -> None:
    """All epochs of a phase, from `state` where a checkpoint was taken inside it.

    validate: called by the writing process after each epoch; what it returns is written in the journal.
    Raises TrainingError where a loss is no longer finite.
    """
    if state is None:
        state = {"epoch": 0, "step": 0, "sums": [0.0] * len(phase.arms), "counted": 0}
        if run.group.writes:
            keep(phase, run, state)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, TextColumn("{task.fields[note]}"), console=run.console, disable=not run.group.writes)
    with shown as progress:
        bar = progress.add_task(f"training, {phase.name}", total=phase.epochs * batches.steps, note="",
                                completed=state["epoch"] * batches.steps + state["step"])
        while state["epoch"] < phase.epochs:
            _epoch(phase, batches, run, state, lambda note: progress.update(bar, advance=1, note=note))
            state |= {"epoch": state["epoch"] + 1, "step": 0}
            if run.group.writes:
                run.journal.write({"phase": phase.name, "epoch": state["epoch"], "step": state["epoch"] * batches.steps,
                                   **validate(phase)})
                if state["epoch"] < phase.epochs:
                    keep(phase, run, state)


def _epoch(phase: Phase, batches: Batches, run: Run, state: dict, advance: Callable[[str], None]) -> None:
    order, total = batches.order(phase.name, state["epoch"]), phase.epochs * batches.steps
    interval, saved = max(1, batches.steps // JOURNAL_LINES), time.monotonic()
    phase.net.train()
    while state["step"] < batches.steps:
        step = state["epoch"] * batches.steps + state["step"]
        rate = learning_rate(step, total, phase.lr)
        for group in phase.optimizer.param_groups:
            group["lr"] = rate
        pictures, labels = batches.get(order, phase.name, state["epoch"], state["step"])
        losses = optimize(phase, run, pictures, labels, batches.batch)
        if not all(math.isfinite(loss) for loss in losses):
            _give_up(phase, run, state, losses)
        state["sums"] = [a + b for a, b in zip(state["sums"], losses, strict=True)]
        state |= {"step": state["step"] + 1, "counted": state["counted"] + 1}
        advance(" ".join(f"{loss:.3f}" for loss in losses))
        if state["counted"] >= interval:
            _note(phase, run, state, step + 1, rate)
        if run.group.writes and time.monotonic() - saved > run.checkpoint_seconds:
            keep(phase, run, state)
            saved = time.monotonic()


def _note(phase: Phase, run: Run, state: dict, step: int, rate: float) -> None:
    means = {f"loss/{arm}": total / state["counted"] for arm, total in zip(phase.arms, state["sums"], strict=True)}
    if run.group.writes:
        run.journal.write({"phase": phase.name, "epoch": state["epoch"] + 1, "step": step, "lr": rate, **means})
    state |= {"sums": [0.0] * len(phase.arms), "counted": 0}


def _give_up(phase: Phase, run: Run, state: dict, losses: list[float]) -> None:
    told = ", ".join(f"{arm} {loss}" for arm, loss in zip(phase.arms, losses, strict=True))
    last = f"the last good checkpoint is {run.last_checkpoint}" if run.last_checkpoint else "there is no checkpoint yet"
    raise TrainingError(f"the loss is not finite in phase {phase.name}, epoch {state['epoch'] + 1}, "
                        f"step {state['step'] + 1} ({told}); {last}; try a smaller --lr")


def keep(phase: Phase | None, run: Run, state: dict) -> None:
    """Writes a checkpoint; `phase` None between phases, state then saying which one is next."""
    state = {**state, "settings": run.settings, "journal": run.journal.size}
    if phase is None:
        run.last_checkpoint = checkpoint.save(run.folder, run.modules, None, [], state)
    else:
        state["phase"] = phase.name
        run.last_checkpoint = checkpoint.save(run.folder, run.modules, phase.optimizer, phase.names, state)
