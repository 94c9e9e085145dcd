"""How near to a known kind of quality a picture must be for each private variant, so that unseen kinds lose little.

A kind never seen may lie near known ones in the features and yet be none of theirs: motion blur is no Gaussian blur.
Each known kind in turn plays the unseen one: a selector learns without it, and its pictures tell what private variants
of the others cost it. While that is too much somewhere, the variant that costs most there becomes more careful.
"""

from dataclasses import dataclass, replace

import numpy as np

from runtime.choice.selector import NEVER, Selector
from train.choice.selector import INSIDE, train_selector, within
from train.evidence.outcomes import Outcomes

NOTCH = 0.05  # by which the share of known pictures falls that may get a variant


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A kind that the selector did not learn: of its n pictures, what it predicts, and what is right.

    near: int64 [M], rising, distances of known pictures; far: int64 [n], of these; predicted: int64 [n, V], without
    thresholds; correct: float64 [n, V].
    """

    near: np.ndarray
    far: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray

    def harm(self, inside: np.ndarray, shared: np.ndarray, level: np.ndarray, usual: int) -> np.ndarray:
        """float64 [V]: accuracy (0..1) lost by each private variant of a level, against the usual one of those for
        all."""
        allowed = shared[level] | (self.far[:, None] <= within(self.near, inside[level]))
        chosen = level[np.where(allowed, self.predicted[:, level], NEVER).argmax(1)]
        lost = self.correct[:, usual] - self.correct[np.arange(len(chosen)), chosen]
        return np.where(shared, 0, np.bincount(chosen, lost, len(inside)) / len(chosen))


def careful_inside(
    seen: Outcomes, groups: np.ndarray, costs, seed: int, *, shared: np.ndarray, most: float
) -> np.ndarray:
    """Share of known pictures near enough to get each variant, float64 [V] of 0..INSIDE, at which no kind loses much.

    seen, groups, costs, shared: as `train.choice.fit_choice` takes them. most: accuracy (0..1) that a left-out kind may
    lose, in the mean over its pictures, against the variants for all pictures: at any cost level by itself, and with
    the most accurate of all. 1 spares the trouble, as do families where every picture may get every variant.
    """
    costs, shared, kinds = np.asarray(costs, np.float64), np.asarray(shared), np.unique(groups)
    inside = np.full(len(costs), INSIDE)
    if most >= 1 or shared.all() or len(kinds) < 2:
        return inside
    trials = [_left_out(seen, groups, costs, seed, shared, kind) for kind in kinds]
    mean = seen.correct.mean(0)
    levels = [(level, max(level[shared[level]], key=lambda v: mean[v])) for level in _levels(costs, shared)]
    while True:
        harm = max((trial.harm(inside, shared, *level) for trial in trials for level in levels), key=np.sum)
        if harm.sum() <= most:
            return inside
        culprit = int(harm.argmax())  # one that some picture got, so that its share is not 0 yet
        inside[culprit] = max(0.0, round(inside[culprit] - NOTCH, 6))


def _left_out(seen: Outcomes, groups: np.ndarray, costs: np.ndarray, seed: int, shared: np.ndarray, kind) -> LeftOut:
    rest, own = np.flatnonzero(groups != kind), np.flatnonzero(groups == kind)
    known, unseen = seen.of_pictures(rest), seen.of_pictures(own)
    selector = Selector.from_dict(
        train_selector(known.features, known.correct, groups[rest], costs, seed, shared=shared, inside=1.0)
    )
    anywhere = replace(selector, threshold=np.full(len(costs), 1 << 62))
    return LeftOut(
        np.sort(selector.distance2(known.features)),
        selector.distance2(unseen.features),
        anywhere.predict(unseen.features),
        unseen.correct.astype(np.float64),
    )


def _levels(costs: np.ndarray, shared: np.ndarray) -> list[np.ndarray]:
    """Indices of all variants, then of each shared one's cost where there are private ones too."""
    levels = [np.flatnonzero(costs == cost) for cost in np.unique(costs[shared])]
    return [np.arange(len(costs)), *(level for level in levels if not shared[level].all())]
