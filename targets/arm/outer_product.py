"""Dense convolution of few bits by smlal (A72): a code of each of 4 pixels times the weights of 16 channels.

Lanes are channels, so nothing is added across them and K need not fill vectors of 16. Sums stay in int16 as long as the
real weights allow, often to the end: then half of the sums' registers and of what follows them is saved.
"""

import bisect
import math
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.arm import long_multiply
from targets.arm.epilogue import QUAD, lanes_of
from targets.arm.tile import Multiply, PixelRuns, Window, applies, rows_of, signed, tiled, zeros
from targets.cpu.epilogue import Epilogues
from targets.kernel import Kernel, Step

PIXELS, CHANNELS, STEP = 4, 16, 8  # bytes of K
SHORTEST = 2  # run of steps in int16 that pays


def longest_run(weight: np.ndarray, qmax: int) -> int:
    """Returns how many consecutive steps of codes 0..qmax fit int16 in every channel; 0: not even one.

    The steps are those of all kernel rows in turn. weight: int8 [blocks, channels, kH, K].
    """
    rows = weight.astype(np.int64).reshape(-1, weight.shape[2] * weight.shape[3] // STEP, STEP) * qmax
    ends = [np.maximum(rows, 0).sum(2), -np.minimum(rows, 0).sum(2)]
    sums = np.stack([np.concatenate([np.zeros_like(e[:, :1]), np.cumsum(e, 1)], 1) for e in ends])
    count = rows.shape[1]

    def exceeds(n: int) -> bool:
        return (sums[:, :, n:] - sums[:, :, : count + 1 - n]).max() > long_multiply.INT16_MAX

    return bisect.bisect_left(range(1, count + 1), True, key=exceeds)


def cycles(step: Step[Any]) -> float:
    """Returns about how many cycles the kernel takes; infinity where it does not apply.

    They are 8 products a cycle, and 16 sums to requantize.
    """
    weight = rows_of(step.node.weight, CHANNELS, STEP)
    _, _, kh, k = weight.shape
    if not signed(step) or longest_run(weight, step.reads[0].tensor.qmax) < SHORTEST:
        return math.inf
    halves = -(-step.write.tensor.shape[2] // 8)  # those of a block that nobody wants are not computed
    return PixelRuns.of(step, PIXELS).computed * halves * (kh * k + 10)


def outer_product(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense convolution by outer products, where it takes less than long multiplies.

    Weights are stored [block][kH][K][16 channels].
    """
    if not applies(step) or cycles(step) >= long_multiply.cycles(step):
        return None
    weight = rows_of(step.node.weight, CHANNELS, STEP)
    blocks, _, kh, k = weight.shape
    run = longest_run(weight, step.reads[0].tensor.qmax)
    whole = run == kh * k // STEP

    def sums(codes: Any, filters: Any, pixels: int) -> list[list[Any]]:
        if whole:
            return _quads(_int16(codes, filters, pixels, k, (0, kh), (0, k // STEP)))
        return _sums(codes, filters, pixels, kh, k, min(run, k // STEP))

    rule = f"outer product, int16 {'throughout' if whole else f'chain {run * STEP}'}"
    packed = weight.transpose(0, 2, 3, 1).reshape(blocks, -1, 16)
    return tiled(step, epilogues, rule, Multiply(PIXELS, CHANNELS, sums, whole), packed, Window(step, STEP))


def _int16(codes: Any, filters: Any, pixels: int, k: int, rows: tuple, steps: tuple) -> list[list[Any]]:
    """int16x8 sums [pixels][halves] of some kernel rows, (first, count), and steps of each."""
    sums, (first, count) = zeros(pixels * 2, "int16", 8), steps
    wide = 2 if count % 2 == 0 and k % (2 * STEP) == 0 else 1  # steps read at once
    with T.grid(rows[1], count // wide) as (dy, s):
        dy, at = rows[0] + dy, (first + s * wide) * STEP
        xs = [T.bind(codes(p, dy, at, STEP * wide)) for p in range(pixels)]
        for i in range(STEP * wide):
            w = T.bind(filters(dy * k + at + i))
            halves = [T.bind(T.cast(lanes_of(w, h, 8), "int16x8")) for h in (0, 8)]
            for p in range(pixels):
                x = T.bind(T.cast(T.Shuffle([xs[p]], [i] * 8), "int16x8"))
                for h in range(2):
                    lane = T.ramp((p * 2 + h) * 8, 1, 8)
                    T.buffer_store(sums, sums[lane] + x * halves[h], [lane])
    return [[sums[T.ramp((p * 2 + h) * 8, 1, 8)] for h in range(2)] for p in range(pixels)]


def _quads(sums: list[list[Any]]) -> list[list[Any]]:
    return [[lanes_of(half, i, QUAD) for half in pixel for i in (0, QUAD)] for pixel in sums]


def _sums(codes: Any, filters: Any, pixels: int, kh: int, k: int, run: int) -> list[list[Any]]:
    """Runs of so many steps of a kernel row in int16, then in int32."""
    acc = zeros(pixels * 4, "int32", QUAD)

    def several(dy: Any, first: Any, count: int) -> None:
        for i, half in enumerate(
            q for pixel in _quads(_int16(codes, filters, pixels, k, (dy, 1), (first, count))) for q in pixel
        ):
            at = T.ramp(i * QUAD, 1, QUAD)
            T.buffer_store(acc, acc[at] + T.cast(half, "int32x4"), [at])

    whole, rest = divmod(k // STEP, run)
    with T.serial(kh) as dy:
        if whole:
            with T.serial(whole) as c:
                several(dy, c * run, run)
        if rest:
            several(dy, whole * run, rest)
    return [[acc[T.ramp((p * 4 + q) * QUAD, 1, QUAD)] for q in range(4)] for p in range(pixels)]
