"""Steps of quantizers that make the mean squared error smallest: of activations from histograms, of weights by channel.

The error of a step is summed over the values as they are (weights) or over the middles of fine bins (activations), so
clipping a few large values is weighed against rounding all others finer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 4096  # of a histogram: 16 to a code of 8 bits
ALIKE = 1e-6  # of their size: values nearer than that are one value
COARSE = 24  # candidates for each end of a range in the first search
REFINED = 9  # and in each of the finer ones
SMALLEST_SHARE = 0.02  # of the range that a step covers at least
WEIGHT_SHARES = np.linspace(0.35, 1.0, 66)  # of a channel's largest weight that the codes reach
FINER_SHARES = np.linspace(-0.008, 0.008, 9)  # around the best of those


@dataclass(frozen=True)
class Quantizer:
    """Codes 0 .. 2**bits - 1 of real values: real = scale * (code - zero_point); scale exact in float32."""

    scale: float
    zero_point: int
    bits: int

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def rounded(self, real: np.ndarray) -> np.ndarray:
        """Returns what values [...] are after quantization, in their own type."""
        codes = np.rint(real / np.float32(self.scale)) + self.zero_point
        return ((np.clip(codes, 0, self.largest) - self.zero_point) * np.float32(self.scale)).astype(real.dtype)


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values occur: middles float64 [n] of bins, and counts float64 [n]."""

    values: np.ndarray
    counts: np.ndarray

    @staticmethod
    def from_array(array: np.ndarray) -> "Histogram":
        """Returns the histogram of values [...]; 0 has a bin of its own, since clamps make it frequent."""
        zeros = array.size - np.count_nonzero(array)
        low, high = float(array.min()), float(array.max())
        if high - low <= ALIKE * max(abs(low), abs(high)):
            return Histogram(np.array([low]), np.array([float(array.size)]))
        edges = np.linspace(low, high, BINS + 1)
        counts = np.zeros(BINS)
        for part in array:  # a picture at a time: float64 takes twice the memory
            counts += np.histogram(part.astype(np.float64), BINS, (low, high))[0]
        counts[np.clip(np.searchsorted(edges, 0, "right") - 1, 0, BINS - 1)] -= zeros
        middles = (edges[:-1] + edges[1:]) / 2
        used = counts > 0
        return Histogram(np.append(middles[used], 0.0), np.append(counts[used], float(zeros)))

    @staticmethod
    def joined(histograms: Sequence["Histogram"]) -> "Histogram":
        """Returns the histogram of several arrays that share a quantizer."""
        values = np.concatenate([h.values for h in histograms])
        return Histogram(values, np.concatenate([h.counts for h in histograms]))


def activation_quantizer(histogram: Histogram, bits: int) -> Quantizer:
    """Returns the quantizer of the smallest mean squared error that has a code for 0.

    The ends of its range are searched on a grid, then on finer ones around the best.
    """
    low, high = min(0.0, float(histogram.values.min())), max(0.0, float(histogram.values.max()))
    if low == high:
        return Quantizer(1.0, 0, bits)
    shares = np.linspace(SMALLEST_SHARE, 1, COARSE)
    best = _best_range(histogram, bits, low * shares, high * shares)
    width = 1 / COARSE
    for _ in range(3):
        near = np.linspace(-width, width, REFINED)
        lows = np.minimum(0, best[0] + low * near)
        highs = np.maximum(0, best[1] + high * near)
        best = _best_range(histogram, bits, lows, highs)
        width /= REFINED - 1
        width *= 2
    return quantizer_of_range(*best, bits)


def quantizer_of_range(low: float, high: float, bits: int) -> Quantizer:
    """Returns the quantizer whose codes reach from `low` <= 0 to `high` >= 0, its zero point rounded."""
    largest = (1 << bits) - 1
    scale = float(np.float32((high - low) / largest))
    return Quantizer(scale, int(np.clip(np.rint(-low / scale), 0, largest)), bits)


def _best_range(histogram: Histogram, bits: int, lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
    """The pair of ends with the smallest error, of all pairs of different ones."""
    pairs = [(low, high) for low in np.unique(lows) for high in np.unique(highs) if high - low > 0]
    errors = [squared_error(histogram, quantizer_of_range(low, high, bits)) for low, high in pairs]
    low, high = pairs[int(np.argmin(errors))]
    return float(low), float(high)


def squared_error(histogram: Histogram, quantizer: Quantizer) -> float:
    """Returns the sum of squared errors over a histogram; 0 has a code, so its own bin adds nothing."""
    codes = np.clip(np.rint(histogram.values / quantizer.scale) + quantizer.zero_point, 0, quantizer.largest)
    errors = (codes - quantizer.zero_point) * quantizer.scale - histogram.values
    return float(histogram.counts @ (errors * errors))


def weight_codes(weight: np.ndarray, step: np.ndarray, bits: int) -> np.ndarray:
    """Returns the nearest codes int64 [O, ...] of weights [O, ...] in steps float64 [O], -2**(bits-1) at least."""
    half = 1 << (bits - 1)
    steps = step.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / steps), -half, half - 1).astype(np.int64)


def weight_steps(weight: np.ndarray, bits: int, importance: np.ndarray | None = None) -> np.ndarray:
    """Returns float64 [O]: for each channel of weights [O, ...] the step of the smallest squared error.

    importance: how much an error of each weight counts, float64 [O or 1, the weights of a channel]; None: all alike.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    counts = np.ones((1, rows.shape[1])) if importance is None else importance
    whole = np.abs(rows).max(1) / ((1 << (bits - 1)) - 1)
    whole = np.where(whole > 0, whole, 1.0)
    shares = np.broadcast_to(WEIGHT_SHARES[:, None], (len(WEIGHT_SHARES), len(rows)))
    for _ in range(2):
        errors = np.stack([_row_errors(rows, whole * share, bits, counts) for share in shares])
        best = shares[errors.argmin(0), np.arange(len(rows))]
        shares = best + FINER_SHARES[:, None]
    return whole * best


def common_weight_step(weight: np.ndarray, bits: int) -> float:
    """Returns the one step for all channels of weights [O, ...] with the smallest squared error."""
    return float(weight_steps(weight.reshape(1, -1), bits)[0])


def _row_errors(rows: np.ndarray, step: np.ndarray, bits: int, counts: np.ndarray) -> np.ndarray:
    errors = weight_codes(rows, step, bits) * step[:, None] - rows
    return (errors * errors * counts).sum(1)
