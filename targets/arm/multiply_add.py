"""Dense convolution on NEON, 16 neighbouring bytes of a pixel row at a time, exact for every weight and code.

    dot product (A76, A78AE)   sdot: 8 pixels by 8 channels, int32 sums at once
    long multiplies (A72)      smull, smlal: 4 pixels by 4 channels; `chain` products are added in int16 before sadalp
                               widens them, as many as the layer's real weights allow

Both multiply signed bytes. Codes of 8 bits do not fit one, so 128 is taken off them (an exclusive or) and put back
through the bias.
"""

import numpy as np
from tvm.tirx.script import builder as T

from compile.graph import Conv
from targets.epilogue import ConvEpilogue, Epilogues, RatioEpilogue
from targets.kernel import Kernel, Step
from targets.vector import over_rows, splat

INT16_MAX = (1 << 15) - 1
QUAD = 4  # channels finished together


def arrange(weight: np.ndarray, channels: int) -> np.ndarray:
    """int8 [blocks, channels, kH, K16, 16] of weights [O, kH, kW, I], zeros where there is nothing."""
    o, kh, kw, i = weight.shape
    blocks, k16 = -(-o // channels), -(-kw * i // 16)
    full = np.zeros((blocks * channels, kh, k16 * 16), np.int8)
    full[:o, :, : kw * i] = weight.reshape(o, kh, kw * i)
    return full.reshape(blocks, channels, kh, k16, 16)


def longest_chain(weight: np.ndarray, largest: int) -> int:
    """How many long multiplies in a row fit an int16 lane, codes within +-largest: a number of half vectors, at most
    those of one kernel row. Every run of that length is checked."""
    lanes = np.abs(weight.astype(np.int64)).reshape(-1, weight.shape[3] * 2, 8) * largest
    sums = np.concatenate([np.zeros_like(lanes[:, :1]), np.cumsum(lanes, 1)], 1)
    chain = 1
    while chain < lanes.shape[1] and (sums[:, chain + 1 :] - sums[:, : -chain - 1]).max() <= INT16_MAX:
        chain += 1
    return chain


def dot_product(step: Step, epilogues: Epilogues) -> Kernel | None:
    return _kernel(step, epilogues, "dot product", 8, 8, _dot) if _applies(step) else None


def long_multiply(step: Step, epilogues: Epilogues) -> Kernel | None:
    if not _applies(step):
        return None
    chain = longest_chain(arrange(step.node.weight, QUAD), _largest(step))
    return _kernel(step, epilogues, f"long multiply, int16 chain {chain}", 4, QUAD, lambda *a: _long(*a, chain=chain))


def _applies(step: Step) -> bool:
    return isinstance(step.node, Conv) and step.node.groups == 1


def _largest(step: Step) -> int:
    """Largest magnitude of a code as a signed byte."""
    qmax = step.reads[0].tensor.qmax
    return qmax if qmax < 128 else 128


def _kernel(step: Step, epilogues: Epilogues, rule: str, tile: int, channels: int, sums) -> Kernel:
    node, (oh, ow, o) = step.node, step.write.tensor.shape
    weight = arrange(node.weight, channels)
    blocks, _, kh, k16, _ = weight.shape
    if sums is _dot:  # [.., K16, 4 fours, 2 quads, 4 channels, 4 bytes]
        packed = weight.reshape(blocks, 2, QUAD, kh, k16, 4, 4).transpose(0, 3, 4, 5, 1, 2, 6)
    else:  # [.., K16, 4 channels, 16 bytes]
        packed = weight.transpose(0, 2, 3, 1, 4)
    signed = step.reads[0].tensor.qmax < 128
    epilogue, tile = epilogues.conv(step, offset=0 if signed else 128), min(tile, ow)

    def block(reads, writes, weights, table, y, x0, b, count):
        def code(p, dy, k):
            at = (
                step.reads[0].at(y * node.stride + dy - node.padding[0], (x0 + p) * node.stride - node.padding[1])
                + k * 16
            )
            x = reads[0][T.ramp(at, 1, 16)]
            return T.reinterpret(x if signed else T.bitwise_xor(x, T.broadcast(T.uint8(128), 16)), dtype="int8x16")

        def filters(dy, k, v):
            return weights[T.ramp((((b * kh + dy) * k16 + k) * channels + v) * 16, 1, 16)]

        for (p, quad), acc in sums(code, filters, tile, kh, k16):
            first = b * channels + quad * QUAD
            if quad * QUAD < count:
                epilogue.put(acc, reads, writes, table, y, x0 + p, first, min(QUAD, count - quad * QUAD),
                             lanes=QUAD)

    def row(reads, writes, weights, table, y):
        with T.serial(-(-ow // tile)) as t:
            x0 = T.min(t * tile, ow - tile)
            if blocks > 1:
                with T.serial(blocks - 1) as b:
                    block(reads, writes, weights, table, y, x0, b, channels)
            block(reads, writes, weights, table, y, x0, blocks - 1, o - (blocks - 1) * channels)

    return Kernel(rule, packed.reshape(-1), node.w_bits, epilogue.table, over_rows(step, row), oh)


def requantize(acc, multiplier, half, shift, node, zero_point: int, lanes: int):
    """targets/vector.py: requantize, in two instructions: doubling high multiply and rounding shift."""
    if lanes > 4:
        vectors = [T.bind(v) for v in (acc, multiplier, half, shift)]
        quads = [[T.Shuffle([v], list(range(i, i + 4))) for v in vectors] for i in range(0, lanes, 4)]
        return T.Shuffle([requantize(*quad, node, zero_point, 4) for quad in quads], list(range(lanes)))
    call = lambda name, a, b: T.call_llvm_pure_intrin(  # noqa: E731
        T.llvm_lookup_intrinsic_id(f"llvm.aarch64.neon.{name}.v4i32"), a, b, dtype="int32x4"
    )
    code = call("srshl", call("sqdmulh", acc, multiplier), splat(0, lanes) - shift) + splat(zero_point, lanes)
    return T.max(T.min(code, splat(node.qmax, lanes)), splat(node.qmin, lanes))


class NeonRatio(RatioEpilogue):
    requantize = staticmethod(requantize)


class NeonConv(ConvEpilogue):
    requantize = staticmethod(requantize)
    ratio = NeonRatio


EPILOGUES = Epilogues(NeonConv, NeonRatio)


def _registers(count: int, dtype: str, lanes: int):
    """`count` zeroed vectors that LLVM keeps in registers."""
    buffer = T.alloc_buffer((count * lanes,), dtype, scope="local", annotations={"disable_lower_builtin": True})
    for v in range(count):
        T.buffer_store(buffer, T.broadcast(T.cast(0, dtype), lanes), [T.ramp(v * lanes, 1, lanes)])
    return buffer


def _dot(code, filters, tile: int, kh: int, k16: int) -> list:
    """((pixel, quad), int32x4) for 8 channels."""
    acc = _registers(tile * 2, "int32", 4)
    sdot = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.sdot.v4i32.v16i8")
    with T.grid(kh, k16) as (dy, k):
        xs = [T.reinterpret(code(p, dy, k), dtype="int32x4") for p in range(tile)]
        for four in range(4):
            for quad in range(2):
                w = filters(dy, k, four * 2 + quad)
                for p in range(tile):
                    at = T.ramp((p * 2 + quad) * 4, 1, 4)
                    same = T.reinterpret(T.broadcast(T.Shuffle([xs[p]], [four]), 4), dtype="int8x16")
                    T.buffer_store(acc, T.call_llvm_pure_intrin(sdot, acc[at], same, w, dtype="int32x4"), [at])
    return [((p, quad), acc[T.ramp((p * 2 + quad) * 4, 1, 4)]) for p in range(tile) for quad in range(2)]


def _long(code, filters, tile: int, kh: int, k16: int, chain: int) -> list:
    """((pixel, 0), int32x4) for 4 channels: lanes of a sum are added together at the end."""
    acc = _registers(tile * QUAD, "int32", 4)
    half = lambda v, h: T.cast(T.Shuffle([v], list(range(h * 8, h * 8 + 8))), "int16x8")  # noqa: E731

    def widen(i, sums):
        at = T.ramp(i * 4, 1, 4)
        pairs = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.saddlp.v4i32.v8i16"), sums, dtype="int32x4"
        )
        T.buffer_store(acc, acc[at] + pairs, [at])

    def vectors(dy, ks):
        """Products of whole vectors ks, added in int16, then widened."""
        if isinstance(ks, int) or not isinstance(ks, tuple):
            xs, ws = [code(p, dy, ks) for p in range(tile)], [filters(dy, ks, c) for c in range(QUAD)]
            for p in range(tile):
                for c in range(QUAD):
                    low, high = (half(xs[p], h) * half(ws[c], h) for h in (0, 1))
                    if chain == 1:
                        widen(p * QUAD + c, low)
                        widen(p * QUAD + c, high)
                    else:
                        widen(p * QUAD + c, low + high)
            return
        sums = _registers(tile * QUAD, "int16", 8)
        first, count = ks
        with T.serial(count) as k:
            xs, ws = [code(p, dy, first + k) for p in range(tile)], [filters(dy, first + k, c) for c in range(QUAD)]
            for p in range(tile):
                for c in range(QUAD):
                    at = T.ramp((p * QUAD + c) * 8, 1, 8)
                    T.buffer_store(
                        sums, sums[at] + half(xs[p], 0) * half(ws[c], 0) + half(xs[p], 1) * half(ws[c], 1), [at]
                    )
        for i in range(tile * QUAD):
            widen(i, sums[T.ramp(i * 8, 1, 8)])

    run = chain // 2  # whole vectors that fit one int16 chain
    with T.serial(kh) as dy:
        if run <= 1:
            with T.serial(k16) as k:
                vectors(dy, k)
        else:
            whole, rest = divmod(k16, run)
            if whole:
                with T.serial(whole) as c:
                    vectors(dy, (c * run, run))
            if rest:
                vectors(dy, (whole * run, rest))
    lanes = [acc[T.ramp(i * 4, 1, 4)] for i in range(tile * QUAD)]
    addp = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.addp.v4i32")
    pair = lambda a, b: T.call_llvm_pure_intrin(addp, a, b, dtype="int32x4")  # noqa: E731
    return [((p, 0), pair(pair(*lanes[p * 4 : p * 4 + 2]), pair(*lanes[p * 4 + 2 : p * 4 + 4]))) for p in range(tile)]
