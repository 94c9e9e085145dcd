"""The training loop: one phase over its epochs, with a journal, checkpoints, and one end after any interruption."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from train.data.batches import Batches, Order
from train.loop.fused import fused
from train.loop.journal import JournalLine
from train.loop.phase import Phase, learning_rate
from train.loop.run import Run
from train.loop.state import Position
from train.network.network import QuantConv, multiplying_in

LINES_PER_EPOCH = 10  # of the journal, beside the one at an epoch's end


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the phase, the step, and the last good checkpoint."""


def train_phase(
    phase: Phase, run: Run, batches: Batches, position: Position | None, validate: Callable[[], dict[str, float]]
) -> None:
    """Trains all epochs of a phase, from a position inside it, or from its beginning where that is None.

    validate: called by the writing process after each epoch; the journal gets what it returns. Raises TrainingError
    where a loss is no longer finite.
    """
    if position is None:
        position = Position.start(len(phase.loss_names))
        run.write_checkpoint(phase, position)
    with _progress(phase, run, batches, position) as advance:
        while position.epoch < phase.epochs:
            with computing_as_asked(phase, run):
                position = _train_epoch(phase, run, batches, position, advance).after_epoch()
            if run.processes.writes:
                steps = position.epoch * batches.steps
                run.write_line(JournalLine(phase.name, steps, validate(), position.epoch))
                if position.epoch < phase.epochs:
                    run.write_checkpoint(phase, position)


@contextmanager
def computing_as_asked(phase: Phase, run: Run) -> Iterator[None]:
    """Makes the phase's networks compute in the run's precision and as fused code; outside it they are evaluated."""
    networks: list[nn.Module] = [] if phase.teacher is None else [phase.teacher]
    with ExitStack() as stack:
        stack.enter_context(multiplying_in(run.operands, phase.net, *networks))
        if run.fuses:
            stack.enter_context(fused(*([phase.net] if phase.fusible else []), *networks))
        yield


def optimize(phase: Phase, run: Run, batches: Batches, orders: list[Order], epoch: int, step: int) -> list[float]:
    """Takes one step on the summed gradients of all losses; returns each loss's mean, in the order of their names."""
    phase.optimizer.zero_grad(set_to_none=True)
    sums = dict.fromkeys(phase.loss_names, torch.zeros((), device=batches.device))
    for name, loss in phase.losses(batches, orders, epoch, step):
        loss.backward()
        sums[name] = sums[name] + loss.detach()
    losses = run.processes.combine(phase.net, phase.parameters, torch.stack(list(sums.values()))).tolist()
    if _finite(losses):
        phase.optimizer.step()
        phase.after_step()
    return losses


def _train_epoch(
    phase: Phase, run: Run, batches: Batches, position: Position, advance: Callable[[str], None]
) -> Position:
    """Trains the rest of an epoch and returns the position at its end."""
    orders = phase.orders(batches, position.epoch)
    total = phase.epochs * batches.steps
    interval = max(1, batches.steps // LINES_PER_EPOCH)
    saved = time.monotonic()
    phase.net.train()
    while position.step < batches.steps:
        step = position.epoch * batches.steps + position.step
        for group in phase.optimizer.param_groups:
            group["lr"] = learning_rate(step, total, group["peak"])
        losses = optimize(phase, run, batches, orders, position.epoch, position.step)
        if not _finite(losses):
            raise _not_finite(phase, run, batches, orders, position, losses)
        position = position.after_step(losses)
        advance(" ".join(f"{loss:.3f}" for loss in losses))
        if position.counted >= interval:
            run.write_line(_line(phase, position, step + 1, learning_rate(step, total, phase.lr)))
            position = position.after_line()
        if time.monotonic() - saved > run.checkpoint_seconds:
            run.write_checkpoint(phase, position)
            saved = time.monotonic()
    return position


@contextmanager
def _progress(phase: Phase, run: Run, batches: Batches, position: Position) -> Iterator[Callable[[str], None]]:
    """Shows a bar of a phase's steps; gives the function that moves it by one and writes a note beside it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    note = TextColumn("{task.fields[note]}")
    with Progress(*columns, note, console=run.console, disable=not run.processes.writes) as progress:
        bar = progress.add_task(
            f"training, {phase.name}",
            total=phase.epochs * batches.steps,
            note="making fused code" if run.fuses else "",
            completed=position.epoch * batches.steps + position.step,
        )
        yield lambda text: progress.update(bar, advance=1, note=text)


def _line(phase: Phase, position: Position, step: int, rate: float) -> JournalLine:
    """The journal's line of the mean losses since the last one."""
    means = {
        f"loss/{name}": total / position.counted for name, total in zip(phase.loss_names, position.sums, strict=True)
    }
    return JournalLine(phase.name, step, {"lr": rate, **means, **phase.measurements()}, position.epoch + 1)


def _finite(losses: list[float]) -> bool:
    return all(math.isfinite(loss) for loss in losses)


def _not_finite(
    phase: Phase, run: Run, batches: Batches, orders: list[Order], position: Position, losses: list[float]
) -> TrainingError:
    """The error of a step whose losses are not finite, with the first layer that is to blame."""
    values = ", ".join(f"{name} {loss}" for name, loss in zip(phase.loss_names, losses, strict=True))
    last = "there is no checkpoint yet"
    if run.last_checkpoint is not None:
        last = f"the last good checkpoint is {run.last_checkpoint}"
    layer = _first_layer_not_finite(phase, batches, orders, position)
    where = "in no layer's output" if layer is None else f"first in layer {layer}"
    return TrainingError(
        f"the loss is not finite in phase {phase.name}, epoch {position.epoch + 1}, step {position.step + 1} "
        f"({values}), {where}; {last}; try a smaller --lr"
    )


@torch.no_grad()
def _first_layer_not_finite(phase: Phase, batches: Batches, orders: list[Order], position: Position) -> str | None:
    """Computes a step's losses once more for the name of the first layer whose output is not finite."""
    names: list[str] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001  (torch's hook)
        if isinstance(module, QuantConv) and not names and not bool(torch.isfinite(output).all()):
            names.append(module.layer.name)

    hooks = [m.register_forward_hook(look) for m in phase.net.modules() if isinstance(m, QuantConv)]
    with torch.compiler.set_stance("force_eager"):  # fused code calls no hooks
        for _ in phase.losses(batches, orders, position.epoch, position.step):
            pass
    for hook in hooks:
        hook.remove()
    return names[0] if names else None
