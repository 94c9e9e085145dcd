"""Outcomes of families of variants on made-up pictures, whose every chance of a right answer is known."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from runtime.choice.quality import D
from train.choice.validation_set import ValidationSet
from train.evidence.outcomes import Outcomes

SPREAD = 0.45  # of a variant's own luck, where a picture's difficulty, common to all variants, has about 1.2
POINT = 0.033  # what a variant must be stronger by, to be right for one picture more in a hundred


@dataclass(frozen=True, eq=False)
class MadeFamily:
    """F kinds of N pictures each and V variants; chance float [M, V] is what `outcomes.correct` was drawn with.

    kind, picture: int64 [M]; group: int64 [V], the kind a variant is private to, -1 for shared ones; costs: float [V].
    """

    outcomes: Outcomes
    chance: np.ndarray
    kind: np.ndarray
    picture: np.ndarray
    group: np.ndarray
    costs: np.ndarray

    @property
    def shared(self) -> np.ndarray:
        """Which variants are for pictures of every kind, bool [V]."""
        return self.group < 0

    @property
    def validation(self) -> ValidationSet:
        """The pictures as a choice is learned from them, every one its own subject."""
        return ValidationSet(self.outcomes, self.kind, np.arange(len(self.kind)), self.costs, self.shared)

    def gained(self, chosen: np.ndarray, lam: float) -> float:
        """Returns what a choice int64 [M] gains, as a share of what knowing each picture's kind would gain.

        Gains are of accuracy less lambda * cost, over the best shared variant for all pictures.
        """
        value = self.chance - lam * self.costs
        base = value[:, self.shared].mean(0).max()
        oracle = np.mean([value[self.kind == k].mean(0).max() for k in np.unique(self.kind)])
        return float((value[np.arange(len(value)), chosen].mean() - base) / (oracle - base))

    def lost(self, chosen: np.ndarray) -> float:
        """Returns the accuracy by which a choice int64 [M] falls behind the shared variants of the same costs."""
        level = np.array([np.flatnonzero(self.shared & (self.costs == c))[0] for c in self.costs])
        rows = np.arange(len(chosen))
        return float((self.chance[rows, level[chosen]] - self.chance[rows, chosen]).mean())


def make_family(
    count: int, kinds=range(7), levels=(1.0, 0.3, 0.1), gain: float = 1.0, draw: int = 0, world: int = 0
) -> MadeFamily:
    """Returns `count` pictures of each kind of a world in which 7 kinds have private variants at each level.

    Kinds from 7 on are unseen. Private variants gain `gain` points on their own kind and lose 1 to 15 on others, the
    less the more alike pictures look. Every picture has a severity in 0..1, but for kind 0, which is clean; weak ones
    of all kinds are much alike.
    """
    fixed = np.random.default_rng((1, world))
    rng = np.random.default_rng((2, draw))
    places = fixed.normal(0, 2.2, (12, D))
    places[0] = 0
    content = fixed.normal(0, 0.5, (4, D))
    scale = fixed.uniform(60, 300, D)
    group = np.array([g for _ in levels for g in range(-1, 7)])
    costs = np.repeat(levels, 8)
    strength = np.repeat([0.9, 0.8, 0.55][: len(levels)], 8)
    kind = np.repeat(list(kinds), count)
    picture = np.tile(np.arange(count), len(list(kinds)))
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
    outcomes = Outcomes(np.rint(z * scale + 3000).astype(np.int32), sure + SPREAD * own > 0, margin)
    return MadeFamily(outcomes, chance, kind, picture, group, costs)


def three_kinds(count: int = 3000, seed: int = 0, costs: tuple[float, ...] = (1.0, 0.3, 0.1)) -> ValidationSet:
    """Returns `count` pictures of three kinds, for each of which one of three shared variants is the best."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    centres = np.random.default_rng(99).normal(0, 500, (3, D)) + 3000
    features = np.rint(centres[kind] + rng.normal(0, 120, (count, D))).astype(np.int32)
    chance = np.where(kind[:, None] == np.arange(3), 0.95, 0.6)
    correct = (rng.random((count, 3)) < chance).astype(np.uint8)
    outcomes = Outcomes(features, correct, np.zeros((count, 3), np.int64))
    return ValidationSet(outcomes, kind.astype(np.int64), np.arange(count), np.array(costs), np.ones(3, bool))
