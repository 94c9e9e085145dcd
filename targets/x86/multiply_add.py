"""Dense convolution on AVX2's byte multiply-adds, exact by choice of route from the layer's real weights.

A register tile is 4 pixels by 16 channels, on AVX-512 up to 32 channels or 8 pixels. Four neighbouring bytes of a pixel
row are broadcast and multiplied with [8 channels][4 bytes] of weights, twice as many on AVX-512; NHWC makes the
kW * Cin bytes of a kernel row one run of memory. Tiles of a small map run on from row to row.

    VNNI         vpdpbusd sums four products in int32 at once: any 8 x 8 bits
    chain >= 1   vpmaddubsw sums pairs in int16; `chain` of them are added there before vpmaddwd widens to int32
    split        chain 1, after the few weights whose pairs would leave int16 have been cut (targets/x86/split.py)
    otherwise    even and odd bytes as int16, two vpmaddwd with widened weights: any 8 x 8 bits
"""

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import LANES, blocks
from targets.cpu.vector import registers as int32_registers
from targets.kernel import Kernel, Step
from targets.reference.nodes import Conv
from targets.x86.chains import INT16, longest_run
from targets.x86.split import Split, split
from targets.x86.tiles import over_tiles

ACCUMULATORS = 8  # registers of sums in a tile


def intrinsic(name: str, dtype: str, *args):
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.x86.{name}"), *args, dtype=dtype)


