"""Weights whose pairs of products leave int16 are cut in halves: one in its place, the other in a few extra steps.

vpmaddubsw adds two products of 8-bit codes and weights, and saturates where both weights are large and of one sign,
which few are. A step is four bytes of each pixel for 8 channels. What is cut off takes a list of extra steps for every
8 channels: which bytes to read, and their weights.
"""

from dataclasses import dataclass

import numpy as np

from targets.x86.chains import INT16

WORTH = 0.4  # more extra steps than this share of all gain too little for what they store

FILL = 16  # extra steps


@dataclass(frozen=True, eq=False)
class Split:
    """Weights in two parts.

    first: int8 as arranged, [blocks, kH, K4, 2, 8, 4]. extra: int8 [n, 8, 4]. The extra steps of half block h of the
    layer are starts[h] .. starts[h + 1] - 1, and step i reads at positions[i] = (dy, k). Zeros that no half block takes
    fill n up to a multiple of FILL, so that variants whose splits differ a little have the same code.
    """

    first: np.ndarray
    extra: np.ndarray
    starts: np.ndarray
    positions: np.ndarray

    @property
    def taken(self) -> int:
        """Returns how many extra steps half blocks take."""
        return int(self.starts[-1])


def split(weight: np.ndarray, qmax: int) -> Split | None:
    """Returns the parts, or None where too many weights would have to be cut.

    weight: int8 [blocks, kH, K4, 2, 8, 4].
    """
    pairs = weight.astype(np.int64).reshape(*weight.shape[:5], 2, 2)
    high, low = np.maximum(pairs, 0).sum(-1) * qmax, np.minimum(pairs, 0).sum(-1) * qmax
    large = (high > INT16[1]) | (low < INT16[0])
    rest = (np.trunc(pairs / 2).astype(np.int8) * large[..., None]).reshape(weight.shape)
    steps = large.any((-1, -2)).transpose(0, 3, 1, 2).reshape(-1, *weight.shape[1:3])  # [half blocks, kH, K4]
    if steps.mean() > WORTH:
        return None
    half, dy, k = np.nonzero(steps)
    starts = np.concatenate([[0], np.cumsum(steps.sum((1, 2)))])
    fill = (0, -len(half) % FILL)
    extra = np.pad(rest[half // 2, dy, k, half % 2], (fill, (0, 0), (0, 0)))
    return Split(weight - rest, extra, starts, np.pad(np.stack([dy, k], 1), (fill, (0, 0))))
