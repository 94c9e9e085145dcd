"""Kinds of picture quality, told apart by a picture's features alone, as on a device.

Each kind is a Gaussian over quality features. A mild degradation may well count as clean: a picture is of the kind that
it looks like.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.choice.quality import NAMES

LEAST_DEVIATION = 4.0  # of a feature, in its units: what never varies must not decide
CLIP = 8.0  # deviations


def feature_scales(quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns offset and deviation, float64 [D] each, of features int32 [M, D]."""
    return quality.mean(0), np.maximum(quality.std(0), LEAST_DEVIATION)


def standardized(quality: np.ndarray, offset: np.ndarray | float, deviation: np.ndarray | float) -> np.ndarray:
    """Returns features [..., D] as deviations [D] from an offset [D]: float64 [..., D], clipped to -CLIP..CLIP."""
    return np.clip((quality - offset) / deviation, -CLIP, CLIP)


@dataclass(frozen=True, eq=False)
class Kinds:
    """K Gaussians over standardized features.

    offset, deviation: float64 [D], of the features. shares: [K], how common each kind is. means: [K, D]; covariances:
    [K, D, D].
    """

    offset: np.ndarray
    deviation: np.ndarray
    shares: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def __len__(self) -> int:
        return len(self.shares)

    def standardize(self, quality: np.ndarray) -> np.ndarray:
        """Returns the quality vectors q float32 [..., D] of features int32 [..., D]."""
        return standardized(quality, self.offset, self.deviation).astype(np.float32)

    def classify_standardized(self, q: np.ndarray) -> np.ndarray:
        """Returns the most likely kind, int64 [...], of quality vectors [..., D]."""
        likelihood = []
        for share, mean, covariance in zip(self.shares, self.means, self.covariances, strict=True):
            root = np.linalg.cholesky(np.linalg.inv(covariance))
            whitened = (q - mean) @ root
            likelihood.append(np.log(share) + np.log(np.diag(root)).sum() - 0.5 * (whitened**2).sum(-1))
        return np.stack(likelihood).argmax(0)

    def classify(self, quality: np.ndarray) -> np.ndarray:
        """Returns the most likely kind, int64 [...], of features int32 [..., D]."""
        return self.classify_standardized(self.standardize(quality))

    def to_dict(self) -> dict[str, Any]:
        """Returns the Gaussians as JSON holds them."""
        return {k: v.tolist() for k, v in vars(self).items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Kinds":
        """Returns the kinds that `to_dict` gave. Raises ValueError for anything else."""
        try:
            kinds = cls(**{k: np.array(v, np.float64) for k, v in content.items()})
            kinds.classify(np.zeros(len(NAMES)))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"expected Gaussians over {len(NAMES)} features ({error})") from error
        return kinds
