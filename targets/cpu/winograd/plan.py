"""How a Winograd kernel divides its work, and what that work amounts to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from targets.cpu.winograd.forms import Tiling
from targets.kernel import Step

SCRATCH = 128 << 10  # bytes of V a patch should take
STACK = 512 << 10  # bytes that V and M may take together: both lie on the stack
WIDEST = 28  # tiles of a row taken together


@dataclass(frozen=True)
class Operands:
    """What a multiplier multiplies, and where its sums go.

    v, weights: TIR buffers of V and U. codes(row, k): the index of group k in V; filters(k): that in U. put(row, i,
    sums, lanes) stores the i-th vector of a row. rows: tiles multiplied together; groups: of input channels.
    """

    v: Any
    weights: Any
    codes: Callable[[int, Any], Any]
    filters: Callable[[Any], Any]
    put: Callable[[int, int, Any, int], None]
    rows: int
    groups: int


@dataclass(frozen=True)
class Multiplier:
    """How a family multiplies V by U.

    element: dtype of V and U in memory. block: output channels of one M, a multiple of 16. rows: the most tiles whose
    sums fit the registers. vector: channels transformed together. group: input channels that lie side by side for each
    output channel in U, [K][block][group]. step: V's channels are filled up to a multiple of it. products(operands)
    emits the int32 sums of some tiles.
    """

    rule: str
    element: str
    block: int
    rows: int
    vector: int
    group: int
    step: int
    products: Callable[[Operands], None]

    @property
    def bytes(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.element).itemsize

    def offsets(self, tiling: Tiling, qmax: int) -> np.ndarray | None:
        """Returns int64 [positions] to add to V so that it fits the element, or None where no number does."""
        least, most = tiling.ranges(qmax)
        limits = np.iinfo(self.element)
        if (most - least > limits.max - limits.min).any():
            return None
        return np.where(least < limits.min, limits.min - least, np.where(most > limits.max, limits.max - most, 0))


@dataclass(frozen=True)
class Bands:
    """How rows and columns of tiles fall into units and patches: `rows` by `columns` tiles at a time."""

    height: int
    width: int
    rows: int
    columns: int
    shares: int  # parts of the output channels

    @property
    def bands(self) -> int:
        """Bands of rows."""
        return -(-self.height // self.rows)

    @property
    def units(self) -> int:
        """Parts that may run at the same time."""
        return self.bands * self.shares

    @classmethod
    def of(cls, tiles: tuple[int, int], bytes_per_tile: int, blocks: int) -> "Bands":
        """Returns the bands of a map of tiles, each of which takes so many bytes of V, and of blocks of channels."""
        height, width = tiles
        most = max(4, min(WIDEST, SCRATCH // bytes_per_tile))
        columns = -(-width // -(-width // most))
        rows = 1 if columns < width else min(height, max(1, min(most, 16) // width))
        rows = -(-height // -(-height // rows))
        bands = -(-height // rows)
        shares = max(s for s in range(1, max(1, 4 // bands) + 1) if blocks % s == 0)
        return cls(height, width, rows, columns, shares)


def at_once(tiles: int, most: int) -> int:
    """Returns how many tiles to take in registers, so that few are computed in vain."""
    return min(range(min(2, tiles), min(most, tiles) + 1), key=lambda n: -(-tiles // n) * (n + 1.5))


@dataclass(frozen=True)
class Plan:
    """A step, a tiling that applies to it, and a multiplier that V and U fit."""

    step: Step[Any]
    tiling: Tiling
    multiplier: Multiplier

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""
        return -(-self.step.node.weight.shape[0] // self.multiplier.block)

    @property
    def groups(self) -> int:
        """Groups of input channels."""
        m = self.multiplier
        return -(-self.step.node.weight.shape[3] // m.step) * m.step // m.group

    @property
    def channels(self) -> int:
        """Input channels that V has room for."""
        return -(-self.groups * self.multiplier.group // self.multiplier.vector) * self.multiplier.vector

    @cached_property
    def bands(self) -> Bands:
        """How the tiles fall into units and patches."""
        bytes_per_tile = self.tiling.positions * self.channels * self.multiplier.bytes
        return Bands.of(self.tiling.tiles(self.step.write.tensor.shape), bytes_per_tile, self.blocks)

    @cached_property
    def rows(self) -> int:
        """Tiles multiplied together."""
        return at_once(self.bands.rows * self.bands.columns, self.multiplier.rows)

    @property
    def held(self) -> int:
        """Tiles with room in scratch."""
        return -(-self.bands.rows * self.bands.columns // self.rows) * self.rows

    def fits(self) -> bool:
        """Returns whether the stack holds V and M."""
        per_tile = self.channels * self.multiplier.bytes + self.multiplier.block * 4
        return self.tiling.positions * self.held * per_tile <= STACK

    def work(self) -> tuple[int, int, int, int]:
        """Returns multiplications of a group, values of V made, values of M summed up, and bytes of U."""
        b, m = self.bands, self.multiplier
        per_block = self.tiling.positions * m.block * self.blocks
        multiplied, tiles = self.held * b.bands * -(-b.width // b.columns), b.height * b.width
        values = tiles * self.tiling.positions * self.channels * b.shares
        weights = per_block * self.groups * m.group * m.bytes
        return multiplied * per_block * self.groups, values, tiles * per_block, weights
