"""Dense convolution of 2-bit weights by table look-up on AVX2: one vpshufb makes 64 multiply-adds.

Two neighbouring codes choose a row of sixteen bytes, the sums of products with every pair of weights; the pair of
weights of each of 32 channels chooses a byte of it. Rows are added in int8 as long as the layer's real weights allow,
then in int16, which must hold the whole sum. Codes are turned into the places of their rows once for each row of the
output. Byte 2i of a register is channel i of its 32, byte 2i + 1 is channel 16 + i, so that both halves widen in order.
"""

from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import LANES, over_rows
from targets.kernel import Buffers, Kernel, Span, Step
from targets.reference.nodes import Conv
from targets.x86.chains import INT8, INT16, fits, longest_run
from targets.x86.epilogue import intrinsic

WIDTH = 32  # channels of a register
INDEX_BITS = 5  # an index 0..15 as a signed number
SCRATCH = 1 << 16  # bytes of stack for the rows that a row of the output reads
LEAST_RUN = 8  # shorter runs in int8 spend too much on widening
ACCUMULATORS = 8  # registers of sums in a tile


def look_up(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense convolution of 2-bit weights and codes of at most 4 bits, where sums in int8 are long enough to pay."""
    node = step.node
    if not isinstance(node, Conv) or node.groups > 1 or node.w_bits > 2 or step.write.tensor.shape[2] % WIDTH:
        return None
    x = step.reads[0]
    pairs, bits = paired(node.weight), x.tensor.bits
    if pairs is None or bits > 4 or node.weight.shape[1] * _stride(step) * 2 > SCRATCH:
        return None
    bounds = (np.maximum(pairs, 0).sum(-1) * x.tensor.qmax, np.minimum(pairs, 0).sum(-1) * x.tensor.qmax)
    run = longest_run(*bounds, INT8)
    if run < LEAST_RUN or not fits(*bounds, INT16):
        return None
    return _kernel(step, epilogues, pairs, run)


def wide_look_up(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Look-up where it beats byte dot products, too: a row that is loaded once serves at least 64 channels."""
    return look_up(step, epilogues) if step.write.tensor.shape[2] % (2 * WIDTH) == 0 else None


def paired(weight: np.ndarray) -> np.ndarray | None:
    """Returns int64 [O, kH, K2, 2] of weights [O, kH, kW, I]; None where a pixel has an odd number of codes."""
    o, kh, kw, i = weight.shape
    return weight.astype(np.int64).reshape(o, kh, kw * i // 2, 2) if i % 2 == 0 else None


def rows(bits: int) -> np.ndarray:
    """Returns int8 [4**bits, 16]: sums of products of a pair of codes (the first in the low bits) and of weights."""
    codes, index = np.arange(1 << 2 * bits)[:, None], np.arange(16)

    def weight(w: np.ndarray) -> np.ndarray:
        """Two bits as a number in two's complement."""
        return (w & 3) - 4 * (w >> 1 & 1)

    return ((codes & (1 << bits) - 1) * weight(index) + (codes >> bits) * weight(index >> 2)).astype(np.int8)


def arrange(pairs: np.ndarray, registers: int) -> np.ndarray:
    """Returns int8 [blocks, kH, K2, registers, 32], places in a row, of pairs int64 [O, kH, K2, 2]."""
    _, kh, k2, _ = pairs.shape
    index = (pairs[..., 0] & 3 | (pairs[..., 1] & 3) << 2).astype(np.int8)
    return index.reshape(-1, registers, 2, LANES, kh, k2).transpose(0, 4, 5, 1, 3, 2)


def _stride(step: Step) -> int:
    """Pairs of a row of the input, rounded up to whole registers."""
    return -(-step.reads[0].row_stride // WIDTH) * LANES


def _tile(ow: int, blocks: int) -> tuple[int, int]:
    """Pixels and registers of channels of the tile that takes the fewest instructions over a row of the output.

    A step loads a place and a row for each pixel and a register of indices for each of channels.
    """
    tiles = [(min(ACCUMULATORS // r, ow), r) for r in (1, 2, 4) if blocks % r == 0]
    return min(tiles, key=lambda t: -(-ow // t[0]) * (blocks // t[1]) * (2 * t[0] + t[1] + 2 * t[0] * t[1]))


def _kernel(step: Step, epilogues: Epilogues, pairs: np.ndarray, run: int) -> Kernel:
    node, x, (oh, ow, o) = step.node, step.reads[0], step.write.tensor.shape
    kh, k2 = pairs.shape[1:3]
    (tile, registers), stride = _tile(ow, o // WIDTH), _stride(step)
    table = rows(x.tensor.bits).view(np.int32).reshape(-1)
    epilogue, index = epilogues.conv(step, base=table.size), arrange(pairs, registers)
    pixel = node.stride[1] * x.tensor.shape[2] // 2

    def prepare(codes, scratch, y):
        """int16: where the row of each pair of codes begins in the table."""
        ones = T.reinterpret(T.broadcast(T.int16(1 + (1 << 8 + x.tensor.bits)), LANES), dtype="uint8x32")
        with T.grid(kh, stride // LANES) as (dy, j):
            at = x.at(y * node.stride[0] + dy - node.padding[0], -x.border[1]) + j * WIDTH
            signed = T.reinterpret(codes[T.ramp(at, 1, WIDTH)], dtype="int8x32")
            pair = intrinsic("x86.avx2.pmadd.ub.sw", "int16x16", ones, signed)
            T.buffer_store(
                scratch, T.shift_left(pair, T.broadcast(T.int16(2), LANES)), [T.ramp(dy * stride + j * LANES, 1, LANES)]
            )

    def block(buffers: Buffers, scratch: Any, y: Any, x0: Any, b: Any) -> None:
        first = (x0 * node.stride[1] - node.padding[1] + x.border[1]) * (x.tensor.shape[2] // 2)

        def products(dy, k):
            at = ((b * kh + dy) * k2 + k) * registers * WIDTH
            w = [buffers.weights[T.ramp(at + c * WIDTH, 1, WIDTH)] for c in range(registers)]
            for p in range(tile):
                place = T.cast(scratch[dy * stride + first + p * pixel + k], "int32")
                quad = T.bind(buffers.table[T.ramp(place, 1, 4)])
                row = T.bind(T.reinterpret(T.Shuffle([quad, quad], list(range(8))), dtype="int8x32"))
                for c in range(registers):
                    yield p * registers + c, intrinsic("x86.avx2.pshuf.b", "int8x32", row, w[c])

        sums = _sums(products, tile * registers, (kh, k2), run)
        for p in range(tile):
            for half in range(registers * 2):
                acc = T.cast(sums[T.ramp((p * registers * 2 + half) * LANES, 1, LANES)], "int32x16")
                epilogue.put(acc, buffers, Span(y, x0 + p, (b * registers * 2 + half) * LANES, LANES, LANES))

    def row(buffers: Buffers, y: Any) -> None:
        scratch = T.alloc_buffer((kh * stride,), "int16", scope="local", annotations={"disable_lower_builtin": True})
        prepare(buffers.reads[0], scratch, y)
        with T.grid(o // (registers * WIDTH), -(-ow // tile)) as (b, t):
            block(buffers, scratch, y, T.min(t * tile, ow - tile), b)

    return Kernel(
        f"look-up, int8 run {run}{epilogue.note}",
        index.reshape(-1),
        INDEX_BITS,
        np.concatenate([table, epilogue.table]),
        over_rows(step, row),
        oh,
    )


def _registers(count: int, dtype: str, lanes: int):
    buffer = T.alloc_buffer((count * lanes,), dtype, scope="local", annotations={"disable_lower_builtin": True})
    for v in range(count):
        T.buffer_store(buffer, T.broadcast(T.cast(0, dtype), lanes), [T.ramp(v * lanes, 1, lanes)])
    return buffer


def _sums(products, count: int, extent: tuple[int, int], run: int):
    """int16 [count, 2, 16]: everything that products(dy, k) yields, added in int8 for `run` steps at a time."""
    words, (kh, k2) = _registers(count * 2, "int16", LANES), extent

    def widen(sums):
        for v in range(count):
            for half in range(2):
                one = T.reinterpret(T.broadcast(T.int16(1 << 8 * half), LANES), dtype="uint8x32")
                at = T.ramp((v * 2 + half) * LANES, 1, LANES)
                value = intrinsic("x86.avx2.pmadd.ub.sw", "int16x16", one, sums[T.ramp(v * WIDTH, 1, WIDTH)])
                T.buffer_store(words, words[at] + value, [at])

    def add(loops, position):
        sums = _registers(count, "int8", WIDTH)
        with T.grid(*loops) as indices:
            for v, value in products(*position(*(indices if len(loops) > 1 else [indices]))):
                at = T.ramp(v * WIDTH, 1, WIDTH)
                T.buffer_store(sums, sums[at] + value, [at])
        widen(sums)

    if run >= kh * k2:
        add(extent, lambda dy, k: (dy, k))
        return words
    whole, rest = divmod(k2, run)
    with T.serial(kh) as dy:
        if whole:
            with T.serial(whole) as c:
                add((run,), lambda k: (dy, c * run + k))
        if rest:
            add((rest,), lambda k: (dy, whole * run + k))
    return words
