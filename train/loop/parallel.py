"""Several processes under torchrun as one: each takes its part of every batch, gradients are summed.

Batch norms see their own process's part of the batch; their running statistics are averaged at every step, so that all
processes hold equal networks at any time.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=12)  # one process may degrade pictures for long while the others wait


@dataclass(frozen=True)
class Group:
    """This process among its like; alone without torchrun."""

    rank: int = 0
    processes: int = 1

    @property
    def writes(self) -> bool:
        """One process prints, and writes all files."""
        return self.rank == 0

    @contextmanager
    def writer_first(self):
        """The writing process goes through its block, then all others: they find in the cache what it left there."""
        for turn in (True, False):
            if turn == self.writes:
                yield
            if turn and self.processes > 1:
                dist.barrier()

    @torch.no_grad()
    def combine(self, module: nn.Module, parameters: list[nn.Parameter], loss: Tensor) -> Tensor:
        """Sums gradients and loss [k] over processes, in place, and averages running statistics; returns the loss."""
        if self.processes == 1:
            return loss
        running = [b for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
        summed = [p.grad for p in parameters if p.grad is not None] + [loss]
        flat = torch.cat([t.reshape(-1) for t in summed] + [b.reshape(-1) / self.processes for b in running])
        dist.all_reduce(flat)
        for target, part in zip(summed + running, flat.split([t.numel() for t in summed + running]), strict=True):
            target.copy_(part.view(target.shape))
        return loss


def join(device: torch.device) -> Group:
    """The group that torchrun made; a group of one without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Group()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return Group(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one, "cuda" this process's own. Raises ValueError where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch finds no CUDA device; give --device cpu, or install a CUDA build")
    return torch.device(name)
