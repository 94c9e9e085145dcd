"""Dense convolution on AVX2's byte multiply-adds, exact by choice of route from the layer's real weights.

A register tile is 4 pixels by 16 channels, on AVX-512 up to 32 channels or 8 pixels. Four neighbouring bytes of a pixel
row are broadcast and multiplied with [8 channels][4 bytes] of weights, twice as many on AVX-512; NHWC makes the
kW * Cin bytes of a kernel row one run of memory. Tiles of a small map run on from row to row.

    VNNI         vpdpbusd sums four products in int32 at once: any 8 x 8 bits
    chain >= 1   vpmaddubsw sums pairs in int16; `chain` of them are added there before vpmaddwd widens to int32
    split        chain 1, after the few weights whose pairs would leave int16 have been cut (targets/x86/split.py)
    otherwise    even and odd bytes as int16, two vpmaddwd with widened weights: any 8 x 8 bits
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogue, Epilogues
from targets.cpu.vector import LANES
from targets.cpu.vector import registers as int32_registers
from targets.kernel import Buffers, Kernel, Span, Step, is_step_of
from targets.reference.nodes import Conv
from targets.tables import blocks
from targets.x86.chains import INT16, longest_run
from targets.x86.split import Split, split
from targets.x86.tiles import Each, over_tiles

ACCUMULATORS = 8  # registers of sums in a tile

Operands = Callable[[Any, Any], tuple[list[Any], list[Any]]]  # (row, step) -> codes of every pixel, weights


def intrinsic(name: str, dtype: str, *args: Any) -> Any:
    """Returns a call of one of LLVM's x86 intrinsics."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.x86.{name}"), *args, dtype=dtype)


def at_most(value: Any, limit: int) -> Any:
    """Returns an int32 of the table, or the limit where it is larger or negative.

    A table is data: whatever it holds, kernels must not be led out of their buffers by it.
    """
    return T.cast(T.min(T.cast(value, "uint32"), T.uint32(limit)), "int32")


