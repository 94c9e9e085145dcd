"""How near to a known kind of quality a picture must be for each private variant, so that unseen kinds lose little.

A kind never seen may lie near known ones in the features and yet be none of theirs: motion blur is no Gaussian blur.
Each known kind in turn plays the unseen one: a selector learns without it, and its pictures tell what private variants
of the others cost it. While that is too much somewhere, the variant that costs most there becomes more careful.
"""

from dataclasses import dataclass, replace

import numpy as np

from runtime.choice.selector import NEVER
from train.choice.selector import INSIDE, UNLIMITED, distance_within, train_selector
from train.choice.validation_set import ValidationSet

NOTCH = 0.05  # by which the share of known pictures falls that may get a variant


@dataclass(frozen=True, eq=False)
class Level:
    """Variants int64 [L] that a picture may be given at one cost, and the best of those for pictures of every kind."""

    variants: np.ndarray
    usual: int


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A kind of quality that the selector did not learn, with n pictures.

    near: int64 [M], rising, distances of known pictures; far: int64 [n], distances of these; predicted: int64 [n, V],
    accuracies without thresholds; correct: float64 [n, V]; shared: bool [V].
    """

    near: np.ndarray
    far: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray
    shared: np.ndarray

    @classmethod
    def of_kind(cls, validation: ValidationSet, kind: int, seed: int) -> "LeftOut":
        """Learns a selector from all other kinds and predicts for this one."""
        known = validation.of_pictures(np.flatnonzero(validation.kinds != kind))
        unseen = validation.of_pictures(np.flatnonzero(validation.kinds == kind))
        selector = train_selector(known, seed, inside=1.0)
        anywhere = replace(selector, threshold=np.full(len(validation.costs), UNLIMITED))
        return cls(
            near=np.sort(selector.distance2(known.features)),
            far=selector.distance2(unseen.features),
            predicted=anywhere.predict(unseen.features),
            correct=unseen.correct.astype(np.float64),
            shared=validation.shared,
        )

    def harm(self, inside: np.ndarray, level: Level) -> np.ndarray:
        """Returns the accuracy (0..1) that each private variant of a level loses against its usual one, float64 [V].

        inside: float64 [V], share of the known pictures that are near enough to get each variant.
        """
        variants = level.variants
        allowed = self.shared[variants] | (self.far[:, None] <= distance_within(self.near, inside[variants]))
        chosen = variants[np.where(allowed, self.predicted[:, variants], NEVER).argmax(1)]
        lost = self.correct[:, level.usual] - self.correct[np.arange(len(chosen)), chosen]
        return np.where(self.shared, 0, np.bincount(chosen, lost, len(inside)) / len(chosen))


def careful_inside(validation: ValidationSet, seed: int, *, most: float) -> np.ndarray:
    """Finds the share of known pictures near enough to get each variant, float64 [V] of 0..INSIDE.

    most: accuracy (0..1) that a left-out kind may lose, in the mean over its pictures, against the variants for all
    pictures: at any cost level by itself, and with the most accurate of all. 1 spares the trouble, as do families where
    every picture may get every variant.
    """
    inside = np.full(len(validation.costs), INSIDE)
    kinds = np.unique(validation.kinds)
    if most >= 1 or validation.shared.all() or len(kinds) < 2:
        return inside
    trials = [LeftOut.of_kind(validation, kind, seed) for kind in kinds]
    levels = _levels(validation)
    while True:
        harm = max((trial.harm(inside, level) for trial in trials for level in levels), key=np.sum)
        if harm.sum() <= most:
            return inside
        culprit = int(harm.argmax())  # one that some picture got, so that its share is not 0 yet
        inside[culprit] = max(0.0, round(inside[culprit] - NOTCH, 6))


def _levels(validation: ValidationSet) -> list[Level]:
    """All variants, then those of each shared one's cost where there are private ones too."""
    costs = validation.costs
    shared = validation.shared
    same_cost = [np.flatnonzero(costs == cost) for cost in np.unique(costs[shared])]
    mixed = [variants for variants in same_cost if not shared[variants].all()]
    mean = validation.correct.mean(0)
    return [
        Level(variants, max(variants[shared[variants]], key=lambda v: mean[v]))
        for variants in (np.arange(len(costs)), *mixed)
    ]
