"""Judges configurations of bits by held pictures, while a search goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train.data.batches import Held
from train.network.relaxed import Mixture, RelaxedNetwork, one_hot

PART_PICTURES = 250  # held pictures at a time, from which batch norms take their statistics


@dataclass(frozen=True, eq=False)
class HeldPart:
    """Held pictures uint8 [N, H, W, 3] of one quality kind, with labels int64 [N]; kind: which batch norm is theirs."""

    pictures: Tensor
    labels: Tensor
    kind: int = 0


@dataclass(frozen=True)
class Judgement:
    """Mean cross entropy and accuracy (0..1) on held pictures."""

    loss: float
    accuracy: float


def split_held(held: Held, device: torch.device, kinds: Tensor | None = None) -> list[HeldPart]:
    """Returns the held pictures in parts of one kind each, large enough for a batch norm's statistics.

    kinds: of the pictures, int64 [N]; one kind for all where they are not given.
    """
    pictures = torch.tensor(held.pictures, device=device)
    labels = torch.tensor(held.labels, device=device)
    if kinds is None:
        kinds = torch.zeros(len(labels), dtype=torch.int64)
    parts = []
    for kind in kinds.unique().tolist():
        members = (kinds == kind).nonzero()[:, 0].to(device)
        for part in members.tensor_split(max(1, len(members) // PART_PICTURES)):
            parts.append(HeldPart(pictures[part], labels[part], kind))
    return parts


@torch.no_grad()
def judge(answer: Callable[[HeldPart], Tensor], parts: Sequence[HeldPart]) -> Judgement:
    """Returns how good the logits [N, classes] are that a network answers to each of the held parts."""
    loss = 0.0
    right = 0
    count = 0
    for part in parts:
        logits = answer(part)
        loss += float(F.cross_entropy(logits, part.labels, reduction="sum"))
        right += int((logits.argmax(1) == part.labels).sum())
        count += len(part.labels)
    return Judgement(loss / count, right / count)


@torch.no_grad()
def judge_bits(net: RelaxedNetwork, indices: Tensor, parts: Sequence[HeldPart]) -> float:
    """Returns the mean cross entropy of one configuration, given as indices int64 [L, 2] into the widths."""
    y = one_hot(indices, len(net.widths)).to(parts[0].pictures.device)
    return judge(lambda part: net(part.pictures, Mixture.of(y, part.kind)), parts).loss
