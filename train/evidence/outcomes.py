"""What every variant makes of the same pictures, in the arithmetic of the artifact: all that choices are judged by."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from runtime.choice.quality import features
from targets.reference.graph import Graph
from train.integers.evaluate import IntegerNetwork


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Of M pictures and V variants.

    features: int32 [M, D] of runtime.choice.quality; correct: bool [M, V], whether the label is right; margin: int64
    [M, V], the largest logit less the second largest, in the units of the variant's int32 logits."""

    features: np.ndarray
    correct: np.ndarray
    margin: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def of_variants(self, chosen: list[int]) -> "Outcomes":
        return replace(self, correct=self.correct[:, chosen], margin=self.margin[:, chosen])

    def of_pictures(self, chosen: np.ndarray) -> "Outcomes":
        return Outcomes(self.features[chosen], self.correct[chosen], self.margin[chosen])


def outcomes(
    graphs: dict[str, Graph],
    pictures: np.ndarray,
    labels: np.ndarray,
    device,
    advance: Callable[[int], None] = lambda count: None,
) -> Outcomes:
    """Outcomes on pictures uint8 [M, H, W, 3] with labels int64 [M]; variants in the order of `graphs`.

    advance: called with M after each variant.
    """
    correct, margin = [], []
    for graph in graphs.values():
        logits = IntegerNetwork(graph, device).logits(pictures).long()
        top = logits.topk(2, dim=1).values
        correct.append(logits.argmax(1).cpu().numpy() == labels)
        margin.append((top[:, 0] - top[:, 1]).cpu().numpy())
        advance(len(pictures))
    return Outcomes(features(pictures), np.stack(correct, 1), np.stack(margin, 1))
