"""The first phase: the full-precision network, which all variants start from and, with no other teacher, learn from."""

import torch

from train.data.datasets import Dataset
from train.kinds.feeds import accuracy
from train.loop.phase import VariantsPhase
from train.loop.run import FULL_PRECISION_NETWORK
from train.loop.session import Session
from train.loop.state import FULL_PRECISION
from train.network.architectures import architecture
from train.network.network import FULL, Network
from train.network.weights import load_weights, save_weights
from train.settings.settings import Settings

FULL_NAME = "full.safetensors"  # the full-precision network of a run, which another can start from


def make_full_precision(settings: Settings, dataset: Dataset, device: torch.device) -> Network:
    """Returns the full-precision network before its training: of random weights, or those of --weights."""
    arch = architecture(settings.network.arch, dataset.shape, len(dataset.labels))
    torch.manual_seed(settings.training.seed)
    net = Network(arch, {})
    net.zero_point.copy_(torch.tensor(dataset.train_x.mean((0, 1, 2))).round().long())
    if settings.network.weights is not None:
        load_weights(net, settings.network.weights)
    return net.to(device)


def make_teacher(settings: Settings, dataset: Dataset, full_precision: Network, device: torch.device) -> Network:
    """Returns the network that variants learn from beside labels: that of --teacher, else the full-precision one."""
    if settings.network.teacher is None:
        return full_precision
    teacher = Network(architecture(settings.network.teacher_arch, dataset.shape, len(dataset.labels)), {})
    load_weights(teacher, settings.network.teacher)
    return teacher.to(device).eval()


def train_full_precision(session: Session) -> None:
    """Trains the full-precision network on pictures of mixed quality, and writes its weights.

    Raises TrainingError for a loss that is not finite, CheckpointError for a checkpoint of another network.
    """
    run = session.run
    training = session.settings.training
    net = session.networks.full_precision
    run.modules[FULL_PRECISION_NETWORK] = net
    if session.resume.state is not None:
        session.resume.fill_module(net, FULL_PRECISION_NETWORK)
    if not session.resume.past(FULL_PRECISION):
        phase = VariantsPhase(FULL_PRECISION, net, (FULL,), training.full_precision_epochs, training.lr)
        device = session.batches.device
        session.train(phase, lambda: {f"accuracy/{FULL}": accuracy(net, FULL, session.held, device)})
    if run.processes.writes:  # also where the checkpoint is a later one: the file may be lost
        save_weights(net, run.folder / FULL_NAME)
    net.eval()
