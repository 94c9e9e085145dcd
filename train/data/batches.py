"""Training batches of degraded pictures; which pictures, and how cropped, follows from (seed, phase, epoch, step)."""

import copy
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

OWN_SHARE = 0.75  # share of an order's pictures that are drawn from the views named for it; the rest are of all views
REACH = 8  # pictures are shifted by up to their side / REACH pixels


def generator(*parts) -> torch.Generator:
    """Returns a generator seeded by a hash of its arguments, the same on every machine; all chance comes from such."""
    seed = zlib.crc32(repr(parts).encode()) << 32 | zlib.crc32(repr(parts[::-1]).encode())
    return torch.Generator().manual_seed(seed & (1 << 63) - 1)


class Order(NamedTuple):
    """Which views an epoch goes through, one batch after the other: pictures and families, int64 [pictures] each."""

    pictures: Tensor
    families: Tensor

    @classmethod
    def from_views(cls, views: Tensor, count: int) -> "Order":
        """Returns the order of views numbered family * count + picture, int64 [pictures]."""
        return cls(views % count, views // count)


class Batches:
    """Batches of pictures that each exist in several degradation families, F views of N pictures.

    views: uint8 [F, N, H, W, 3], in memory or mapped from a file; labels: int64 [N]; batch: pictures per step;
    pictures: per epoch, 0 for all. A batch is shifted by up to an eighth of its side, which reflection fills, and
    mirrored at random where `flip`.
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
    ):
        self.families, self.count, self.height, self.width = views.shape[:4]
        self.views: Tensor | np.ndarray = torch.tensor(views, device=device) if device.type == "cuda" else views
        self.labels = torch.tensor(labels, device=device)
        self.device = device
        self.pictures = min(pictures or self.count, self.count)
        self.batch = min(batch, self.pictures)
        self.seed = seed
        self.flip = flip
        self.rank, self.processes = 0, 1

    def for_process(self, rank: int, processes: int) -> "Batches":
        """Returns the same batches, of which this process takes every `processes`-th picture from the rank-th on."""
        part = copy.copy(self)
        part.rank, part.processes = rank, processes
        return part

    def alone(self) -> "Batches":
        """Returns the same batches, each whole in this process."""
        return self.for_process(0, 1)

    @property
    def steps(self) -> int:
        """How many batches an epoch has; pictures that do not fill a last one are left out of this epoch."""
        return self.pictures // self.batch

    def order(self, phase: str, epoch: int, own: Tensor | None = None, own_share: float = OWN_SHARE) -> Order:
        """Returns an epoch's order, in which every picture comes once, its family changing from epoch to epoch.

        own: bool [F, N], views from which a share `own_share` of the pictures is drawn instead; None for no such views.
        """
        chance = generator(self.seed, phase, epoch)
        pictures = torch.randperm(self.count, generator=chance)[: self.pictures]
        families = (torch.arange(self.pictures) + epoch) % self.families
        if own is None:
            return Order(pictures, families)
        views = own.flatten().nonzero()[:, 0]
        drawn = Order.from_views(views[torch.randint(len(views), (self.pictures,), generator=chance)], self.count)
        is_own = torch.rand(self.pictures, generator=chance) < own_share
        return Order(torch.where(is_own, drawn.pictures, pictures), torch.where(is_own, drawn.families, families))

    def alike(self, phase: str, epoch: int, kinds: Tensor) -> tuple[Order, Tensor]:
        """Returns an order whose batches are each of one kind of quality, and the kind of each batch, int64 [steps].

        kinds: int64 [F, N], of every view. A kind has as many batches as it has views, but for rounding.
        """
        chance = generator(self.seed, phase, epoch)
        kind_of_view = kinds.flatten()
        sizes = torch.bincount(kind_of_view)
        places = (torch.arange(self.steps) + torch.rand((), generator=chance)) * len(kind_of_view) / self.steps
        kind_of_batch = torch.bucketize(places, sizes.cumsum(0), right=True).clamp(max=len(sizes) - 1)
        kind_of_batch = kind_of_batch[torch.randperm(self.steps, generator=chance)]
        views = torch.empty(self.steps, self.batch, dtype=torch.int64)
        for kind in kind_of_batch.unique().tolist():
            members = (kind_of_view == kind).nonzero()[:, 0]
            wanted = int((kind_of_batch == kind).sum()) * self.batch
            rounds = -(-wanted // len(members))
            drawn = torch.cat([members[torch.randperm(len(members), generator=chance)] for _ in range(rounds)])
            views[kind_of_batch == kind] = drawn[:wanted].view(-1, self.batch)
        return Order.from_views(views.flatten(), self.count), kind_of_batch

    def get(self, order: Order, phase: str, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Returns one batch on the device: pictures uint8 [B, H, W, 3] and labels int64 [B], this process's part."""
        pictures, families = order
        chosen = slice(step * self.batch + self.rank, (step + 1) * self.batch, self.processes)
        picture, family = pictures[chosen], families[chosen]
        rows, columns = self._places(generator(self.seed, phase, epoch, step))
        rows, columns = rows[self.rank :: self.processes], columns[self.rank :: self.processes]
        if isinstance(self.views, np.ndarray):
            # Whole pictures first: a file's pages are read once each.
            whole = torch.from_numpy(self.views[family.numpy(), picture.numpy()])
            first = torch.arange(len(picture))[:, None, None]
            return whole[first, rows[:, :, None], columns[:, None, :]], self.labels[picture]
        picture, family, rows, columns = (t.to(self.device) for t in (picture, family, rows, columns))
        place = (family[:, None, None], picture[:, None, None], rows[:, :, None], columns[:, None, :])
        return self.views[place], self.labels[picture]

    def sample(self, count: int, own: Tensor | None = None) -> Tensor:
        """Returns pictures uint8 [count, H, W, 3] as they are, spread over the data set, families in turn.

        own: bool [F, N], the only views to take; None for all. They lie on the device.
        """
        if own is None:
            picture = np.linspace(0, self.count - 1, min(count, self.count)).astype(np.int64)
            family = np.arange(len(picture)) % self.families
        else:
            views = own.flatten().nonzero()[:, 0].numpy()
            views = views[np.linspace(0, len(views) - 1, min(count, len(views))).astype(np.int64)]
            family, picture = views // self.count, views % self.count
        if isinstance(self.views, np.ndarray):
            return torch.from_numpy(self.views[family, picture])
        return self.views[torch.from_numpy(family), torch.from_numpy(picture)]

    def views_numpy(self) -> np.ndarray:
        """Returns all views, uint8 [F, N, H, W, 3]."""
        return self.views if isinstance(self.views, np.ndarray) else self.views.cpu().numpy()

    def _places(self, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns the row and column that each pixel of a batch comes from: int64 [batch, H], [batch, W]."""
        rows = self._shifted(self.height, chance)
        columns = self._shifted(self.width, chance)
        if self.flip:
            mirrored = torch.rand(self.batch, 1, generator=chance) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        return rows, columns

    def _shifted(self, size: int, chance: torch.Generator) -> Tensor:
        """Returns 0 .. size - 1, shifted at random and reflected at the edges, once a picture: int64 [batch, size]."""
        reach = size // REACH
        shift = torch.randint(-reach, reach + 1, (self.batch, 1), generator=chance)
        place = (torch.arange(size) + shift).abs()
        return torch.where(place >= size, 2 * (size - 1) - place, place)


@dataclass(frozen=True, eq=False)
class Held:
    """Pictures kept from training, by which networks are compared: uint8 [N, H, W, 3], and labels int64 [N]."""

    pictures: np.ndarray
    labels: np.ndarray
