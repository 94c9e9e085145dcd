"""From a bit policy to few variants: its configurations on real pictures, clustered by k-medoids."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.bits.cost import TOLERANCE, CostTable

SHARE_OF_KIND = 0.1  # how far pictures of the two most unlike quality kinds are apart when their bits are equal
SWAPS = 50
BISECTIONS = 60
LARGEST_MULTIPLIER = 1e6
LEAST_GAIN = 1e-12  # of a swap
LEAST_SPREAD = 1e-9  # of the kinds' centres


@dataclass(frozen=True, eq=False)
class Item:
    """A configuration that the policy gives to some pictures of one quality kind at one cost level.

    indices: int64 [L, 2] into the widths. weight: the share of these pictures among all.
    """

    indices: Tensor
    kind: int
    level: int
    weight: float


@dataclass(frozen=True, eq=False)
class Cluster:
    """A configuration that stands for others; kinds: the quality kinds that it is for, empty where it is for all."""

    indices: Tensor
    kinds: tuple[int, ...]
    level: int


def most_likely(log_p: Tensor, table: CostTable, multiplier: float) -> Tensor:
    """Returns indices int64 [M, L, 2] of the most likely configurations of log p [M, L, 2, W], on the CPU.

    multiplier: nats that each unit of cost takes away (a Lagrange multiplier).
    """
    score = log_p[:, :, 0, :, None] + log_p[:, :, 1, None, :] - multiplier * table.table.to(log_p)
    best = score.flatten(2).argmax(-1)
    return torch.stack([best // len(table.widths), best % len(table.widths)], -1)


def within_budget(log_p: Tensor, table: CostTable, budget: float, cheaper: bool) -> Tensor:
    """Returns indices int64 [M, L, 2] of log p [M, L, 2, W] whose mean cost comes nearest to the budget from below.

    cheaper: never spend more than the policy itself would. Raising the multiplier never raises a cost.
    """

    def fits(indices: Tensor) -> bool:
        return float(table.of_indices(indices).mean()) <= budget * (1 + TOLERANCE)

    low = 0.0 if cheaper else -LARGEST_MULTIPLIER
    high = LARGEST_MULTIPLIER
    freest = most_likely(log_p, table, low)
    if fits(freest):
        return freest
    best = most_likely(log_p, table, high)
    if not fits(best):
        return table.cheapest().expand_as(best)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        indices = most_likely(log_p, table, middle)
        if fits(indices):
            high = middle
            best = indices
        else:
            low = middle
    return best


def count_items(levels: list[Tensor], kinds: np.ndarray) -> list[Item]:
    """Returns the different configurations int64 [M, L, 2] of each cost level, by the pictures' kinds int64 [M]."""
    counts: dict[tuple[int, int, tuple[int, ...]], int] = {}
    for level, indices in enumerate(levels):
        for picture, kind in zip(indices.flatten(1).tolist(), kinds.tolist(), strict=True):
            place = (level, kind, tuple(picture))
            counts[place] = counts.get(place, 0) + 1
    return [
        Item(torch.tensor(flat).view(-1, 2), kind, level, count / len(kinds))
        for (level, kind, flat), count in sorted(counts.items())
    ]


def distances(items: list[Item], table: CostTable, centres: np.ndarray) -> np.ndarray:
    """Returns float64 [I, I]: |difference of log cost| + share of unlike widths + a little for unlike quality.

    centres: quality vectors [K, D] of the kinds.
    """
    indices = torch.stack([item.indices for item in items])
    log_cost = table.of_indices(indices).log().numpy()
    flat = indices.flatten(1).numpy()
    unlike = (flat[:, None] != flat[None]).mean(-1)
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    kind = np.array([item.kind for item in items])
    quality = (apart / max(apart.max(), LEAST_SPREAD))[kind[:, None], kind[None]]
    return np.abs(log_cost[:, None] - log_cost[None]) + unlike + SHARE_OF_KIND * quality


def k_medoids(distance: np.ndarray, weight: np.ndarray, k: int) -> list[int]:
    """Returns the k rows of distance [I, I] that all others, with weights [I], are nearest to on average.

    This is PAM (Kaufman and Rousseeuw 1987): medoids are added one by one, then swapped as long as that gains.
    """
    medoids: list[int] = []
    for _ in range(min(k, len(distance))):
        totals = _totals_with(distance, weight, medoids)
        totals[medoids] = np.inf
        medoids.append(int(totals.argmin()))
    for _ in range(SWAPS):
        before = (weight * distance[:, medoids].min(1)).sum()
        trials = []
        for place in range(len(medoids)):
            totals = _totals_with(distance, weight, medoids[:place] + medoids[place + 1 :])
            trials.append((float(totals.min()), place, int(totals.argmin())))
        least, place, medoid = min(trials)
        if least >= before - LEAST_GAIN:
            break
        medoids[place] = medoid
    return sorted(medoids)


def _totals_with(distance: np.ndarray, weight: np.ndarray, medoids: list[int]) -> np.ndarray:
    """The weighted distances to the nearest medoid, float64 [I], where each row in turn is one more medoid."""
    nearest = distance[:, medoids].min(1) if medoids else np.full(len(distance), np.inf)
    return (weight[:, None] * np.minimum(distance, nearest[:, None])).sum(0)


def cluster(items: list[Item], table: CostTable, centres: np.ndarray, k: int) -> list[Cluster]:
    """Returns at most k configurations that stand for all, with the kinds whose pictures are mostly theirs.

    centres: quality vectors [K, D] of the kinds.
    """
    distance = distances(items, table, centres)
    medoids = k_medoids(distance, np.array([item.weight for item in items]), k)
    nearest = distance[:, medoids].argmin(1)
    votes: dict[tuple[int, int], np.ndarray] = {}  # (level, kind) -> weight of its pictures by cluster
    for item, number in zip(items, nearest, strict=True):
        votes.setdefault((item.level, item.kind), np.zeros(len(medoids)))[number] += item.weight
    everything = sorted({item.kind for item in items})
    clusters = []
    for number, medoid in enumerate(medoids):
        won = sorted({kind for (_, kind), weights in votes.items() if weights.argmax() == number})
        kinds = won if won else [items[medoid].kind]
        named = () if kinds == everything else tuple(kinds)
        clusters.append(Cluster(items[medoid].indices, named, items[medoid].level))
    return clusters