def arrange(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Returns int8 [blocks, kH, K4, 2, 8, 4] of weights [O, kH, kW, I], zeros where there is nothing."""
    o, kh, kw, i = weight.shape
    k4 = -(-kw * i // 4)
    full = np.zeros((blocks(o) * LANES, kh, k4 * 4), np.int8)
    full[:o, :, : kw * i] = weight.reshape(o, kh, kw * i)
    return full.reshape(-1, 2, 8, kh, k4, 4).transpose(0, 3, 4, 1, 2, 5)


def longest_chain(weight: npt.NDArray[np.int8], qmax: int) -> int:
    """Returns how many steps of an arranged kernel fit one int16 sum whatever the codes (0..qmax); 0: not even one.

    weight: int8 [blocks, kH, K4, 2, 8, 4].
    """
    pairs = weight.astype(np.int64).reshape(*weight.shape[:5], 2, 2)  # [b, kH, K4, 2, 8, 2, 2]
    lanes = pairs.transpose(0, 3, 4, 5, 1, 2, 6).reshape(-1, *weight.shape[1:3], 2)
    return longest_run(np.maximum(lanes, 0).sum(-1) * qmax, np.minimum(lanes, 0).sum(-1) * qmax, INT16)


def multiply_add(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense convolution on AVX2; the route depends on the layer's real weights."""
    if not _applies(step):
        return None
    weight, qmax = arrange(step.node.weight), step.reads[0].tensor.qmax
    chain = longest_chain(weight, qmax)
    parts = None if chain else split(weight, qmax)
    if parts is not None:
        rule = f"multiply-add, split with {parts.taken} extra steps"
        return _Emitter(step, epilogues.conv(step), parts.first, partial(_sum, chain=1), parts).kernel(rule)
    rule = f"multiply-add, int16 chain {chain}" if chain else "multiply-add, widened"
    return _Emitter(step, epilogues.conv(step), weight, partial(_sum, chain=chain)).kernel(rule)


def dot_product(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense convolution on AVX-VNNI, in 256 bits."""
    if not _applies(step):
        return None
    return _Emitter(step, epilogues.conv(step), arrange(step.node.weight), _dot).kernel("dot product")


def wide_dot_product(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense convolution on AVX-512 VNNI."""
    if not _applies(step):
        return None
    weight = arrange(step.node.weight)
    together = 2 if len(weight) % 2 == 0 else 1
    emitter = _Emitter(step, epilogues.conv(step), weight, _wide_dot, lanes=16, together=together)
    return emitter.kernel("wide dot product")


def _applies(step: Step[Any]) -> bool:
    return is_step_of(step, Conv) and step.node.groups == 1 and step.node.is_regular


@dataclass(frozen=True, eq=False)
class _Emitter:
    """Emits a tile's products and its end.

    weight: int8 [blocks, kH, K4, 2, 8, 4]. add_products(acc, operands, tile, kh, k4) adds all products of the kernel.
    lanes: of an int32 register; together: blocks of 16 channels in a tile.
    """

    step: Step[Conv]
    epilogue: Epilogue
    weight: npt.NDArray[np.int8]
    add_products: Callable[..., None]
    parts: Split | None = None
    lanes: int = 8
    together: int = 1

    @property
    def registers(self) -> int:
        """Registers of sums that a pixel takes."""
        return self.together * LANES // self.lanes

    @property
    def tile(self) -> int:
        """Pixels of a tile."""
        oh, ow, _ = self.step.write.tensor.shape
        return min(ACCUMULATORS // self.registers, oh * ow)

    def kernel(self, rule: str) -> Kernel:
        """Returns the kernel."""
        stored, values = self.weight.reshape(-1), [self.epilogue.table]
        if self.parts is not None:
            stored = np.concatenate([stored, self.parts.extra.reshape(-1)])
            values += [self.parts.starts, self.parts.positions @ [self.step.reads[0].row_stride, 4]]
        emit, units = over_tiles(self.step, self.tile, self._work)
        table = np.concatenate(values).astype(np.int32)
        return Kernel(rule + self.epilogue.note, stored, self.step.node.w_bits, table, emit, units)

    def _work(self, buffers: Buffers, each: Each) -> None:
        last, channels = len(self.weight) // self.together - 1, self.together * LANES
        if last:
            with T.serial(last) as b:
                each(lambda pixels: self._block(buffers, pixels, b, channels))
        rest = self.step.write.tensor.shape[2] - last * channels
        each(lambda pixels: self._block(buffers, pixels, last, rest))

    def _block(self, buffers: Buffers, pixels: Sequence[tuple[Any, Any]], b: Any, count: int) -> None:
        """The tile's sums for block b of channels, of which `count` exist."""
        node, x, lanes = self.step.node, self.step.reads[0], self.lanes
        _, kh, k4 = self.weight.shape[:3]
        starts = [x.at(y * node.stride[0] - node.padding[0], xx * node.stride[1] - node.padding[1]) for y, xx in pixels]
        starts = [T.bind(start) for start in starts]
        acc = int32_registers(self.tile * self.registers * lanes // LANES)
        for v in range(self.tile * self.registers):
            T.buffer_store(acc, T.broadcast(T.int32(0), lanes), [T.ramp(v * lanes, 1, lanes)])

        def codes(place: Any) -> list[Any]:
            """Four bytes of every pixel, in all lanes; `place` counts from the first byte under the kernel."""
            four = [buffers.reads[0][T.ramp(start + place, 1, 4)] for start in starts]
            return [T.broadcast(T.reinterpret(f, dtype="int32"), lanes) for f in four]

        def operands(dy: Any, k: Any) -> tuple[list[Any], list[Any]]:
            first = [((b * self.together + g) * kh + dy) * k4 * 64 + k * 64 for g in range(self.together)]
            places = [at + c * 4 for at in first for c in range(0, LANES, lanes)]
            return codes(dy * x.row_stride + k * 4), [buffers.weights[T.ramp(at, 1, lanes * 4)] for at in places]

        self.add_products(acc, operands, self.tile, kh, k4)
        if self.parts is not None:
            self._extra(acc, buffers, b, codes, len(self.parts.extra))
        self._end(acc, buffers, pixels, b, count)

    def _extra(self, acc: Any, buffers: Buffers, b: Any, codes: Callable[[Any], list[Any]], steps: int) -> None:
        """The steps that hold what was cut off the weights; `steps` of the whole layer."""
        _, kh, k4 = self.weight.shape[:3]
        last = (kh - 1) * self.step.reads[0].row_stride + (k4 - 1) * 4
        places = self.epilogue.table.size + 2 * len(self.weight) + 1
        for v in range(2):
            half = self.epilogue.table.size + b * 2 + v
            first, end = (at_most(buffers.table[at], steps) for at in (half, half + 1))
            with T.serial(first, end) as i:
                w = buffers.weights[T.ramp(self.weight.size + i * 32, 1, 32)]
                for p, four in enumerate(codes(at_most(buffers.table[places + i], last))):
                    at = T.ramp((p * 2 + v) * 8, 1, 8)
                    T.buffer_store(acc, acc[at] + _widened_pairs(_products(four, w)), [at])

    def _end(self, acc: Any, buffers: Buffers, pixels: Sequence[tuple[Any, Any]], b: Any, count: int) -> None:
        """Hands the sums of every pixel to the epilogue."""
        for p, (y, x) in enumerate(pixels):
            for g in range(self.together):
                at = (p * self.together + g) * LANES
                vectors = [acc[T.ramp(at + c, 1, self.lanes)] for c in range(0, LANES, self.lanes)]
                sums = vectors[0] if self.lanes == LANES else T.Shuffle(vectors, list(range(LANES)))
                channel = (b * self.together + g) * LANES
                self.epilogue.put(sums, buffers, Span(y, x, channel, min(LANES, count - g * LANES), LANES))


def _sum(acc: Any, operands: Operands, tile: int, kh: int, k4: int, chain: int) -> None:
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


def _chained(
    acc: Any, operands: Operands, tile: int, extent: tuple[int, ...], position: Callable[..., tuple[Any, Any]]
) -> None:
    """One run of vpmaddubsw summed in int16, then widened into the int32 accumulators."""
    single = int(np.prod(extent)) == 1

    def widen(v: int, pairs: Any) -> None:
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


def _products(x: Any, w: Any) -> Any:
    """int16x16: sums of pairs of products of codes and weights."""
    return intrinsic("avx2.pmadd.ub.sw", "int16x16", T.reinterpret(x, dtype="uint8x32"), w)


def _widened_pairs(pairs: Any) -> Any:
    """int32x8: sums of pairs of an int16x16."""
    return intrinsic("avx2.pmadd.wd", "int32x8", pairs, T.broadcast(T.int16(1), 16))


def _widened(acc: Any, operands: Operands, tile: int, dy: Any, k: Any) -> None:
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


def _dot(acc: Any, operands: Operands, tile: int, kh: int, k4: int, bits: int = 256) -> None:  # noqa: ARG001
    lanes = bits // 32
    with T.grid(kh, k4) as (dy, k):
        xs, ws = operands(dy, k)
        for p, x in enumerate(xs):
            for v, w in enumerate(ws):
                at = T.ramp((p * len(ws) + v) * lanes, 1, lanes)
                code = T.reinterpret(x, dtype=f"uint8x{bits // 8}")
                sums = intrinsic(f"avx512.vpdpbusd.{bits}", f"int32x{lanes}", acc[at], code, w)
                T.buffer_store(acc, sums, [at])


def _wide_dot(acc: Any, operands: Operands, tile: int, kh: int, k4: int) -> None:
    _dot(acc, operands, tile, kh, k4, bits=512)
