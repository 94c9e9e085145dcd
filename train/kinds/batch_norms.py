"""Batch-norm re-estimation: fresh means in place of running statistics, which lag behind the weights."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from train.data.batches import OWN_SHARE, Batches
from train.kinds.feeds import JudgedFeed, accuracy
from train.loop.journal import JournalLine
from train.loop.run import Run
from train.network.network import Network
from train.network.statistics import average_statistics

STATISTICS = "statistics"  # its name in the journal and for its random numbers
REESTIMATION_STEPS = 32  # batches that the means are over


@torch.no_grad()
def reestimate_batch_norms(
    run: Run, batches: Batches, student: Network, feeds: Sequence[JudgedFeed], share: float = OWN_SHARE
) -> None:
    """Replaces each variant's running statistics by fresh means where it is more accurate with these.

    share: of a feed's own views among its pictures, 0..1. Every process does the same with whole batches.
    """
    batches = batches.alone()
    accuracies: dict[str, float] = {}
    for feed in feeds:
        order = batches.order(STATISTICS, 0, feed.own, share)
        for variant in feed.variants:
            norms = _batch_norms(student, variant)
            before = accuracy(student, variant, feed.held, batches.device)
            running = [copy.deepcopy(norm.state_dict()) for norm in norms]
            student.train()
            with average_statistics(norms):
                for step in range(min(REESTIMATION_STEPS, batches.steps)):
                    student(batches.get(order, STATISTICS, 0, step)[0], variant)
            after = accuracy(student, variant, feed.held, batches.device)
            if after <= before:
                for norm, state in zip(norms, running, strict=True):
                    norm.load_state_dict(state)
            accuracies |= {f"before/{variant}": before, f"after/{variant}": after}
    run.write_line(JournalLine(STATISTICS, 0, accuracies, epoch=0))


def _batch_norms(net: Network, variant: str) -> list[nn.BatchNorm2d]:
    """The batch norms of one variant; layers with a bias in their place have none."""
    norms = [conv.variant(variant).norm for conv in net.all_convs()]
    return [norm for norm in norms if isinstance(norm, nn.BatchNorm2d)]
