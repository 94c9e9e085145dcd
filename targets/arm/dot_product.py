"""Dense convolution by sdot (A76, A78AE): 8 pixels by 8 channels, or 4 by 16, four neighbouring bytes at a time."""

from typing import Any

from tvm.tirx.script import builder as T

from targets.arm.epilogue import QUAD, neon
from targets.arm.tile import Multiply, PixelRuns, Window, applies, rows_of, tiled, zeros
from targets.cpu.epilogue import Epilogues
from targets.kernel import Kernel, Step

TILES = ((4, 16), (8, 8))  # pixels, channels: 16 accumulators


def tile_of(step: Step[Any]) -> tuple[int, int]:
    """Returns the tile that computes least beyond the map's edge; of two the one with fewer loads of codes."""

    def work(tile: tuple[int, int]) -> int:
        return PixelRuns.of(step, tile[0]).computed * -(-step.write.tensor.shape[2] // tile[1]) * tile[1]

    return min(TILES, key=work)


def dot_product(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense convolution by sdot.

    Weights are stored [block][kH][four bytes of K][quad][4 channels][4 bytes].
    """
    if not applies(step):
        return None
    pixels, channels = tile_of(step)
    weight = rows_of(step.node.weight, channels, 4)
    blocks, _, kh, k = weight.shape
    fours, quads = k // 4, channels // QUAD
    packed = weight.reshape(blocks, quads, QUAD, kh, fours, 4).transpose(0, 3, 4, 1, 2, 5)

    def sums(codes: Any, filters: Any, pixels: int) -> list[list[Any]]:
        return _sums(codes, filters, pixels, quads, kh, fours)

    return tiled(
        step,
        epilogues,
        "dot product",
        Multiply(pixels, channels, sums),
        packed.reshape(blocks, -1, 16),
        Window(step, 4),
    )


def _sums(codes: Any, filters: Any, pixels: int, quads: int, kh: int, fours: int) -> list[list[Any]]:
    acc = zeros(pixels * quads, "int32", 4)
    whole, rest = divmod(fours, 4)

    def add(dy: Any, four: Any, count: int) -> None:
        """`count` times four bytes, from the vector that begins with number `four` on."""
        xs = [T.bind(T.reinterpret(codes(p, dy, four * 4), dtype="int32x4")) for p in range(pixels)]
        for k in range(count):
            for quad in range(quads):
                w = T.bind(filters((dy * fours + four + k) * quads + quad))
                for p in range(pixels):
                    at = T.ramp((p * quads + quad) * 4, 1, 4)
                    same = T.reinterpret(T.Shuffle([xs[p]], [k] * 4), dtype="int8x16")
                    T.buffer_store(acc, neon("sdot.v4i32.v16i8", "int32x4", acc[at], w, same), [at])

    with T.serial(kh) as dy:
        if whole:
            with T.serial(whole) as k16:
                add(dy, k16 * 4, 4)
        if rest:
            add(dy, whole * 4, rest)
    return [[acc[T.ramp((p * quads + q) * 4, 1, 4)] for q in range(quads)] for p in range(pixels)]
