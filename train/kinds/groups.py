"""Kinds of picture quality: a Gaussian for each family of degradations that features tell, or a mixture of them.

The mixture is over quality features and the teacher's loss, which only helps to find the groups. Which group a picture
is of is told by its features alone, as on a device: a mild degradation may well count as clean.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from runtime.choice.quality import NAMES, features
from train.data.batches import Batches
from train.loop.phase import answers
from train.network.network import Network

FAMILIES = "families"
MOST = 6  # groups tried when their number is open
LEAST_DEVIATION = 4.0  # of a feature, in its units: what never varies must not decide
RIDGE = 1e-2  # added to every variance of standardized features
CLIP = 8.0  # deviations
BATCH = 256
CLEARLY = 2
GROUPED = 8192  # views that the groups are found on


@dataclass(frozen=True, eq=False)
class Groups:
    """Gaussians over standardized features: offset, deviation [D], shares [G], means [G, D], covariances [G, D, D]."""

    offset: np.ndarray
    deviation: np.ndarray
    shares: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def __len__(self) -> int:
        return len(self.shares)

    def standardize(self, quality: np.ndarray) -> np.ndarray:
        """q float32 [..., D] of features int32 [..., D]."""
        return np.clip((quality - self.offset) / self.deviation, -CLIP, CLIP).astype(np.float32)

    def assign(self, q: np.ndarray) -> np.ndarray:
        """Most likely group, int64 [...], of q [..., D]."""
        likelihood = []
        for share, mean, covariance in zip(self.shares, self.means, self.covariances, strict=True):
            root = np.linalg.cholesky(np.linalg.inv(covariance))
            whitened = (q - mean) @ root
            likelihood.append(np.log(share) + np.log(np.diag(root)).sum() - 0.5 * (whitened**2).sum(-1))
        return np.stack(likelihood).argmax(0)

    def of(self, quality: np.ndarray) -> np.ndarray:
        """Most likely group, int64 [...], of features int32 [..., D]."""
        return self.assign(self.standardize(quality))

    def to_dict(self) -> dict:
        return {k: v.tolist() for k, v in vars(self).items()}

    @classmethod
    def from_dict(cls, content: dict) -> "Groups":
        """Raises ValueError for what `to_dict` does not leave."""
        try:
            found = cls(**{k: np.array(v, np.float64) for k, v in content.items()})
            found.of(np.zeros(len(NAMES)))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"expected Gaussians over {len(NAMES)} features ({error})") from error
        return found


def groups_of_families(quality: np.ndarray, family: np.ndarray) -> Groups:
    """Gaussians of features int32 [M, D] of pictures whose family int64 [M] is known.

    One for each family whose pictures are told as its own CLEARLY times as often as any other's, and one for such as
    look alike, say two kinds of blur.
    """
    label = np.unique(family, return_inverse=True)[1]
    while True:
        groups = _gaussians(quality, label)
        told = groups.of(quality)
        count = len(groups)
        seen = np.array([np.bincount(told[label == k], minlength=count) for k in range(count)])
        own, others = seen.diagonal(), seen * ~np.eye(count, dtype=bool)
        lacking = CLEARLY * others.max(1) - own
        worst = int(lacking.argmax())
        if lacking[worst] <= 0:
            return groups
        label[label == worst] = others[worst].argmax()
        label = np.unique(label, return_inverse=True)[1]


def _gaussians(quality: np.ndarray, label: np.ndarray) -> Groups:
    """One for each label 0, 1, ..."""
    offset, deviation = quality.mean(0), np.maximum(quality.std(0), LEAST_DEVIATION)
    q = np.clip((quality - offset) / deviation, -CLIP, CLIP)
    parts = [q[label == k] for k in range(label.max() + 1)]
    ridge = RIDGE * np.eye(q.shape[1])
    return Groups(
        offset,
        deviation,
        np.array([len(p) / len(q) for p in parts]),
        np.array([p.mean(0) for p in parts]),
        np.array([np.cov(p.T, bias=True) + ridge for p in parts]),
    )


def find_groups(quality: np.ndarray, losses: np.ndarray, count: int, seed: int) -> Groups:
    """Groups of pictures with features int32 [M, D] and the teacher's losses [M]; count 0: as many as BIC prefers."""
    offset, deviation = quality.mean(0), np.maximum(quality.std(0), LEAST_DEVIATION)
    q = np.clip((quality - offset) / deviation, -CLIP, CLIP)
    spread = max(float(losses.std()), 1e-6)
    points = np.concatenate([q, np.clip((losses[:, None] - losses.mean()) / spread, -CLIP, CLIP)], 1)
    fits = [
        GaussianMixture(k, reg_covar=RIDGE, random_state=seed).fit(points)
        for k in ([count] if count else range(1, min(MOST, len(points) // 2) + 1))
    ]
    best = min(fits, key=lambda fit: fit.bic(points))
    d = q.shape[1]  # a Gaussian's marginal is had by leaving out the other dimensions
    return Groups(offset, deviation, best.weights_, best.means_[:, :d], best.covariances_[:, :d, :d])


def check_count(wanted: str, pictures: int) -> None:
    """Raises ValueError for more groups than there are pictures to find them on."""
    most = min(GROUPED, pictures)
    if wanted != FAMILIES and int(wanted) > most:
        raise ValueError(
            f"--kinds {wanted}: expected at most {most}, one a picture that groups are found on; give fewer"
        )


def quality_groups(batches: Batches, teacher: Network, wanted: str, seed: int) -> Groups:
    """Groups from a spread of the training views, in equal shares of the families.

    wanted: FAMILIES for one a family that features tell, where there are several; else how many to find, "0" for as
    many as BIC prefers.
    """
    views = batches.views_numpy()
    picture = np.linspace(0, batches.count - 1, min(GROUPED, batches.count)).astype(np.int64)
    family = np.arange(len(picture)) % batches.families
    chosen = views[family, picture]
    if wanted == FAMILIES and batches.families > 1:
        return groups_of_families(features(chosen), family)
    count = 0 if wanted == FAMILIES else int(wanted)
    losses = teacher_losses(teacher, chosen, batches.labels.cpu()[picture], batches.device)
    return find_groups(features(chosen), losses, count, seed)


def view_features(views: np.ndarray) -> np.ndarray:
    """int32 [F, N, D] of pictures uint8 [F, N, H, W, 3]."""
    return np.stack([features(np.asarray(family)) for family in views])


@torch.no_grad()
def teacher_losses(teacher: Network, pictures: np.ndarray, labels: Tensor, device) -> np.ndarray:
    """Cross entropy float64 [M] of the full-precision network on pictures uint8 [M, H, W, 3]."""
    parts = []
    for k in range(0, len(pictures), BATCH):
        logits = answers(teacher, torch.tensor(pictures[k : k + BATCH], device=device))
        wanted = labels[k : k + BATCH].to(device)
        parts.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none").cpu())
    return torch.cat(parts).double().numpy()
