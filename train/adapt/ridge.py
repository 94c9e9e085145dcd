"""Fits a layer's weights to clean twins by ridge regression, so that degraded inputs give what clean ones would.

W minimizes the mean of |W x + b - y|**2 + ridge * v * |W - W0|**2 over output pixels: x is the window of the layer's
own input on a degraded picture, y the sum of the clean twin, W0 the weights as they were, v the mean variance of x.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from compile.calibrate.layer_inputs import count_pixels, windows
from compile.calibrate.network import groups_of

RIDGES = (0.03, 0.1, 0.3, 1.0)
PIXELS = 1 << 15  # of all pictures together that a fit looks at, or more:
PIXELS_AN_INPUT = 8  # for each weight of a channel


@dataclass(frozen=True, eq=False)
class Normal:
    """The sums of a regression over G groups of K inputs and O / G outputs, per unit of weight.

    inputs: float64 [G, K, K], covariances; cross: [G, K, O / G], of inputs and targets; outputs: [G, O / G], variances
    of the targets.
    """

    inputs: np.ndarray
    cross: np.ndarray
    outputs: np.ndarray

    def solve(self, weight: np.ndarray, ridge: float) -> np.ndarray:
        """Returns the weights float64 [O, ...] next to `weight` [O, ...]."""
        groups, taps, _ = self.inputs.shape
        before = weight.reshape(groups, -1, taps).astype(np.float64)
        variance = np.einsum("gkk->g", self.inputs) / taps
        scale = ridge * np.maximum(variance, 1e-12)
        left = self.inputs + scale[:, None, None] * np.eye(taps)
        right = self.cross + scale[:, None, None] * before.transpose(0, 2, 1)
        solved: np.ndarray = np.linalg.solve(left, right).transpose(0, 2, 1).reshape(weight.shape)
        return solved

    def error(self, weight: np.ndarray) -> float:
        """Returns the squared error of weights [O, ...] in variances of their targets, the mean over outputs."""
        groups, taps, _ = self.inputs.shape
        w = weight.reshape(groups, -1, taps)
        explained = np.einsum("gok,gkl,gol->go", w, self.inputs, w, optimize=True)
        crossed = np.einsum("gok,gko->go", w, self.cross)
        error = np.maximum(explained - 2 * crossed + self.outputs, 0)
        return float((error / np.maximum(self.outputs, 1e-10)).mean())


@dataclass(frozen=True, eq=False)
class Samples:
    """A layer's inputs and targets on some pictures, [N, C, H, W] and [N, O, H', W'] or [N, C] and [N, O].

    weights: of the pictures, float64 [N].
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def of_pictures(self, rows: np.ndarray) -> "Samples":
        """Returns the samples of some pictures; rows: bool [N]."""
        return Samples(self.inputs[rows], self.targets[rows], self.weights[rows])

    def __len__(self) -> int:
        return len(self.inputs)


def fit_weights(node: onnx.NodeProto, weight: np.ndarray, fit: Samples, held: Samples) -> np.ndarray:
    """Returns the weights float32 [O, ...] of a Conv or Gemm by the ridge that serves held pictures best."""
    wanted = max(PIXELS, PIXELS_AN_INPUT * int(np.prod(weight.shape[1:])))
    share = min(1.0, wanted / (len(fit) * count_pixels(node, weight, fit.inputs)))
    normal, judge = (accumulate(node, weight, samples, share) for samples in (fit, held))
    candidates = [normal.solve(weight, ridge) for ridge in RIDGES]
    return min(candidates, key=judge.error).astype(np.float32)


def accumulate(node: onnx.NodeProto, weight: np.ndarray, samples: Samples, share: float) -> Normal:
    """Returns the sums for weights [O, ...] over a share (0..1) of the output pixels, the same ones for every call."""
    groups, outputs = groups_of(node), len(weight)
    taps = int(np.prod(weight.shape[1:]))
    pixels = count_pixels(node, weight, samples.inputs)
    rng = np.random.default_rng(0)
    size = taps + outputs // groups + 1
    moments = np.zeros((groups, size, size))
    for x, y, own in _weighted(samples):
        keep = np.flatnonzero(rng.random(pixels) < share)
        columns = windows(node, weight, x, keep)
        targets = y.reshape(groups, outputs // groups, -1)[:, :, keep]
        ones = np.ones((groups, 1, len(keep)))
        joined = np.concatenate([columns, targets, ones], 1).astype(np.float32)
        moments += own * (joined @ joined.transpose(0, 2, 1))
    moments /= np.maximum(moments[:, -1:, -1:], 1e-300)
    means = moments[:, -1, :-1]
    centred = moments[:, :-1, :-1] - means[:, :, None] * means[:, None]
    targets = np.einsum("goo->go", centred[:, taps:, taps:])
    return Normal(centred[:, :taps, :taps], centred[:, :taps, taps:], targets.copy())


def _weighted(samples: Samples) -> Iterable[tuple[np.ndarray, np.ndarray, float]]:
    return zip(samples.inputs, samples.targets, samples.weights.tolist(), strict=True)
