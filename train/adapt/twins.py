"""Degraded twins of pictures, and the kinds of quality that features tell apart among them."""

from dataclasses import dataclass

import numpy as np

from runtime.choice.quality import features
from train.adapt.settings import AdaptSettings
from train.adapt.walk import Twins
from train.data.dataset import Dataset
from train.data.views import severities, training_views
from train.kinds.finding import find_kinds_of_families
from train.kinds.kinds import Kinds

STRENGTHS = (2, 4)  # severities from which on a degradation is of the next strength: each may be a kind of its own
CLEARLY = 1.01  # how often a kind has to be told as itself, relative to any other: fits need no sharper borders
HELD = 4  # every so many pictures, one judges fits
# Of clean pictures in fits, which must not pay for poor ones: of weights for all kinds, of tables, of a kind's weights.
CLEAN_WEIGHT = {"all": 10.0, "tables": 2.0, "private": 5.0}


@dataclass(frozen=True, eq=False)
class Degraded:
    """Every picture in every degradation family: uint8 [F, N, H, W, 3], with severities uint8 [F, N]."""

    views: np.ndarray
    severities: np.ndarray
    families: tuple[str, ...]

    @classmethod
    def of(cls, pictures: np.ndarray, settings: AdaptSettings) -> "Degraded":
        """Degrades pictures uint8 [N, H, W, 3], or takes them from the cache."""
        empty, none = pictures[:0], np.zeros(0, np.int64)
        count = len(pictures)
        dataset = Dataset("adaptation", ("",), pictures, np.zeros(count, np.int64), empty, none, empty, none)
        families = settings.families
        views = training_views(dataset, families, settings.seed, settings.cache, settings.workers)
        return cls(views, severities(count, families, settings.seed), families)

    @property
    def flat(self) -> np.ndarray:
        """uint8 [F * N, H, W, 3], family after family."""
        return np.asarray(self.views).reshape(-1, *self.views.shape[2:])

    @property
    def family(self) -> np.ndarray:
        """The family's index of each picture of `flat`, int64 [F * N]."""
        return np.repeat(np.arange(len(self.families)), self.views.shape[1])

    def twins(self, clean_weight: float) -> Twins:
        """Returns the twins in the order of `flat`."""
        count = self.views.shape[1]
        origin = np.tile(np.arange(count), len(self.families))
        weights = np.where(self.severities.reshape(-1) == 0, clean_weight, 1.0)
        return Twins(self.flat, origin, weights, origin % HELD == HELD - 1)


def find_kinds(parts: list[Degraded]) -> Kinds:
    """Returns the kinds that features tell apart: families at three strengths, those that look alike joined."""
    quality = np.concatenate([features(part.flat) for part in parts])
    severity = np.concatenate([part.severities.reshape(-1) for part in parts])
    strength = np.searchsorted(STRENGTHS, severity, side="right")
    family = np.concatenate([part.family for part in parts])
    return find_kinds_of_families(quality, family * (len(STRENGTHS) + 1) + strength, CLEARLY)
