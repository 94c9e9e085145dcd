"""Several processes under torchrun train as one: each takes its part of every batch, and gradients are summed.

Batch norms see their own process's part of the batch; their running statistics are averaged at every step, so that all
processes hold equal networks at any time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=12)  # one process may degrade pictures for long while the others wait


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this one is; one alone without torchrun."""

    rank: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether this is the one process that prints and writes all files."""
        return self.rank == 0

    @contextmanager
    def writer_first(self) -> Iterator[None]:
        """Lets the writing process through its block, then all others, which find in the cache what it left there."""
        for turn in (True, False):
            if turn == self.writes:
                yield
            if turn and self.count > 1:
                dist.barrier()

    @torch.no_grad()
    def combine(self, module: nn.Module, parameters: list[nn.Parameter], losses: Tensor) -> Tensor:
        """Sums gradients and losses [K] over the processes, in place, and averages running statistics.

        Returns the losses.
        """
        if self.count == 1:
            return losses
        running = [b for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
        summed = [p.grad for p in parameters if p.grad is not None] + [losses]
        flat = torch.cat([t.reshape(-1) for t in summed] + [b.reshape(-1) / self.count for b in running])
        dist.all_reduce(flat)
        for target, part in zip(summed + running, flat.split([t.numel() for t in summed + running]), strict=True):
            target.copy_(part.view(target.shape))
        return losses


def join_processes(device: torch.device) -> Processes:
    """Joins the processes that torchrun started; returns one process alone without torchrun."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Processes()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return Processes(dist.get_rank(), dist.get_world_size())


def leave_processes() -> None:
    """Leaves the processes that `join_processes` joined; does nothing where there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Returns the device of --device: "auto" is a GPU where there is one, "cuda" the GPU of this process.

    Raises ValueError for a GPU where torch has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"--device {name}: expected a CUDA device, torch has none; give --device cpu, or install a CUDA build"
        )
    return torch.device(name)
