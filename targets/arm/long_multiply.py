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


def _sums(codes: Any, filters: Any, pixels: int, kh: int, k16: int, chain: int) -> list[list[Any]]:
    """Lanes of a sum are added together at the end."""
    acc = zeros(pixels * QUAD, "int32", 4)

    def widen(i: int, sums: Any) -> None:
        at = T.ramp(i * 4, 1, 4)
        T.buffer_store(acc, acc[at] + neon("saddlp.v4i32.v8i16", "int32x4", sums), [at])

    def operands(dy: Any, k: Any) -> tuple[list[Any], list[Any]]:
        ws = [filters((dy * k16 + k) * QUAD + c) for c in range(QUAD)]
        return [codes(p, dy, k * 16) for p in range(pixels)], ws

    def one(dy: Any, k: Any) -> None:
        """One vector, widened at once."""
        xs, ws = operands(dy, k)
        for p in range(pixels):
            for c in range(QUAD):
                low, high = _products(xs[p], ws[c])
                for part in (low, high) if chain == 1 else (low + high,):
                    widen(p * QUAD + c, part)

    def several(dy: Any, first: Any, count: int) -> None:
        """Products of `count` vectors added in int16."""
        sums = zeros(pixels * QUAD, "int16", 8)
        with T.serial(count) as k:
            xs, ws = operands(dy, first + k)
            for p in range(pixels):
                for c in range(QUAD):
                    at, (low, high) = T.ramp((p * QUAD + c) * 8, 1, 8), _products(xs[p], ws[c])
                    T.buffer_store(sums, sums[at] + low + high, [at])
        for i in range(pixels * QUAD):
            widen(i, sums[T.ramp(i * 8, 1, 8)])

    run = chain // 2  # whole vectors that fit one int16 chain
    with T.serial(kh) as dy:
        if run <= 1:
            with T.serial(k16) as k:
                one(dy, k)
        else:
            whole, rest = divmod(k16, run)
            if whole:
                with T.serial(whole) as c:
                    several(dy, c * run, run)
            if rest:
                several(dy, whole * run, rest)

    def pair(a: Any, b: Any) -> Any:
        return neon("addp.v4i32", "int32x4", a, b)

    lanes = [acc[T.ramp(i * 4, 1, 4)] for i in range(pixels * QUAD)]
    return [[pair(pair(*lanes[p * 4 : p * 4 + 2]), pair(*lanes[p * 4 + 2 : p * 4 + 4]))] for p in range(pixels)]
