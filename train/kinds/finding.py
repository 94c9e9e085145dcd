"""Finds the kinds of picture quality: one a degradation family that features tell apart, or a mixture without labels.

The mixture is over quality features and the full-precision network's loss, which only helps to find the kinds; later a
picture's kind is told by its features alone.
"""

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from runtime.choice.quality import features
from train.data.batches import Batches
from train.kinds.kinds import Kinds, feature_scales, standardized
from train.network.network import Network

# Values of --kinds that are no count to find.
BY_FAMILY = "families"
NO_PRIVATE = "1"  # one kind for all pictures leaves nothing for private variants

MOST_KINDS = 6  # tried when their number is open
RIDGE = 1e-2  # added to every variance of standardized features
LEAST_SPREAD = 1e-6  # of losses
CLEARLY = 2  # how many times as often a family must be classified as itself as any other family is
MOST_PICTURES = 8192  # views that kinds are found on
BATCH = 256


def check_count(kinds: str, pictures: int) -> None:
    """Raises ValueError where --kinds asks for more kinds than there are pictures to find them on."""
    most = min(MOST_PICTURES, pictures)
    if kinds != BY_FAMILY and int(kinds) > most:
        raise ValueError(f"--kinds {kinds}: expected at most {most}, one a picture that kinds are found on; give fewer")


def quality_kinds(batches: Batches, net: Network, kinds: str, seed: int) -> Kinds:
    """Returns the kinds found on a spread of the training views, in equal shares of the degradation families.

    net: the network whose losses help where no family does. kinds: value of --kinds: BY_FAMILY for one a family that
    features tell apart, where there are several; else how many to find, "0" for as many as BIC prefers.
    """
    views = batches.views_numpy()
    picture = np.linspace(0, batches.count - 1, min(MOST_PICTURES, batches.count)).astype(np.int64)
    family = np.arange(len(picture)) % batches.families
    chosen = views[family, picture]
    if kinds == BY_FAMILY and batches.families > 1:
        return find_kinds_of_families(features(chosen), family)
    count = 0 if kinds == BY_FAMILY else int(kinds)
    losses = losses_of(net, chosen, batches.labels.cpu()[picture], batches.device)
    return find_kinds(features(chosen), losses, count, seed)


def find_kinds_of_families(quality: np.ndarray, family: np.ndarray, clearly: float = CLEARLY) -> Kinds:
    """Returns a Gaussian for each family that features int32 [M, D] tell apart; family: int64 [M].

    A family gets a kind of its own when its pictures are classified as its own `clearly` times as often as those of any
    other family are; families that look alike, say two kinds of blur, are one kind.
    """
    label = np.unique(family, return_inverse=True)[1]
    while True:
        kinds = _gaussians(quality, label)
        classified = kinds.classify(quality)
        count = len(kinds)
        confusion = np.array([np.bincount(classified[label == k], minlength=count) for k in range(count)])
        others = confusion * ~np.eye(count, dtype=bool)
        lacking = clearly * others.max(1) - confusion.diagonal()
        worst = int(lacking.argmax())
        if lacking[worst] <= 0:
            return kinds
        label[label == worst] = others[worst].argmax()
        label = np.unique(label, return_inverse=True)[1]


def find_kinds(quality: np.ndarray, losses: np.ndarray, count: int, seed: int) -> Kinds:
    """Returns the kinds of pictures with features int32 [M, D] and losses float64 [M].

    count: how many, 0 for as many as the Bayesian information criterion (BIC) prefers.
    """
    offset, deviation = feature_scales(quality)
    q = standardized(quality, offset, deviation)
    spread = max(float(losses.std()), LEAST_SPREAD)
    points = np.concatenate([q, standardized(losses[:, None], losses.mean(), spread)], 1)
    counts = [count] if count else range(1, min(MOST_KINDS, len(points) // 2) + 1)
    fits = [GaussianMixture(k, reg_covar=RIDGE, random_state=seed).fit(points) for k in counts]
    best = min(fits, key=lambda fit: fit.bic(points))
    d = q.shape[1]  # leaving out the loss's dimension gives a Gaussian's marginal over the features
    return Kinds(offset, deviation, best.weights_, best.means_[:, :d], best.covariances_[:, :d, :d])


def view_features(views: np.ndarray) -> np.ndarray:
    """Returns the features int32 [F, N, D] of views uint8 [F, N, H, W, 3]."""
    return np.stack([features(np.asarray(family)) for family in views])


@torch.no_grad()
def losses_of(net: Network, pictures: np.ndarray, labels: Tensor, device: torch.device) -> np.ndarray:
    """Returns the cross entropy float64 [M] of a network on pictures uint8 [M, H, W, 3] with labels int64 [M]."""
    parts = []
    for k in range(0, len(pictures), BATCH):
        logits = net(torch.tensor(pictures[k : k + BATCH], device=device))
        part = labels[k : k + BATCH].to(device)
        parts.append(torch.nn.functional.cross_entropy(logits, part, reduction="none").cpu())
    return torch.cat(parts).double().numpy()


def _gaussians(quality: np.ndarray, label: np.ndarray) -> Kinds:
    """One Gaussian of features int32 [M, D] for each label 0, 1, ... of int64 [M]."""
    offset, deviation = feature_scales(quality)
    q = standardized(quality, offset, deviation)
    parts = [q[label == k] for k in range(label.max() + 1)]
    ridge = RIDGE * np.eye(q.shape[1])
    return Kinds(
        offset,
        deviation,
        shares=np.array([len(part) / len(q) for part in parts]),
        means=np.array([part.mean(0) for part in parts]),
        covariances=np.array([np.cov(part.T, bias=True) + ridge for part in parts]),
    )
