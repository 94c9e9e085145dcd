"""From a bit policy to few variants: its configurations on real pictures at some cost levels, in k-medoids."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.bits.cost import TOLERANCE, CostTable

SHARE_OF_GROUP = 0.1  # how far two pictures of the most unlike quality groups are apart when their bits are equal
SWAPS = 50
HALVINGS = 60
FIRST_MULTIPLIER = 1e6


@dataclass(frozen=True, eq=False)
class Item:
    """A configuration that the policy gives to some pictures. indices: int64 [L, 2]; level: its cost level."""

    indices: Tensor
    group: int
    level: int
    weight: float


@dataclass(frozen=True, eq=False)
class Cluster:
    """A configuration that stands for others, and the quality groups that it is for; none named where it is for all."""

    indices: Tensor
    groups: tuple[int, ...]
    level: int


def configurations(log_p: Tensor, table: CostTable, multiplier: float) -> Tensor:
    """Indices int64 [M, L, 2] of the most likely configurations, each unit of cost taking `multiplier` nats away.

    log_p: [M, L, 2, W] on the CPU.
    """
    score = log_p[:, :, 0, :, None] + log_p[:, :, 1, None, :] - multiplier * table.table.to(log_p)
    best = score.flatten(2).argmax(-1)
    return torch.stack([best // len(table.widths), best % len(table.widths)], -1)


def within(log_p: Tensor, table: CostTable, budget: float, cheaper: bool) -> Tensor:
    """`configurations` whose mean cost comes nearest to the budget from below.

    cheaper: never spend more than the policy itself would. Raising the multiplier never raises a cost.
    """

    def found(multiplier: float) -> tuple[Tensor, bool]:
        indices = configurations(log_p, table, multiplier)
        return indices, float(table.of_indices(indices).mean()) <= budget * (1 + TOLERANCE)

    low, high = (0.0 if cheaper else -FIRST_MULTIPLIER), FIRST_MULTIPLIER
    indices, fits = found(low)
    if fits:
        return indices
    best, fits = found(high)
    if not fits:
        return table.cheapest().expand_as(best)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        indices, fits = found(middle)
        low, high, best = (low, middle, indices) if fits else (middle, high, best)
    return best


def items(levels: list[Tensor], groups: np.ndarray) -> list[Item]:
    """levels: configurations int64 [M, L, 2] per cost level; groups: int64 [M] of the same pictures."""
    counts: dict[tuple, int] = {}
    for level, found in enumerate(levels):
        for picture, group in zip(found.flatten(1).tolist(), groups.tolist(), strict=True):
            place = (level, group, tuple(picture))
            counts[place] = counts.get(place, 0) + 1
    return [
        Item(torch.tensor(flat).view(-1, 2), group, level, count / len(groups))
        for (level, group, flat), count in sorted(counts.items())
    ]


def distances(found: list[Item], table: CostTable, centres: np.ndarray) -> np.ndarray:
    """float64 [I, I]: |difference of log cost| + share of unlike widths + a little for unlike quality.

    centres: [G, D] of the quality groups.
    """
    indices = torch.stack([item.indices for item in found])
    log_cost = table.of_indices(indices).log().numpy()
    flat = indices.flatten(1).numpy()
    unlike = (flat[:, None] != flat[None]).mean(-1)
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    group = np.array([item.group for item in found])
    quality = (apart / max(apart.max(), 1e-9))[group[:, None], group[None]]
    return np.abs(log_cost[:, None] - log_cost[None]) + unlike + SHARE_OF_GROUP * quality


def k_medoids(distance: np.ndarray, weight: np.ndarray, k: int) -> list[int]:
    """The k rows of distance [I, I] with the least weighted distance of all to the nearest (PAM: build, then swap)."""
    medoids: list[int] = []
    for _ in range(min(k, len(distance))):
        nearest = distance[:, medoids].min(1) if medoids else np.full(len(distance), np.inf)
        totals = (weight[:, None] * np.minimum(distance, nearest[:, None])).sum(0)
        totals[medoids] = np.inf
        medoids.append(int(totals.argmin()))
    for _ in range(SWAPS):
        before = (weight * distance[:, medoids].min(1)).sum()
        trials = []
        for place in range(len(medoids)):
            others = medoids[:place] + medoids[place + 1 :]
            kept = distance[:, others].min(1) if others else np.full(len(distance), np.inf)
            totals = (weight[:, None] * np.minimum(distance, kept[:, None])).sum(0)
            trials.append((float(totals.min()), place, int(totals.argmin())))
        least, place, medoid = min(trials)
        if least >= before - 1e-12:
            break
        medoids[place] = medoid
    return sorted(medoids)


def clusters(found: list[Item], table: CostTable, centres: np.ndarray, k: int) -> list[Cluster]:
    """At most k configurations that stand for all, with the quality groups whose pictures are mostly theirs."""
    distance, weight = distances(found, table, centres), np.array([item.weight for item in found])
    medoids = k_medoids(distance, weight, k)
    nearest = distance[:, medoids].argmin(1)
    cells: dict[tuple[int, int], np.ndarray] = {}
    for item, cluster in zip(found, nearest, strict=True):
        cells.setdefault((item.level, item.group), np.zeros(len(medoids)))[cluster] += item.weight
    of = [sorted({g for (_, g), votes in cells.items() if votes.argmax() == c}) for c in range(len(medoids))]
    everything = sorted({item.group for item in found})
    out = []
    for cluster, medoid in enumerate(medoids):
        groups = of[cluster] or [found[medoid].group]
        out.append(Cluster(found[medoid].indices, () if groups == everything else tuple(groups), found[medoid].level))
    return out
