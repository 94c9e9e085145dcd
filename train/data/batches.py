"""Training batches of degraded pictures; which and how is a pure function of (seed, phase, epoch, step)."""

import copy
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Order = tuple[Tensor, Tensor]  # pictures and families, int64 each, a batch after the other
OWN_SHARE = 0.75  # share of an order's pictures that are of its own quality, the rest being of all


def generator(*parts) -> torch.Generator:
    """A generator seeded by a hash of its arguments, the same on every machine; there is no other source of chance."""
    seed = zlib.crc32(repr(parts).encode()) << 32 | zlib.crc32(repr(parts[::-1]).encode())
    return torch.Generator().manual_seed(seed & (1 << 63) - 1)


class Batches:
    """Epochs over pictures that each exist in several families: each picture once an epoch, families in equal shares.

    views: uint8 [F, N, H, W, 3], labels: int64 [N]. A batch is cropped after reflection by an eighth of the side, and
    mirrored where `flip`. `share` (rank, processes): which part of every batch this process takes.
    """

    def __init__(
        self,
        views: np.ndarray,
        labels: np.ndarray,
        *,
        batch: int,
        pictures: int,
        seed: int,
        flip: bool,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
    ):
        self.families, self.count, self.height, self.width = views.shape[:4]
        self.views = torch.tensor(views, device=device) if device.type == "cuda" else views
        self.labels, self.device = torch.tensor(labels, device=device), device
        self.pictures = min(pictures or self.count, self.count)
        self.batch, self.seed, self.flip, self.share = min(batch, self.pictures), seed, flip, share

    @property
    def steps(self) -> int:
        """An epoch's; what does not fill a batch is left for another epoch's order."""
        return self.pictures // self.batch

    def order(self, phase: str, epoch: int, own: Tensor | None = None, share: float = OWN_SHARE) -> Order:
        """Pictures and families, int64 [pictures] each.

        own: bool [F, N], views of which `share` of the pictures shall be; None for every picture once, families in
        turn.
        """
        chance = generator(self.seed, phase, epoch)
        order = torch.randperm(self.count, generator=chance)[: self.pictures]
        families = (torch.arange(self.pictures) + epoch) % self.families
        if own is None:
            return order, families
        views = own.flatten().nonzero()[:, 0]
        drawn = views[torch.randint(len(views), (self.pictures,), generator=chance)]
        mine = torch.rand(self.pictures, generator=chance) < share
        return torch.where(mine, drawn % self.count, order), torch.where(mine, drawn // self.count, families)

    def alike(self, phase: str, epoch: int, groups: Tensor) -> tuple[Order, Tensor]:
        """An order whose batches are each of one quality, and their groups int64 [steps]; groups: int64 [F, N].

        A group has as many batches as it has views, but for rounding.
        """
        chance, flat = generator(self.seed, phase, epoch), groups.flatten()
        sizes = torch.bincount(flat)
        places = (torch.arange(self.steps) + torch.rand((), generator=chance)) * len(flat) / self.steps
        of = torch.bucketize(places, sizes.cumsum(0), right=True).clamp(max=len(sizes) - 1)
        of = of[torch.randperm(self.steps, generator=chance)]
        views = torch.empty(self.steps, self.batch, dtype=torch.int64)
        for group in of.unique().tolist():
            members = (flat == group).nonzero()[:, 0]
            rounds = -(-int((of == group).sum()) * self.batch // len(members))
            drawn = torch.cat([members[torch.randperm(len(members), generator=chance)] for _ in range(rounds)])
            views[of == group] = drawn[: int((of == group).sum()) * self.batch].view(-1, self.batch)
        return (views.flatten() % self.count, views.flatten() // self.count), of

    def get(self, order: Order, phase: str, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """(pictures uint8 [B, H, W, 3], labels int64 [B]) on the device."""
        rank, processes = self.share
        chosen = slice(step * self.batch + rank, (step + 1) * self.batch, processes)
        rows, columns = (t[rank::processes] for t in self._places(generator(self.seed, phase, epoch, step)))
        picture, family = order[0][chosen], order[1][chosen]
        if isinstance(self.views, np.ndarray):
            # Whole pictures first: a file's pages are read once each.
            whole = torch.from_numpy(self.views[family.numpy(), picture.numpy()])
            first = torch.arange(len(picture))[:, None, None]
            return whole[first, rows[:, :, None], columns[:, None, :]], self.labels[picture]
        picture, family, rows, columns = (t.to(self.device) for t in (picture, family, rows, columns))
        place = (family[:, None, None], picture[:, None, None], rows[:, :, None], columns[:, None, :])
        return self.views[place], self.labels[picture]

    def sample(self, count: int, own: Tensor | None = None) -> Tensor:
        """Pictures uint8 [count, H, W, 3] on the device as they are, spread over the data set, families in turn.

        own: bool [F, N], the only views to take, where it is given.
        """
        picture = np.linspace(0, self.count - 1, min(count, self.count)).astype(np.int64)
        family = np.arange(len(picture)) % self.families
        if own is not None:
            views = own.flatten().nonzero()[:, 0].numpy()
            views = views[np.linspace(0, len(views) - 1, min(count, len(views))).astype(np.int64)]
            family, picture = views // self.count, views % self.count
        if isinstance(self.views, np.ndarray):
            return torch.from_numpy(self.views[family, picture])
        return self.views[torch.from_numpy(family), torch.from_numpy(picture)]

    def views_numpy(self) -> np.ndarray:
        """uint8 [F, N, H, W, 3]."""
        return self.views if isinstance(self.views, np.ndarray) else self.views.cpu().numpy()

    def alone(self) -> "Batches":
        """The same, with whole batches for this process."""
        other = copy.copy(self)
        other.share = (0, 1)
        return other

    def _places(self, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which row and column of its picture each pixel of the batch comes from: int64 [batch, H], [batch, W]."""
        places = []
        for size in (self.height, self.width):
            reach = size // 8
            start = torch.randint(-reach, reach + 1, (self.batch, 1), generator=chance)
            place = (torch.arange(size) + start).abs()
            places.append(torch.where(place >= size, 2 * (size - 1) - place, place))
        if self.flip:
            mirrored = torch.rand(self.batch, 1, generator=chance) < 0.5
            places[1] = torch.where(mirrored, places[1].flip(1), places[1])
        return places[0], places[1]


@dataclass(frozen=True)
class Held:
    """Pictures kept from training, uint8 [N, H, W, 3] of mixed quality, and labels int64 [N]: to compare by."""

    pictures: np.ndarray
    labels: np.ndarray
