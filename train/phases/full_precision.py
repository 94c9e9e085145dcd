"""Builds and trains the full-precision network that all variants start from and learn from."""

import torch

from train.data.batches import Batches, Held
from train.data.datasets import Dataset
from train.kinds.feeds import accuracy
from train.loop import checkpoint
from train.loop.phase import Phase, Run, train
from train.network.architectures import architecture
from train.network.network import FULL, Network
from train.network.weights import load_weights, save_weights
from train.settings.settings import Settings

FULL_NAME = "full.safetensors"  # the full-precision network of a run, which another can start from


def full_network(settings: Settings, dataset: Dataset, device: torch.device) -> Network:
    """The network of full precision, with random or given weights: teacher of all others."""
    arch = architecture(settings.network.arch, dataset.shape, len(dataset.labels))
    torch.manual_seed(settings.training.seed)
    teacher = Network(arch, {})
    teacher.zero_point.copy_(torch.tensor(dataset.train_x.mean((0, 1, 2))).round().long())
    if settings.network.weights is not None:
        load_weights(teacher, settings.network.weights)
    return teacher.to(device)


def tutor(settings: Settings, dataset: Dataset, teacher: Network, device: torch.device) -> Network:
    """What all learn from beside labels: the network of --teacher at rest, else the full-precision one."""
    if settings.network.teacher is None:
        return teacher
    other = Network(architecture(settings.network.teacher_arch, dataset.shape, len(dataset.labels)), {})
    load_weights(other, settings.network.teacher)
    return other.to(device).eval()


def full_precision(
    settings: Settings, run: Run, batches: Batches, teacher: Network, held: Held, resumed: dict | None
) -> None:
    """Trains the teacher on mixed quality, from scratch or from given weights."""
    run.modules["teacher"] = teacher
    if resumed is not None:
        checkpoint.fill(teacher, resumed["tensors"], "teacher")
    if resumed is None or resumed["phase"] == "full":
        phase = Phase("full", teacher, (FULL,), settings.training.full_precision_epochs, settings.training.lr)
        start = None if resumed is None else phase.restore(resumed)
        train(phase, batches, run, start, lambda phase: {f"accuracy/{FULL}": accuracy(teacher, FULL, held, batches)})
    if run.group.writes:  # also where the checkpoint is a later one: the file may be lost
        save_weights(teacher, run.folder / FULL_NAME)
    teacher.eval()
