"""Dense convolution by smull and smlal (A72): 4 pixels by 4 channels, 16 neighbouring bytes of a pixel row at a time.

`chain` products are added in int16 before sadalp widens them, as many as the layer's real weights allow: one may stand
alone, two are one vector of 16 bytes, and few bits leave room for more.
"""

from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.arm.epilogue import QUAD, lanes_of, neon
from targets.arm.tile import Multiply, PixelRuns, Window, applies, gathered, rows_of, tiled, zeros
from targets.cpu.epilogue import Epilogues
from targets.kernel import Kernel, Step

INT16_MAX = (1 << 15) - 1
PIXELS = 4


def longest_chain(weight: np.ndarray, largest: int) -> int:
    """Returns how many long multiplies in a row fit an int16 lane, codes within +-largest.

    It is a number of half vectors, at most those of one kernel row; every run of that length is checked. weight: int8
    [blocks, channels, kH, K].
    """
    lanes = np.abs(weight.astype(np.int64)).reshape(-1, weight.shape[-1] // 8, 8) * largest
    sums = np.concatenate([np.zeros_like(lanes[:, :1]), np.cumsum(lanes, 1)], 1)
    chain = 1
    while chain < lanes.shape[1] and (sums[:, chain + 1 :] - sums[:, : -chain - 1]).max() <= INT16_MAX:
        chain += 1
    return chain


def cycles(step: Step[Any]) -> float:
    """Returns about how many cycles the kernel takes: 8 products a cycle, and sums to add across lanes."""
    o, kh, kw, i = step.node.weight.shape
    k = 16 * -(-kh * kw * i // 16) if gathered(step.node.weight, 16) else 16 * kh * -(-kw * i // 16)
    return PixelRuns.of(step, PIXELS).computed * -(-o // QUAD) * (k * QUAD / 8 + 14)


def long_multiply(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense convolution by long multiplies.

    Weights are stored [block][kH][16 bytes of K][4 channels][16 bytes].
    """
    if not applies(step):
        return None
    weight, qmax = rows_of(step.node.weight, QUAD, 16), step.reads[0].tensor.qmax
    blocks, _, kh, k = weight.shape
    chain = longest_chain(weight, qmax if qmax < 128 else 128)
    packed = weight.reshape(blocks, QUAD, kh, k // 16, 16).transpose(0, 2, 3, 1, 4)

    def sums(codes: Any, filters: Any, pixels: int) -> list[list[Any]]:
        return _sums(codes, filters, pixels, kh, k // 16, chain)

    tile = Multiply(PIXELS, QUAD, sums)
    return tiled(
        step, epilogues, f"long multiply, int16 chain {chain}", tile, packed.reshape(blocks, -1, 16), Window(step, 16)
    )


def _products(x: Any, w: Any) -> list[Any]:
    """int16x8 of both halves."""
    return [T.cast(lanes_of(x, h, 8), "int16x8") * T.cast(lanes_of(w, h, 8), "int16x8") for h in (0, 8)]


class _Tile:
    """Sums of a tile of `pixels` pixels by QUAD channels; lanes of a sum are added together at the end."""

    def __init__(self, codes: Any, filters: Any, pixels: int, k16: int):
        self.codes, self.filters, self.pixels, self.k16 = codes, filters, pixels, k16
        self.acc = zeros(pixels * QUAD, "int32", 4)

    def add_row(self, dy: Any, chain: int) -> None:
        """Adds the products of a row of the kernel; so many products may be added in int16."""
        run = chain // 2  # whole vectors that fit one int16 chain
        if run <= 1:
            with T.serial(self.k16) as k:
                self._add_one(dy, k, chain)
            return
        whole, rest = divmod(self.k16, run)
        if whole:
            with T.serial(whole) as c:
                self._add_several(dy, c * run, run)
        if rest:
            self._add_several(dy, whole * run, rest)

    def totals(self) -> list[list[Any]]:
        """Returns int32x4 vectors of channels, one in a list for each pixel."""
        lanes = [self.acc[T.ramp(i * 4, 1, 4)] for i in range(self.pixels * QUAD)]
        fours = [lanes[p * QUAD : (p + 1) * QUAD] for p in range(self.pixels)]
        return [[_pair(_pair(a, b), _pair(c, d))] for a, b, c, d in fours]

    def _operands(self, dy: Any, k: Any) -> tuple[list[Any], list[Any]]:
        ws = [self.filters((dy * self.k16 + k) * QUAD + c) for c in range(QUAD)]
        return [self.codes(p, dy, k * 16) for p in range(self.pixels)], ws

    def _widen(self, i: int, sums: Any) -> None:
        at = T.ramp(i * 4, 1, 4)
        T.buffer_store(self.acc, self.acc[at] + neon("saddlp.v4i32.v8i16", "int32x4", sums), [at])

    def _add_one(self, dy: Any, k: Any, chain: int) -> None:
        """One vector, widened at once."""
        xs, ws = self._operands(dy, k)
        for p in range(self.pixels):
            for c in range(QUAD):
                low, high = _products(xs[p], ws[c])
                for part in (low, high) if chain == 1 else (low + high,):
                    self._widen(p * QUAD + c, part)

    def _add_several(self, dy: Any, first: Any, count: int) -> None:
        """Products of `count` vectors added in int16."""
        sums = zeros(self.pixels * QUAD, "int16", 8)
        with T.serial(count) as k:
            xs, ws = self._operands(dy, first + k)
            for p in range(self.pixels):
                for c in range(QUAD):
                    at, (low, high) = T.ramp((p * QUAD + c) * 8, 1, 8), _products(xs[p], ws[c])
                    T.buffer_store(sums, sums[at] + low + high, [at])
        for i in range(self.pixels * QUAD):
            self._widen(i, sums[T.ramp(i * 8, 1, 8)])


def _pair(a: Any, b: Any) -> Any:
    return neon("addp.v4i32", "int32x4", a, b)


def _sums(codes: Any, filters: Any, pixels: int, kh: int, k16: int, chain: int) -> list[list[Any]]:
    tile = _Tile(codes, filters, pixels, k16)
    with T.serial(kh) as dy:
        tile.add_row(dy, chain)
    return tile.totals()
