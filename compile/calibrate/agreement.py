"""How often a quantized file gives the class of the float file it was made of, on pictures that calibrated nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from compile.calibrate.executor import open_session
from compile.calibrate.network import FloatNetwork
from compile.qdq.normalization import Normalization

FEW = 100  # pictures, below which an agreement has a margin of several points
Z = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class Agreement:
    """Of `pictures`, `same` have the same class in both files. held_out: whether none of them calibrated."""

    pictures: int
    same: int
    held_out: bool

    @property
    def share(self) -> float:
        """The part of pictures with the same class, in 0..1."""
        return self.same / self.pictures

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share (Wilson 1927)."""
        n, p = self.pictures, self.share
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


def float_logits(path: Path, network: FloatNetwork, pictures: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Returns float32 [N, classes] of the float file itself for pictures uint8 [N, H, W, 3]."""
    session = open_session(str(path))
    entry = session.get_inputs()[0].name

    def one(picture: np.ndarray) -> np.ndarray:
        x = normalization.floats(picture)
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if network.channels_last else x

    return _rows(pictures, lambda picture: session.run(None, {entry: one(picture)})[0])


def quantized_logits(path: Path, pictures: np.ndarray) -> np.ndarray:
    """Returns float32 [N, classes] of the quantized file for pictures uint8 [N, H, W, 3]."""
    session = open_session(str(path), basic=True)
    entry = session.get_inputs()[0].name
    return _rows(pictures, lambda picture: session.run(None, {entry: picture})[0])


def agreement_of(first: np.ndarray, second: np.ndarray, held_out: bool) -> Agreement:
    """Returns how often logits [N, classes] have their largest value at the same class."""
    return Agreement(len(first), int((first.argmax(1) == second.argmax(1)).sum()), held_out)


def _rows(pictures: np.ndarray, run: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What `run` gives for each picture [1, H, W, 3], a row each."""
    return np.concatenate([run(pictures[i : i + 1]).reshape(1, -1) for i in range(len(pictures))])
