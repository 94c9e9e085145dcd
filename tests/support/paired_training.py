"""Training in which one process and two must agree: every picture comes twice, with two labels, one for each of two.

So both halves of a batch have the statistics of the whole one, in which batch norms of two processes would differ
otherwise, and yet gradients of their own. In float64, so that the order of sums does not show; running variances, whose
n / (n - 1) is another for half a batch, stay as they are.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from train.data.batches import Batches, generator
from train.loop.parallel import Processes, join_processes, leave_processes
from train.loop.phase import Phase, VariantsPhase
from train.loop.run import Run
from train.loop.training import optimize
from train.network.architectures import architecture
from train.network.network import FULL, Network
from train.phases.find_bits import variant_bits

COUNT, BATCH, SIDE = 48, 12, 8
ARCH = architecture("resnet8", (SIDE, SIDE, 3), 10)


class Paired(Batches):
    """Pictures 2k and 2k + 1 are equal and follow each other, cropped alike."""

    def order(self, phase, epoch, own=None):
        first = 2 * torch.randperm(COUNT // 2, generator=generator(self.seed, phase, epoch))
        return torch.stack([first, first + 1], 1).flatten(), torch.zeros(COUNT, dtype=torch.int64)

    def _places(self, chance):
        return tuple(places[::2].repeat_interleave(2, 0) for places in super()._places(chance))


def curves(processes: Processes) -> dict[str, list[float]]:
    """Losses of an epoch in full precision, then of one of a variant with it as its teacher."""
    chance = np.random.default_rng(0)
    views = chance.integers(0, 256, (1, COUNT // 2, SIDE, SIDE, 3), np.uint8).repeat(2, 1)
    batches = Paired(
        views, chance.integers(0, 10, COUNT), batch=BATCH, pictures=0, seed=0, flip=True, device=torch.device("cpu")
    ).for_process(processes.rank, processes.count)
    torch.manual_seed(0)
    full_precision = Network(ARCH, {}).double()
    student = Network(ARCH, {"w4a4": variant_bits(ARCH, 4, 4)}).double()
    for module in (*full_precision.modules(), *student.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    run = Run(Path(), {}, processes, None, Console(quiet=True))
    losses = {"full": epoch(VariantsPhase("full", full_precision, (FULL,), 1, 1e-2), run, batches)}
    student.inherit(full_precision)
    student.calibrate(torch.from_numpy(views[0]))
    with torch.no_grad():
        # Steps found on one grid put values on exact ties, which fall by the last digit of a sum: move them apart.
        for name, step in student.named_parameters():
            if name.endswith(("log_step", "log_base")):
                step += 0.01 * torch.rand(step.shape, generator=generator(name), dtype=step.dtype)
    phase = VariantsPhase("joint", student, ("w4a4",), 1, 1e-2, full_precision)
    losses["joint"] = epoch(phase, run, batches)
    return losses


def epoch(phase: Phase, run: Run, batches: Batches) -> list[float]:
    orders = phase.orders(batches, 0)
    phase.net.train()
    return [optimize(phase, run, batches, orders, 0, step)[0] for step in range(batches.steps)]


if __name__ == "__main__":
    processes = join_processes(torch.device("cpu"))
    losses = curves(processes)
    if processes.writes:
        Path(sys.argv[1]).write_text(json.dumps(losses))
    leave_processes()
