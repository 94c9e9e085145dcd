"""What an engine answers for one picture."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from runtime.choice.quality import NAMES
from runtime.scores import ScoreKind, make_scores

Quality = dict[str, int]  # feature -> integer, in the order of runtime.choice.quality.NAMES


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one picture.

    label, index: the class that the logits stand for, by score_kind (runtime/scores.py). logits: int32 [classes], or
    [1] for two classes, exact, the same on every device; one unit is worth logit_scale. variant: the one whose answer
    this is; first: the one that ran before it where that was unsure, else the same. features: of the picture's
    quality, None where no selector looked. seconds: all that was done for this picture, both passes included (in a
    batch: its share).
    """

    label: str
    index: int
    logits: np.ndarray
    logit_scale: float
    score_kind: ScoreKind
    variant: str
    first: str
    features: list[int] | None
    seconds: float

    @cached_property
    def scores(self) -> np.ndarray:
        """Of each class, float32 [classes], computed when they are asked for."""
        return make_scores(self.logits, self.logit_scale, self.score_kind)

    @cached_property
    def quality(self) -> Quality | None:
        """Feature name -> integer; None where no selector looked."""
        return by_name(self.features)

    @property
    def escalated(self) -> bool:
        """Whether a second variant ran."""
        return self.variant != self.first


def by_name(features: list[int] | None) -> Quality | None:
    """Returns features by name; None for none."""
    return None if features is None else dict(zip(NAMES, features, strict=True))
