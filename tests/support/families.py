"""Outcomes of families of variants on made-up pictures, whose every chance of a right answer is known."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from runtime.choice.quality import D
from train.evidence.outcomes import Outcomes

SPREAD = 0.45  # of a variant's own luck, where a picture's difficulty, common to all variants, has about 1.2
POINT = 0.033  # what a variant must be stronger by, to be right for one picture more in a hundred


@dataclass(frozen=True, eq=False)
class Made:
    """F kinds of N pictures each and V variants; chance float [M, V] is what `seen.correct` was drawn with.

    kind, picture: int64 [M]; group: int64 [V], the kind a variant is private to, -1 for shared ones; costs: float [V].
    """

    seen: Outcomes
    chance: np.ndarray
    kind: np.ndarray
    picture: np.ndarray
    group: np.ndarray
    costs: np.ndarray

    @property
    def shared(self) -> np.ndarray:
        return self.group < 0

    def gained(self, chosen: np.ndarray, lam: float) -> float:
        """Accuracy less lambda * cost of a choice int64 [M], over the best shared variant's for all pictures, as a
        share of what knowing each picture's kind would gain."""
        worth = self.chance - lam * self.costs
        base = worth[:, self.shared].mean(0).max()
        oracle = np.mean([worth[self.kind == k].mean(0).max() for k in np.unique(self.kind)])
        return float((worth[np.arange(len(worth)), chosen].mean() - base) / (oracle - base))

    def lost(self, chosen: np.ndarray) -> float:
        """Accuracy by which a choice int64 [M] falls behind the shared variants of the same costs."""
        level = np.array([np.flatnonzero(self.shared & (self.costs == c))[0] for c in self.costs])
        rows = np.arange(len(chosen))
        return float((self.chance[rows, level[chosen]] - self.chance[rows, chosen]).mean())


def made(count: int, kinds=range(7), levels=(1.0, 0.3, 0.1), gain: float = 1.0, draw: int = 0, world: int = 0) -> Made:
    """`count` pictures of each kind of a world in which 7 kinds have private variants at each level; more are unseen.

    Private variants gain `gain` points on their own kind and lose 1 to 15 on others, the less the more alike pictures
    look. Every picture has a severity in 0..1, but for kind 0, which is clean; weak ones of all kinds are much alike.
    """
    fixed, rng = np.random.default_rng((1, world)), np.random.default_rng((2, draw))
    places = fixed.normal(0, 2.2, (12, D))
    places[0] = 0
    content = fixed.normal(0, 0.5, (4, D))
    scale = fixed.uniform(60, 300, D)
    group = np.array([g for _ in levels for g in range(-1, 7)])
    costs = np.repeat(levels, 8)
    strength = np.repeat([0.9, 0.8, 0.55][: len(levels)], 8)
    kind, picture = np.repeat(list(kinds), count), np.tile(np.arange(count), len(list(kinds)))
    severity = np.where(kind == 0, 0, rng.uniform(0.3, 1, len(kind)))
    subject = rng.normal(0, 1, (count, 4))[picture]
    z = places[kind] * severity[:, None] + subject @ content + rng.normal(0, 0.6, (len(kind), D))
    hard = rng.normal(0, 1, count)[picture] * 1.1 + rng.normal(0, 0.4, len(kind)) + 0.9 * severity
    apart = np.linalg.norm(places[kind][:, None] * severity[:, None, None] - 0.65 * places[group], axis=2)
    suits = np.where(group == kind[:, None], gain, -np.clip(1.2 * apart, 1, 15))
    sure = strength + POINT * np.where(group < 0, 0, suits) - hard[:, None]
    chance = ndtr(sure / SPREAD)
    own = rng.normal(0, 1, sure.shape)
    margin = np.rint(400 * np.exp(0.7 * (sure + SPREAD * own) + rng.normal(0, 0.4, sure.shape))).astype(np.int64)
    seen = Outcomes(np.rint(z * scale + 3000).astype(np.int32), sure + SPREAD * own > 0, margin)
    return Made(seen, chance, kind, picture, group, costs)
