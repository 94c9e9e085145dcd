"""The paired bootstrap: how sure a difference is between answers to the same pictures.

A picture is drawn with all its views, for these share what is hard about it. What comes out is the noise of the test
pictures alone, not that of training another time.
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95  # of confidence intervals
AT_ONCE = 250  # resamples worked on at a time
ROUNDING = 1e-9  # sums of equal things may differ by less


@dataclass(frozen=True)
class Estimate:
    """A number, its percentile confidence interval of LEVEL, and its standard error.

    The standard error is infinite where the number was infinite in some resample.
    """

    value: float
    low: float
    high: float
    stderr: float

    @classmethod
    def of(cls, sampled: np.ndarray) -> "Estimate":
        """Takes the number as it is, then that of every resample, [1 + R]."""
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(sampled[1:], (tail, (1 + LEVEL) / 2), method="inverted_cdf")
        spread = float(np.std(sampled[1:], ddof=1)) if np.isfinite(sampled[1:]).all() else float("inf")
        return cls(float(sampled[0]), float(low), float(high), spread)

    @property
    def verdict(self) -> int:
        """1 or -1 where the whole interval is on one side of 0, else 0."""
        return int(self.low > ROUNDING) - int(self.high < -ROUNDING)

    def scaled(self, factor: float) -> "Estimate":
        """Returns the estimate in other units; factor > 0."""
        return Estimate(*(factor * _unsigned_zero(v) for v in (self.value, self.low, self.high, self.stderr)))


def _unsigned_zero(value: float) -> float:
    """The value; never a zero with a sign, which nobody would understand."""
    return 0.0 if abs(value) < ROUNDING else value


def resampled(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Returns means float64 [1 + R, K] of values [N, K], one row a picture: as they are, then of R resamples.

    A resample is N pictures drawn with replacement. Equal N and seed draw the same pictures, so that differences of
    what comes back are paired.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    count = len(values)
    means = [values.mean(0, keepdims=True)]
    for start in range(0, resamples, AT_ONCE):
        rows = min(AT_ONCE, resamples - start)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.reshape(-1), minlength=rows * count).reshape(rows, count)
        means.append(times @ values / count)
    return np.concatenate(means)
