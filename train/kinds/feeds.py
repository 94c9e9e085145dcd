"""Which pictures which variants learn from and are judged by, and the running statistics of their batch norms."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from runtime.choice.quality import features
from train.bits.configs import Configs
from train.data.batches import OWN_SHARE, Batches, Held
from train.kinds.groups import Groups, view_features
from train.loop.phase import Run
from train.network.network import Network
from train.network.statistics import average_statistics, check_float_answers

REESTIMATION_STEPS = 32  # batches whose statistics replace the running ones, where that pays


@dataclass(frozen=True)
class Feed:
    """Variants that learn from the same pictures: their own views bool [F, N] (None: all alike), and held ones."""

    variants: tuple[str, ...]
    own: Tensor | None
    held: Held


def feeds(found: Configs, batches: Batches, held: Held) -> list[Feed]:
    """One for each set of quality groups that variants are for; judged on all held pictures where none is of theirs."""
    if all(not v.kinds for v in found.variants):
        return [Feed(tuple(v.name for v in found.variants), None, held)]
    groups, out = Groups.from_dict(found.kinds), []
    of_view = groups.of(view_features(batches.views_numpy()))
    of_held = groups.of(features(held.pictures))
    for mine in sorted({v.kinds for v in found.variants}):
        variants = tuple(v.name for v in found.variants if v.kinds == mine)
        own, some = np.isin(of_view, mine), np.isin(of_held, mine)
        out.append(
            Feed(
                variants,
                torch.from_numpy(own) if mine and own.any() else None,
                Held(held.pictures[some], held.labels[some]) if some.any() else held,
            )
        )
    return out


def accuracy(net: Network, variant: str, held: Held, batches: Batches) -> float:
    return float(check_float_answers(net, variant, held.pictures, held.labels, batches.device).mean())


@torch.no_grad()
def reestimate(run: Run, batches: Batches, student: Network, fed: list[Feed], share: float = OWN_SHARE) -> None:
    """Replaces a variant's running statistics, which lag behind the weights, by fresh means where accuracy gains.

    share: of a feed's own views among its pictures. Every process does the same with whole batches.
    """
    batches = batches.alone()
    record = {"phase": "statistics", "epoch": 0, "step": 0}
    for feed in fed:
        order = batches.order("statistics", 0, feed.own, share)
        for name in feed.variants:
            ends = [conv.variants[name].norm for conv in student.convs.values()]
            norms = [norm for norm in ends if isinstance(norm, nn.BatchNorm2d)]
            before, kept = accuracy(student, name, feed.held, batches), [copy.deepcopy(m.state_dict()) for m in norms]
            student.train()
            with average_statistics(norms):
                for step in range(min(REESTIMATION_STEPS, batches.steps)):
                    student(batches.get(order, "statistics", 0, step)[0], name)
            after = accuracy(student, name, feed.held, batches)
            if after <= before:
                for norm, state in zip(norms, kept, strict=True):
                    norm.load_state_dict(state)
            record |= {f"before/{name}": before, f"after/{name}": after}
    if run.group.writes:
        run.journal.write(record)
