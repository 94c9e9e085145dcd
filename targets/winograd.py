"""Winograd's F(2x2, 3x3) for 3x3 convolutions of stride 1, exact in integers, with 16 multiplies where 36 were.

Four outputs of a 2x2 tile come from a 4x4 tile d of codes and a 3x3 filter g [Lavin and Gray 2015, arXiv:1509.09308]:

    V = B^T d B,  U = (2G) g (2G)^T,  M = sum over input channels of V * U,  4 * outputs = A^T M A

The doubled G keeps everything integer. All sums may wrap around as long as 4 * outputs fits: the last division is
exact. Codes of a bits give V within 2*(2**a-1) of zero, except 0..4*(2**a-1) where both indices are 1, so codes of few
bits still fit the byte multipliers after the transform; so do weights: |U| <= 9 * 2**(w-1).

A unit is a band of tile rows times a share of the output channels. Its tiles' V lie in scratch [16][tiles][channels],
the sums of one block of output channels in M [16][tiles][block].
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script import builder as T

from compile.graph import Conv
from targets.epilogue import Epilogues
from targets.kernel import Kernel, Step
from targets.vector import LANES, fill_borders

POSITIONS = 16
CENTRE = 5  # position (1, 1), the only one where V is a sum of four codes
SCRATCH = 96 << 10  # bytes of V a unit may take
WIDEST = 28  # tiles of a row taken together
G2 = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
# outputs of a tile, in order, of each position: A^T M A
SIGNS = np.einsum("ri,sj->rsij", *[np.array([[1, 1, 1, 0], [0, 1, -1, -1]])] * 2).reshape(4, POSITIONS)


@dataclass(frozen=True)
class Multiplier:
    """How a family multiplies V by U.

    element: dtype of V and U in memory. sums: dtype of M; int16 sums are pairs whose total, widened by `widen`, is the
    int32 sum. offset: what is added to V at CENTRE and elsewhere. block: output channels of one M. rows: the most tiles
    that fit the registers. vector: channels transformed together. step: input channels of a multiplication (V's
    channels are filled up to a multiple of it). products(codes, filters, put, rows, steps) emits the sums of `rows`
    tiles: codes(row, k) is the index of step k in V, filters(k) that in the weights, put(row, i, sums, lanes)
    stores the i-th vector of a row.
    """

    rule: str
    element: str
    sums: str
    offset: tuple[int, int]
    block: int
    rows: int
    vector: int
    step: int
    products: Callable
    widen: Callable | None = None


def transform(weight: np.ndarray) -> np.ndarray:
    """int64 [16, O, I]: U of weights [O, 3, 3, I]."""
    return np.einsum("ai,bj,oijc->aboc", G2, G2, weight.astype(np.int64)).reshape(POSITIONS, *weight.shape[::3])


def applies(step: Step) -> bool:
    """A dense 3x3 convolution of stride 1 whose fourfold sums fit int32."""
    node = step.node
    if not isinstance(node, Conv) or node.groups != 1 or node.stride != 1 or node.weight.shape[1:3] != (3, 3):
        return False
    oh, ow, _ = step.write.tensor.shape
    return min(oh, ow) >= 2 and 4 * largest(node.weight, step.reads[0].tensor.qmax) < 1 << 31


def largest(weight: np.ndarray, qmax: int) -> int:
    """Largest |sum| of raw codes 0..qmax times the weights [O, ...], in any output channel."""
    flat = weight.astype(np.int64).reshape(len(weight), -1)
    return qmax * int(max(np.maximum(flat, 0).sum(1).max(), -np.minimum(flat, 0).sum(1).min()))


def arrange(u: np.ndarray, block: int, step: int, four: int) -> np.ndarray:
    """[blocks, 16, K, block, four] of U [16, O, I], zeros where there is nothing; `four` channels are four bytes."""
    _, o, i = u.shape
    full = np.zeros((POSITIONS, -(-o // block) * block, -(-i // step) * step), u.dtype)
    full[:, :o, :i] = u
    return full.reshape(POSITIONS, -1, block, full.shape[2] // four, four).transpose(1, 0, 3, 2, 4)


def corrections(u: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """int64 [4, O, I]: what the offsets add to four times each output of a tile, by input channel, negated."""
    added = np.full(POSITIONS, offset[1])
    added[CENTRE] = offset[0]
    return -np.einsum("rp,poi->roi", SIGNS * added, u)


@dataclass(frozen=True)
class Bands:
    """How the tiles of an output fall into units and patches: `rows` tile rows by `columns` tiles at a time."""

    height: int  # tile rows
    width: int  # tiles in a row
    rows: int
    columns: int
    shares: int  # parts of the output channels

    @property
    def bands(self) -> int:
        return -(-self.height // self.rows)

    @property
    def units(self) -> int:
        return self.bands * self.shares

    @classmethod
    def of(cls, shape: tuple[int, int, int], bytes_per_tile: int, blocks: int) -> "Bands":
        height, width = -(-shape[0] // 2), -(-shape[1] // 2)
        most = max(4, min(WIDEST, SCRATCH // bytes_per_tile))
        columns = -(-width // -(-width // most))
        rows = 1 if columns < width else min(height, max(1, min(most, 16) // width))
        rows = -(-height // -(-height // rows))
        bands = -(-height // rows)
        shares = max(s for s in range(1, max(1, 4 // bands) + 1) if blocks % s == 0)
        return cls(height, width, rows, columns, shares)


def at_once(tiles: int, most: int) -> int:
    """How many tiles to take in registers, so that few are computed in vain."""
    return min(range(min(2, tiles), min(most, tiles) + 1), key=lambda n: -(-tiles // n) * (n + 1.5))


def winograd(step: Step, epilogues: Epilogues, multiplier: Multiplier) -> Kernel:
    """The kernel of a step for which `applies` holds and whose V and U fit the multiplier."""
    return _Emitter(step, epilogues, multiplier).kernel()


class _Emitter:
    def __init__(self, step: Step, epilogues: Epilogues, multiplier: Multiplier):
        self.step, self.m = step, multiplier
        self.bytes = np.dtype(multiplier.element).itemsize
        self.four = 4 // self.bytes
        u = transform(step.node.weight)
        self.u = arrange(u, multiplier.block, multiplier.step, self.four)
        self.blocks, _, self.steps = self.u.shape[:3]
        self.vectors = -(-max(u.shape[2], self.steps * self.four) // multiplier.vector)
        self.channels = self.vectors * multiplier.vector
        self.bands = Bands.of(step.write.tensor.shape, POSITIONS * self.channels * self.bytes, self.blocks)
        self.tiles = self.bands.rows * self.bands.columns
        self.rows = at_once(self.tiles, multiplier.rows)
        self.held = -(-self.tiles // self.rows) * self.rows  # tiles with room in scratch
        self.wide = multiplier.block * (2 if multiplier.sums == "int16" else 1)
        self.epilogue = epilogues.conv(step)
        self.table = np.concatenate([self.epilogue.table, self._corrections(u)])

    def kernel(self) -> Kernel:
        if self.bytes == 1:
            w_bits = max(2, *(int(abs(int(x) + (x < 0))).bit_length() + 1 for x in (self.u.min(), self.u.max())))
            weights = self.u.astype(np.int8)
        else:
            w_bits, weights = 8, self.u.astype("<i2").view(np.int8)
        return Kernel(self.m.rule, weights.reshape(-1), w_bits, self.table, self.emit, self.bands.units)

    def _corrections(self, u: np.ndarray) -> np.ndarray:
        """int32 [4, blocks * block]; of int16 sums, both of a pair in one."""
        if not any(self.m.offset):
            return np.zeros(0, np.int32)
        full = np.zeros((4, self.blocks * self.m.block, -(-u.shape[2] // 4) * 4), np.int64)
        full[:, : u.shape[1], : u.shape[2]] = corrections(u, self.m.offset)
        if self.m.sums == "int32":
            return full.sum(-1).reshape(-1).astype(np.int32)
        pairs = full.reshape(4, -1, full.shape[2] // 4, 2, 2).sum((2, 4))
        return np.ascontiguousarray(pairs.astype("<i2")).view(np.int32).reshape(-1)

    def emit(self, reads, writes, weights, table, units) -> None:
        first, end = units
        local = dict(scope="local", annotations={"disable_lower_builtin": True})
        v = T.alloc_buffer((POSITIONS * self.held * self.channels,), self.m.element, **local)
        m = T.alloc_buffer((POSITIONS * self.held * self.wide,), self.m.sums, **local)
        b = self.bands
        per_share = self.blocks // b.shares
        with T.serial(first, end) as unit:
            top = T.bind(unit // b.shares * b.rows)
            high = T.bind(T.min(b.rows, b.height - top))
            with T.serial(-(-b.width // b.columns)) as patch:
                left = T.bind(patch * b.columns)
                wide = T.bind(T.min(b.columns, b.width - left))
                with T.grid(high, wide) as (i, j):
                    self._transform(reads[0], v, i * wide + j, *self._corner(top + i, left + j))
                with T.serial(per_share) as n:
                    block = T.bind(unit % b.shares * per_share + n)
                    groups = T.bind((high * wide + self.rows - 1) // self.rows)
                    with T.grid(POSITIONS, groups) as (p, group):
                        self._multiply(v, m, weights, block, p, group * self.rows)
                    with T.grid(high, wide) as (i, j):
                        self._finish(m, reads, writes, table, block, i * wide + j, top + i, left + j)
        fill_borders(self.step, writes, first)

    def _corner(self, i, j):
        """The first output pixel of a tile; the last tiles of an odd height or width overlap the ones before."""
        oh, ow, _ = self.step.write.tensor.shape
        return T.bind(T.min(i * 2, oh - 2)), T.bind(T.min(j * 2, ow - 2))

    def _transform(self, codes, v, tile, y, x) -> None:
        """V of one tile, `vector` channels at a time; beyond the last channel lies whatever memory holds."""
        layout, (above, before, _, _), n = self.step.reads[0], self.step.node.padding, self.m.vector
        lanes = "uint8" if self.bytes == 1 else "int16"

        def load(i, j, c):
            vector = codes[T.ramp(layout.at(y + i - above, x + j - before, c), 1, n)]
            return T.bind(vector if self.bytes == 1 else T.cast(vector, f"int16x{n}"))

        with T.serial(self.vectors) as c:
            columns = [[T.bind(s) for s in _apart(*(load(i, j, c * n) for i in range(4)))] for j in range(4)]
            for i in range(4):
                for j, s in enumerate(_apart(*(columns[k][i] for k in range(4)))):
                    position = i * 4 + j
                    offset = self.m.offset[position != CENTRE]
                    if offset:
                        s = s + T.broadcast(T.cast(offset % (1 << 8 * self.bytes), lanes), n)
                    s = s if lanes == self.m.element else T.reinterpret(s, dtype=f"{self.m.element}x{n}")
                    T.buffer_store(v, s, [T.ramp((position * self.held + tile) * self.channels + c * n, 1, n)])

    def _multiply(self, v, m, weights, block, position, first) -> None:
        base = T.bind((position * self.held + first) * self.channels)
        out = T.bind((position * self.held + first) * self.wide)
        start = T.bind((block * POSITIONS + position) * (self.steps * self.m.block * 4))

        def put(row, i, sums, n):
            T.buffer_store(m, sums, [T.ramp(out + row * self.wide + i * n, 1, n)])

        codes = lambda row, k: base + row * self.channels + k * self.four  # noqa: E731
        self.m.products(v, weights, codes, lambda k: start + k * (self.m.block * 4), put, self.rows, self.steps)

    def _finish(self, m, reads, writes, table, block, tile, i, j) -> None:
        """Four outputs of a tile, a vector of channels at a time."""
        y, x = self._corner(i, j)
        channels, odd = self.step.write.tensor.shape[2], self.step.write.tensor.shape[0] % 2
        tail = channels - (self.blocks - 1) * self.m.block

        def some(count):
            for first in range(0, count, LANES):
                outputs = self._outputs(m, table, block, tile, first)
                for k, acc in enumerate(outputs):
                    channel = block * self.m.block + first
                    put = lambda: self.epilogue.put(acc, reads, writes, table, y + k // 2, x + k % 2, channel,  # noqa: E731, B023
                                                    min(LANES, count - first))
                    if odd and k < 2:  # that row belongs to another unit
                        with T.If(y == i * 2), T.Then():
                            put()
                    else:
                        put()

        if tail == self.m.block:
            some(tail)
        elif self.blocks == 1:
            some(tail)
        else:
            with T.If(block == self.blocks - 1):
                with T.Then():
                    some(tail)
                with T.Else():
                    some(self.m.block)

    def _outputs(self, m, table, block, tile, first) -> list:
        """int32 sums of LANES channels from `first` on of the four outputs of a tile."""
        n, per = LANES * self.wide // self.m.block, self.wide // self.m.block

        def load(position):
            at = (position * self.held + tile) * self.wide + first * per
            return T.bind(m[T.ramp(at, 1, n)])

        out = [None] * 4
        for i in range(4):
            m0, m1, m2, m3 = (load(i * 4 + j) for j in range(4))
            row = [T.bind(m0 + m1 + m2), T.bind(m1 - m2 - m3)]
            for s in range(2):
                if i < 3:
                    out[s] = row[s] if i == 0 else T.bind(out[s] + row[s])
                if i > 0:
                    out[2 + s] = row[s] if i == 1 else T.bind(out[2 + s] - row[s])
        if any(self.m.offset):
            out = [s + self._correction(table, block, k, first, n) for k, s in enumerate(out)]
        if self.m.widen is not None:
            out = [self.m.widen(T.bind(s)) for s in out]
        return [T.bind(T.shift_right(s, T.broadcast(T.int32(2), LANES))) for s in out]

    def _correction(self, table, block, k, first, n):
        at = self.epilogue.table.size + (k * self.blocks + block) * self.m.block + first
        entry = table[T.ramp(at, 1, LANES)]
        return entry if n == LANES else T.reinterpret(entry, dtype=f"int16x{n}")


def _apart(a, b, c, d) -> tuple:
    """B^T of four values."""
    return a - c, b + c, c - b, b - d
