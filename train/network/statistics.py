"""Batch-norm statistics of a trained network, and its accuracy in float arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from train.network.network import Network


@contextmanager
def plain_means(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Running statistics begin anew and become plain means over the batches seen meanwhile."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


BATCH = 128


@torch.no_grad()
def float_correct(net: Network, variant: str, pictures: np.ndarray, labels: np.ndarray, device) -> np.ndarray:
    """bool [N] of one variant of the float network, its batch norms at rest."""
    training = net.training
    net.eval()
    answers = [
        net(torch.tensor(pictures[i : i + BATCH], device=device), variant).argmax(1).cpu()
        for i in range(0, len(pictures), BATCH)
    ]
    net.train(training)
    return torch.cat(answers).numpy() == labels


@torch.no_grad()
def settle(net: Network, variant: str, pictures: Tensor) -> None:
    """Sets a variant's running statistics to the mean of pictures uint8 [N, H, W, 3], in parts."""
    norms = [
        m for conv in net.convs.values() for m in conv.variants[variant].modules() if isinstance(m, nn.BatchNorm2d)
    ]
    training = net.training
    net.train()
    with plain_means(norms):
        for part in pictures.split(256):
            net(part, variant)
    net.train(training)
