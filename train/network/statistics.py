"""Batch-norm re-estimation of a trained network, and its answers in float arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from train.network.network import Network

JUDGED = 128  # pictures at a time, where they are only classified
SETTLED = 256  # pictures at a time, whose statistics are averaged


@contextmanager
def average_statistics(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Begins running statistics anew and makes them plain means over the batches that batch norms meet inside."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def reestimate_statistics(net: Network, variant: str, pictures: Tensor) -> None:
    """Sets a variant's running statistics to their mean over pictures uint8 [N, H, W, 3]."""
    norms = [
        module
        for layer in net.arch.layers
        for module in net.conv(layer).variant(variant).modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    training = net.training
    net.train()
    with average_statistics(norms):
        for part in pictures.split(SETTLED):
            net(part, variant)
    net.train(training)


@torch.no_grad()
def check_float_answers(
    net: Network, variant: str, pictures: np.ndarray, labels: np.ndarray, device: torch.device
) -> np.ndarray:
    """Returns which pictures a variant of the float network classifies right, bool [N], its batch norms at rest.

    pictures: uint8 [N, H, W, 3]; labels: int64 [N].
    """
    training = net.training
    net.eval()
    answers = [
        net(torch.tensor(pictures[i : i + JUDGED], device=device), variant).argmax(1).cpu()
        for i in range(0, len(pictures), JUDGED)
    ]
    net.train(training)
    return torch.cat(answers).numpy() == labels
