"""Rounds a layer's weights so that its output, not each weight, changes least: second-order rounding.

The error of codes q of one channel with step s is (w - s q)' H (w - s q), H the covariance of the layer's inputs.
Columns are rounded one after the other, and the weights that follow make up for each error (Frantar et al. 2022, GPTQ;
Hassibi and Stork 1993); then single codes move while that helps (coordinate descent), and the step is fitted again. Of
this and rounding to the nearest each channel takes what is better, so it is never worse on its own objective.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compile.calibrate.layer_inputs import Covariances
from compile.calibrate.steps import weight_codes

DAMPING = 0.01  # of the mean variance, added to each: covariances of few pictures are no certainty
BLOCK = 64  # columns whose errors are handed on at once
SWEEPS = 2  # of coordinate descent
FITS = 2  # of the step, each followed by another rounding

Settle = Callable[[np.ndarray], np.ndarray]  # steps float64 [O] -> the nearest that may be used


@dataclass(frozen=True, eq=False)
class Rounded:
    """Codes int64 [O, K], steps float64 [O], and the objective float64 [O] of each channel."""

    codes: np.ndarray
    step: np.ndarray
    error: np.ndarray

    def better_of(self, other: "Rounded") -> "Rounded":
        """Returns for each channel the one with the smaller objective, this one of equals."""
        worse = other.error < self.error
        return Rounded(
            np.where(worse[:, None], other.codes, self.codes),
            np.where(worse, other.step, self.step),
            np.where(worse, other.error, self.error),
        )


@dataclass(frozen=True, eq=False)
class Objective:
    """What rounding makes small: (target - step * codes)' hessian (target - step * codes) of each channel.

    target: float64 [O, K], the real weights that bring the quantized inputs closest to the float layer's output;
    hessian: float64 [K, K], positive definite.
    """

    target: np.ndarray
    hessian: np.ndarray

    def error(self, codes: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Returns float64 [O] for codes [O, K] in steps [O]."""
        rest = self.target - codes * step[:, None]
        return ((rest @ self.hessian) * rest).sum(1)

    def rounded(self, codes: np.ndarray, step: np.ndarray) -> Rounded:
        """Returns codes [O, K] in steps [O] with what they come to."""
        return Rounded(codes, step, self.error(codes, step))


def objectives(weight: np.ndarray, statistics: Covariances) -> list[Objective]:
    """Returns the objective of each group of channels; weight float [O, ...]."""
    groups, taps = statistics.inputs.shape[:2]
    rows = weight.reshape(groups, -1, taps).astype(np.float64)
    few = max(1.0, taps / statistics.pixels)
    results = []
    for row, inputs, cross in zip(rows, statistics.inputs, statistics.cross, strict=True):
        variance = float(np.trace(inputs)) / taps
        damping = (DAMPING * few * variance or 1.0) * np.eye(taps)
        hessian = inputs + damping
        target = np.linalg.solve(hessian, (row @ (cross + damping)).T).T
        results.append(Objective(target, hessian))
    return results


def learned_codes(objective: Objective, nearest: Rounded, bits: int, settle: Settle) -> Rounded:
    """Returns codes and steps of the smallest objective that is met from the nearest codes and their steps on."""
    best, step = nearest, nearest.step
    factor = _inverse_factor(objective.hessian)
    for _ in range(1 + FITS):
        codes = _descended(objective, _second_order(objective.target, factor, step, bits), step, bits)
        best = best.better_of(objective.rounded(codes, step))
        step = settle(fitted_step(objective, best))
        best = best.better_of(objective.rounded(best.codes, step))
    return best


def fitted_step(objective: Objective, rounded: Rounded) -> np.ndarray:
    """Returns float64 [O]: the step that makes the objective smallest for codes as they are; as it is for zeros."""
    seen = rounded.codes @ objective.hessian
    power = (seen * rounded.codes).sum(1)
    fitted = (seen * objective.target).sum(1) / np.where(power > 0, power, 1.0)
    return np.where((power > 0) & (fitted > 0), fitted, rounded.step)


@dataclass(frozen=True, eq=False)
class _Factor:
    """The upper Cholesky factor [K, K] of the inverse Hessian; its columns are in `order`, largest variance first."""

    order: np.ndarray
    upper: np.ndarray


def _inverse_factor(hessian: np.ndarray) -> _Factor:
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return _Factor(order, np.ascontiguousarray(upper))


def _second_order(target: np.ndarray, factor: _Factor, step: np.ndarray, bits: int) -> np.ndarray:
    """int64 [O, K]: columns rounded in turn, each error made up for by the columns behind it."""
    rest = target[:, factor.order].copy()
    codes = np.zeros(rest.shape, np.int64)
    taps = rest.shape[1]
    for begin in range(0, taps, BLOCK):
        end = min(begin + BLOCK, taps)
        errors = np.zeros((len(rest), end - begin))
        for k in range(begin, end):
            codes[:, k] = weight_codes(rest[:, k], step, bits)
            errors[:, k - begin] = (rest[:, k] - codes[:, k] * step) / factor.upper[k, k]
            rest[:, k + 1 : end] -= np.outer(errors[:, k - begin], factor.upper[k, k + 1 : end])
        rest[:, end:] -= errors @ factor.upper[begin:end, end:]
    restored = np.empty_like(codes)
    restored[:, factor.order] = codes
    return restored


def _descended(objective: Objective, codes: np.ndarray, step: np.ndarray, bits: int) -> np.ndarray:
    """int64 [O, K]: each code in turn set to its best, the others as they are."""
    half = 1 << (bits - 1)
    codes = codes.copy()
    gradient = (objective.target - codes * step[:, None]) @ objective.hessian  # of the objective, over -2
    for _ in range(SWEEPS):
        for k, variance in enumerate(np.diag(objective.hessian)):
            best = np.clip(np.rint(codes[:, k] + gradient[:, k] / (variance * step)), -half, half - 1).astype(np.int64)
            moved = best - codes[:, k]
            rows = np.flatnonzero(moved)
            if rows.size:
                gradient[rows] -= np.outer(moved[rows] * step[rows], objective.hessian[k])
                codes[rows, k] = best[rows]
    return codes
