"""Fits what a layer makes of degraded pictures to what it should be, channel by channel: one gain, one offset."""

from dataclasses import dataclass

import numpy as np

SHRINKAGES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)  # of a gain towards 1, in variances of its channel
GAINS = (0.2, 4.0)  # that a channel may have
EMPTY = 1e-10  # a variance below it says nothing


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of pairs (sum, target), float64 [O] each, and the weight of all pictures together.

    mean_x, mean_y: of sums and targets; xx, xy, yy: of their products, not centred.
    """

    weight: float
    mean_x: np.ndarray
    mean_y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def of_pairs(cls, sums: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> "Moments":
        """Returns the moments of sums and targets [N, O, ...], each picture weighted by float64 [N]."""
        n, channels = sums.shape[:2]
        total = float(weights.sum())
        scaled = weights / max(total, 1e-300) / (sums.size / (n * channels))
        values = np.zeros((5, channels))
        for x, y, weight in zip(sums.reshape(n, channels, -1), targets.reshape(n, channels, -1), scaled, strict=True):
            a, b = x.astype(np.float64), y.astype(np.float64)
            products = [np.einsum("cp,cp->c", *pair) for pair in ((a, a), (a, b), (b, b))]
            values += weight * np.stack([a.sum(1), b.sum(1), *products])
        return cls(total, *values)

    @property
    def variance(self) -> np.ndarray:
        """Of the sums, float64 [O]."""
        return np.maximum(self.xx - self.mean_x**2, 0)

    @property
    def covariance(self) -> np.ndarray:
        """Of sums and targets, float64 [O]."""
        return self.xy - self.mean_x * self.mean_y

    def error(self, gain: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Returns the mean squared error of gain * sum + offset, float64 [O], for float64 [O] each."""
        squares = gain**2 * self.xx + offset**2 + self.yy
        crossed = gain * offset * self.mean_x - gain * self.xy - offset * self.mean_y
        return np.maximum(squares + 2 * crossed, 0)


def fit_gain(fit: Moments, held: Moments) -> np.ndarray:
    """Returns the gain of each channel, float64 [O], by least squares on `fit`, shrunk as serves `held` best.

    The shrinkage is one for all channels, whose errors count in variances of their targets.
    """
    unit = np.maximum(held.yy - held.mean_y**2, EMPTY)
    best = np.ones(len(fit.mean_x))
    least = float("inf")
    for shrinkage in SHRINKAGES:
        gain = (fit.covariance + shrinkage * fit.variance) / np.maximum((1 + shrinkage) * fit.variance, EMPTY)
        gain = np.clip(np.where(fit.variance > EMPTY, gain, 1.0), *GAINS)
        error = float((held.error(gain, fit.mean_y - gain * fit.mean_x) / unit).mean())
        if error < least:
            best, least = gain, error
    return best
