"""What every variant makes of the same pictures, in the integer arithmetic of the artifact."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from runtime.choice.quality import features
from targets.reference.graph import Graph
from train.integers.evaluate import IntegerNetwork


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Answers of V variants to M pictures: all that choices among the variants are judged by.

    features: int32 [M, D] of runtime.choice.quality; correct: bool [M, V], whether the label is right; margin: int64
    [M, V], the largest logit less the second largest, in the units of the variant's int32 logits.
    """

    features: np.ndarray
    correct: np.ndarray
    margin: np.ndarray

    def __len__(self) -> int:
        """How many pictures there are (M)."""
        return len(self.features)

    def of_variants(self, indices: list[int]) -> "Outcomes":
        """Returns the answers of some variants, in the order of their indices."""
        return replace(self, correct=self.correct[:, indices], margin=self.margin[:, indices])

    def of_pictures(self, rows: np.ndarray) -> "Outcomes":
        """Returns the answers to some pictures; rows: their indices int64 [n], or a mask bool [M]."""
        return Outcomes(self.features[rows], self.correct[rows], self.margin[rows])


def compute_outcomes(
    graphs: dict[str, Graph],
    pictures: np.ndarray,
    labels: np.ndarray,
    device: torch.device | str,
    advance: Callable[[int], None] = lambda _: None,
) -> Outcomes:
    """Runs every graph on pictures uint8 [M, H, W, 3] with labels int64 [M]; variants in the order of `graphs`.

    advance: called with M after each variant.
    """
    correct = []
    margins = []
    for graph in graphs.values():
        logits = IntegerNetwork(graph, device).logits(pictures).long()
        best = logits.topk(2, dim=1).values
        correct.append(logits.argmax(1).cpu().numpy() == labels)
        margins.append((best[:, 0] - best[:, 1]).cpu().numpy())
        advance(len(pictures))
    return Outcomes(features(pictures), np.stack(correct, 1), np.stack(margins, 1))