def arrange(weight: np.ndarray) -> np.ndarray:
    """int8 [blocks, kH, K4, 2, 8, 4] of weights [O, kH, kW, I], zeros where there is nothing."""
    o, kh, kw, i = weight.shape
    k4 = -(-kw * i // 4)
    full = np.zeros((blocks(o) * LANES, kh, k4 * 4), np.int8)
    full[:o, :, : kw * i] = weight.reshape(o, kh, kw * i)
    return full.reshape(-1, 2, 8, kh, k4, 4).transpose(0, 3, 4, 1, 2, 5)


def longest_chain(weight: np.ndarray, qmax: int) -> int:
    """How many steps of an arranged kernel fit one int16 sum whatever the codes (0..qmax); 0: not even one."""
    pairs = weight.astype(np.int64).reshape(*weight.shape[:5], 2, 2)  # [b, kH, K4, 2, 8, 2, 2]
    lanes = pairs.transpose(0, 3, 4, 5, 1, 2, 6).reshape(-1, *weight.shape[1:3], 2)
    return longest_run(np.maximum(lanes, 0).sum(-1) * qmax, np.minimum(lanes, 0).sum(-1) * qmax, INT16)


def multiply_add(step: Step, epilogues: Epilogues) -> Kernel | None:
    """AVX2: the route depends on the layer's real weights."""
    if not _applies(step):
        return None
    weight, qmax = arrange(step.node.weight), step.reads[0].tensor.qmax
    chain = longest_chain(weight, qmax)
    parts = None if chain else split(weight, qmax)
    if parts is not None:
        rule = f"multiply-add, split with {len(parts.extra)} extra steps"
        return _kernel(step, epilogues, parts.first, rule, lambda *sums: _sum(*sums, chain=1), parts)
    rule = f"multiply-add, int16 chain {chain}" if chain else "multiply-add, widened"
    return _kernel(step, epilogues, weight, rule, lambda *sums: _sum(*sums, chain=chain))


def dot_product(step: Step, epilogues: Epilogues) -> Kernel | None:
    """AVX-VNNI: 256 bits."""
    return _kernel(step, epilogues, arrange(step.node.weight), "dot product", _dot) if _applies(step) else None


def wide_dot_product(step: Step, epilogues: Epilogues) -> Kernel | None:
    """AVX-512 VNNI."""
    if not _applies(step):
        return None
    weight = arrange(step.node.weight)
    together = 2 if len(weight) % 2 == 0 else 1
    return _kernel(step, epilogues, weight, "wide dot product", _wide_dot, lanes=16, together=together)


def _applies(step: Step) -> bool:
    return isinstance(step.node, Conv) and step.node.groups == 1


def _kernel(
    step: Step,
    epilogues: Epilogues,
    weight: np.ndarray,
    rule: str,
    add_products,
    parts: Split | None = None,
    lanes: int = 8,
    together: int = 1,
) -> Kernel:
    """lanes: of an int32 register; together: blocks of 16 channels in a tile."""
    node, epilogue = step.node, epilogues.conv(step)
    nb, kh, k4 = weight.shape[:3]
    oh, ow, o = step.write.tensor.shape
    registers, x = together * LANES // lanes, step.reads[0]
    tile = min(ACCUMULATORS // registers, oh * ow)
    stored, values = weight.reshape(-1), [epilogue.table]
    if parts is not None:
        stored = np.concatenate([stored, parts.extra.reshape(-1)])
        values += [parts.starts, parts.positions @ [x.row_stride, 4]]
    values, places = np.concatenate(values).astype(np.int32), epilogue.table.size + 2 * nb + 1

    def block(reads, writes, weights, table, pixels, b, count):
        starts = [x.at(y * node.stride - node.padding[0], xx * node.stride - node.padding[1]) for y, xx in pixels]
        starts = [T.bind(start) for start in starts]
        acc = int32_registers(tile * registers * lanes // LANES)
        for v in range(tile * registers):
            T.buffer_store(acc, T.broadcast(T.int32(0), lanes), [T.ramp(v * lanes, 1, lanes)])

        def codes(place):
            """Four bytes of every pixel, in all lanes; `place` counts from the first byte under the kernel."""
            four = [reads[0][T.ramp(start + place, 1, 4)] for start in starts]
            return [T.broadcast(T.reinterpret(f, dtype="int32"), lanes) for f in four]

        def operands(dy, k):
            first = [((b * together + g) * kh + dy) * k4 * 64 + k * 64 for g in range(together)]
            ws = [weights[T.ramp(at + c * 4, 1, lanes * 4)] for at in first for c in range(0, LANES, lanes)]
            return codes(dy * x.row_stride + k * 4), ws

        add_products(acc, operands, tile, kh, k4)
        for v in range(2 if parts is not None else 0):
            half = epilogue.table.size + b * 2 + v
            with T.serial(table[half], table[half + 1]) as i:
                w = weights[T.ramp(weight.size + i * 32, 1, 32)]
                for p, four in enumerate(codes(table[places + i])):
                    at = T.ramp((p * 2 + v) * 8, 1, 8)
                    T.buffer_store(acc, acc[at] + _widened_pairs(_products(four, w)), [at])
        for p, (y, xx) in enumerate(pixels):
            for g in range(together):
                at = (p * together + g) * LANES
                vectors = [acc[T.ramp(at + c, 1, lanes)] for c in range(0, LANES, lanes)]
                sums = vectors[0] if lanes == LANES else T.Shuffle(vectors, list(range(LANES)))
                channel = (b * together + g) * LANES
                epilogue.put(sums, reads, writes, table, y, xx, channel, min(LANES, count - g * LANES))

    def work(reads, writes, weights, table, each):
        last, channels = nb // together - 1, together * LANES
        if last:
            with T.serial(last) as b:
                each(lambda pixels: block(reads, writes, weights, table, pixels, b, channels))
        each(lambda pixels: block(reads, writes, weights, table, pixels, last, o - last * channels))

    emit, units = over_tiles(step, tile, work)
    return Kernel(rule + epilogue.note, stored, node.w_bits, values, emit, units)


def _sum(acc, operands, tile: int, kh: int, k4: int, chain: int) -> None:
    """Adds all products of the kernel to the tile's int32 accumulators."""
    if chain == 0:
        with T.grid(kh, k4) as (dy, k):
            _widened(acc, operands, tile, dy, k)
    elif chain >= kh * k4:
        _chained(acc, operands, tile, (kh, k4), lambda dy, k: (dy, k))
    else:
        whole, rest = divmod(k4, chain)
        with T.serial(kh) as dy:
            if whole:
                with T.serial(whole) as c:
                    _chained(acc, operands, tile, (chain,), lambda k: (dy, c * chain + k))
            if rest:
                _chained(acc, operands, tile, (rest,), lambda k: (dy, whole * chain + k))


def _chained(acc, operands, tile: int, extent: tuple[int, ...], position) -> None:
    """One run of vpmaddubsw summed in int16, then widened into the int32 accumulators."""
    single = int(np.prod(extent)) == 1

    def widen(v, pairs):
        at = T.ramp(v * 8, 1, 8)
        T.buffer_store(acc, acc[at] + _widened_pairs(pairs), [at])

    if single:
        xs, ws = operands(*position(*(0 for _ in extent)))
        for v in range(tile * 2):
            widen(v, _products(xs[v // 2], ws[v % 2]))
        return
    sums = T.alloc_buffer((tile * 32,), "int16", scope="local", annotations={"disable_lower_builtin": True})
    for v in range(tile * 2):
        T.buffer_store(sums, T.broadcast(T.int16(0), 16), [T.ramp(v * 16, 1, 16)])
    with T.grid(*extent) as indices:
        xs, ws = operands(*position(*(indices if len(extent) > 1 else [indices])))
        for v in range(tile * 2):
            at = T.ramp(v * 16, 1, 16)
            T.buffer_store(sums, sums[at] + _products(xs[v // 2], ws[v % 2]), [at])
    for v in range(tile * 2):
        widen(v, sums[T.ramp(v * 16, 1, 16)])


def _products(x, w):
    """int16x16: sums of pairs of products of codes and weights."""
    return intrinsic("avx2.pmadd.ub.sw", "int16x16", T.reinterpret(x, dtype="uint8x32"), w)


def _widened_pairs(pairs):
    """int32x8: sums of pairs of an int16x16."""
    return intrinsic("avx2.pmadd.wd", "int32x8", pairs, T.broadcast(T.int16(1), 16))


def _widened(acc, operands, tile: int, dy, k) -> None:
    """Even and odd bytes apart, as int16: exact for every weight and code."""
    xs, ws = operands(dy, k)
    for v in range(2):
        pairs = T.reinterpret(ws[v], dtype="int16x16")
        odd = T.shift_right(pairs, T.broadcast(T.int16(8), 16))
        even = T.shift_right(T.shift_left(pairs, T.broadcast(T.int16(8), 16)), T.broadcast(T.int16(8), 16))
        for p in range(tile):
            x, at = T.reinterpret(xs[p], dtype="uint16x16"), T.ramp((p * 2 + v) * 8, 1, 8)
            low = T.reinterpret(T.bitwise_and(x, T.broadcast(T.uint16(255), 16)), dtype="int16x16")
            high = T.reinterpret(T.shift_right(x, T.broadcast(T.uint16(8), 16)), dtype="int16x16")
            pairs_of = [intrinsic("avx2.pmadd.wd", "int32x8", a, b) for a, b in ((low, even), (high, odd))]
            T.buffer_store(acc, acc[at] + pairs_of[0] + pairs_of[1], [at])


def _dot(acc, operands, tile: int, kh: int, k4: int, bits: int = 256) -> None:
    lanes = bits // 32
    with T.grid(kh, k4) as (dy, k):
        xs, ws = operands(dy, k)
        for p, x in enumerate(xs):
            for v, w in enumerate(ws):
                at = T.ramp((p * len(ws) + v) * lanes, 1, lanes)
                code = T.reinterpret(x, dtype=f"uint8x{bits // 8}")
                sums = intrinsic(f"avx512.vpdpbusd.{bits}", f"int32x{lanes}", acc[at], code, w)
                T.buffer_store(acc, sums, [at])


def _wide_dot(acc, operands, tile: int, kh: int, k4: int) -> None:
    _dot(acc, operands, tile, kh, k4, bits=512)
