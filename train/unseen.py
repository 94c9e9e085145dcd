"""How near to a known kind of quality a picture must be for a private variant, so that kinds never seen lose little.

A kind never seen may lie near known ones in the features and yet be none of theirs: motion blur is no Gaussian blur.
Each known kind in turn plays the unseen one: a selector learns without it, and its pictures tell what private variants
of the others cost it.
"""

from dataclasses import replace

import numpy as np

from runtime.selector import Selector
from train.outcomes import Outcomes
from train.selector import INSIDE, train_selector

SHARES = tuple(k / 20 for k in range(20))  # of known pictures, that may be near enough


def careful_inside(seen: Outcomes, groups: np.ndarray, costs, seed: int, *, shared: np.ndarray, most: float) -> float:
    """The largest share of known pictures near enough not to fall back, up to INSIDE, at which no kind loses too much.

    seen, groups, costs, shared: as `train.choice.fit_choice` takes them. most: accuracy (0..1) that a left-out kind may
    lose, in the mean over its pictures, against the variants for all pictures: at any cost level by itself, and with
    the most accurate of all. 1 spares the trouble, as do families where every picture may get every variant.
    """
    costs, shared, kinds = np.asarray(costs, np.float64), np.asarray(shared), np.unique(groups)
    if most >= 1 or shared.all() or len(kinds) < 2:
        return INSIDE
    losses = [loss for kind in kinds for loss in _losses(seen, groups, costs, seed, shared, kind)]
    fine = [share for share in (*SHARES, INSIDE) if share <= INSIDE and all(loss(share) <= most for loss in losses)]
    return max(fine, default=0.0)


def _losses(seen, groups, costs, seed, shared, kind):
    """For each level a function: share -> what pictures of `kind` lose to private variants of the other kinds."""
    rest, own = np.flatnonzero(groups != kind), np.flatnonzero(groups == kind)
    known, unseen = seen.of_pictures(rest), seen.of_pictures(own)
    selector = Selector.from_dict(train_selector(known.features, known.correct, groups[rest], costs, seed,
                                                 shared=shared, inside=1.0))
    near, far = np.sort(selector.distance2(known.features)), selector.distance2(unseen.features)
    predicted = replace(selector, threshold=np.array(far.max())).predict(unseen.features)
    for columns in _levels(costs, shared):
        alike = columns[shared[columns]]
        usual = alike[selector.fallback[alike].argmax()]
        chosen = columns[predicted[:, columns].argmax(1)]
        lost = unseen.correct[:, usual].astype(np.float64) - unseen.correct[np.arange(len(own)), chosen]
        yield lambda share, lost=lost: float((lost * (far <= _threshold(near, share))).mean())


def _threshold(near: np.ndarray, share: float) -> float:
    """The distance within which a share of the known pictures lies; none for 0."""
    return -1.0 if share == 0 else float(np.quantile(near, share, method="higher"))


def _levels(costs: np.ndarray, shared: np.ndarray) -> list[np.ndarray]:
    """Indices of all variants, then of each shared one's cost where there are private ones too."""
    levels = [np.flatnonzero(costs == cost) for cost in np.unique(costs[shared])]
    return [np.arange(len(costs)), *(level for level in levels if not shared[level].all())]
