"""How NEON kernels end: a register tile of int32 sums becomes codes, several pixels at a time.

The requantization of targets/reference/interpreter.py is two instructions, a doubling high multiply and a rounding
shift; the narrowing that follows saturates at 0 and 255, so clamps cost only where a range is narrower. What all pixels
of a tile share is loaded once, before the first store: LLVM cannot know that codes are not written over the table.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogue, Epilogues
from targets.cpu.vector import store
from targets.kernel import Buffers, Span, Step
from targets.reference.interpreter import requantize
from targets.reference.nodes import Rescale
from targets.tables import OFFSETS, folded_bias, padded, ratio_table

QUAD = 4  # int32 lanes of a register

Places = Sequence[tuple[Any, Any]]  # of pixels: row and column


def neon(name: str, dtype: str, *args: Any) -> Any:
    """Returns a call of one of LLVM's NEON intrinsics."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.aarch64.neon.{name}"), *args, dtype=dtype)


def lanes_of(vector: Any, first: int, count: int) -> Any:
    """Returns some neighbouring lanes of a vector."""
    return T.Shuffle([vector], list(range(first, first + count)))


def joined(low: Any, high: Any, lanes: int) -> Any:
    """Returns two vectors of `lanes` as one."""
    return T.Shuffle([low, high], list(range(2 * lanes)))


@dataclass(frozen=True)
class Constants:
    """What four channels are requantized with, int32x4; None where there is nothing to do."""

    bias: Any = None
    left: Any = None
    multiplier: Any = None
    right: Any = None  # the shift, negative
    skip: Any = None
    power: Any = None  # 2^left, int16x4, where it fits


@dataclass(frozen=True)
class Tile:
    """Sums of the same channels of some pixels.

    sums: int32x4 (int16x4 if `halves`), [pixels][quads of channels]. places: (row, column) of each pixel. channel: the
    first; count: how many channels exist, of which the rest are left out. column: where the channels lie in a row of
    the table.
    """

    sums: Sequence[Sequence[Any]]
    places: Places
    channel: Any
    count: int
    column: Any
    halves: bool = False


class NeonEpilogue(Epilogue):
    """What both kinds of epilogue share."""

    @staticmethod
    def ratio(step: Step[Any], offsets: npt.NDArray[np.int64], *values: int, base: int = 0) -> "NeonRatio":
        """Returns the epilogue of a copy; offsets: int64 [C]."""
        return NeonRatio(step, offsets, *values, base=base)

    def constants(self, table: Any, column: Any) -> Constants:
        """Returns the constants of the four channels from `column` on, bound. Raises NotImplementedError here."""
        raise NotImplementedError

    def put(self, acc: Any, buffers: Buffers, span: Span) -> None:
        """Stores the codes of a vector of int32 or int16 sums, and its copies."""
        acc = T.bind(acc)
        quads = [lanes_of(acc, i, QUAD) for i in range(0, span.lanes, QUAD)] if span.lanes > QUAD else [acc]
        halves = acc.ty.dtype.bits == 16
        self.put_tile(Tile([quads], [(span.y, span.x)], span.channel, span.count, span.table_column, halves), buffers)

    def put_tile(self, tile: Tile, buffers: Buffers) -> None:
        """Stores the codes of a tile, and its copies."""
        quads, channel, count = -(-tile.count // QUAD), tile.channel, tile.count
        own = [self.constants(buffers.table, tile.column + q * QUAD) for q in range(quads)]
        others = [[c.constants(buffers.table, channel + q * QUAD) for q in range(quads)] for c in self._copies]
        group = max(1, 2 // quads)  # pixels narrowed together: eight codes at least
        for first in range(0, len(tile.sums), group):
            pixels = tile.places[first : first + group]
            sums = [
                acc
                for quads_of, place in zip(tile.sums[first : first + group], pixels, strict=True)
                for acc in self._sums(quads_of, own, buffers.reads, place, channel, tile.halves)
            ]
            codes = self._store(sums, own, buffers.writes[0], pixels, channel, count)
            for copy, constants, write in zip(self._copies, others, buffers.writes[1:], strict=True):
                if copy.short is not None:
                    short = copy.shortened(codes, buffers.table, _width(len(sums)))
                    copy._spread(short, quads, write, pixels, channel, count)
                    continue
                wide = [T.cast(lanes_of(codes, i * QUAD, QUAD), "int32x4") for i in range(len(sums))]
                rescaled = [_shifted(w, constants[i % quads]) for i, w in enumerate(wide)]
                copy._store(rescaled, constants, write, pixels, channel, count)

    def _sums(
        self,
        quads: Sequence[Any],
        constants: list[Constants],
        reads: Any,
        place: tuple[Any, Any],
        channel: Any,
        halves: bool,
    ) -> list[Any]:
        """A pixel's sums in the unit of the requantization, with what the residual operand adds."""
        sums = [_shifted(acc, c, halves) for acc, c in zip(quads, constants, strict=False)]
        if constants[0].skip is None:
            return sums
        lanes = QUAD * len(constants)
        skip = reads[-1][T.ramp(self.step.reads[1].at(*place, channel), 1, lanes)]
        codes = T.bind(T.cast(skip, f"int16x{lanes}"))
        four = [lanes_of(codes, i * QUAD, QUAD) if lanes > QUAD else codes for i in range(len(constants))]
        return [
            acc + T.cast(v, "int32x4") * T.cast(c.skip, "int32x4")
            for acc, v, c in zip(sums, four, constants, strict=True)
        ]

    def _store(
        self, sums: list[Any], constants: list[Constants], write: Any, pixels: Places, channel: Any, count: int
    ) -> Any:
        """Requantizes the quads of some pixels and stores them; returns the codes, uint8, bound."""
        layout = self.step.write
        quads = len(constants)
        if constants[0].multiplier is None:
            for i, acc in enumerate(sums):
                q = i % quads
                at = layout.at(*pixels[i // quads], channel + q * QUAD)
                store(write, at, acc, min(QUAD, count - q * QUAD), QUAD)
            return None
        if layout.dtype == "int32":
            for i, acc in enumerate(sums):
                q = i % quads
                at = layout.at(*pixels[i // quads], channel + q * QUAD)
                store(write, at, self._scaled(acc, constants[q]), min(QUAD, count - q * QUAD), QUAD)
            return None
        codes = T.bind(self._narrowed([self._scaled(acc, constants[i % quads]) for i, acc in enumerate(sums)]))
        self._spread(codes, quads, write, pixels, channel, count)
        return codes

    def _spread(self, codes: Any, quads: int, write: Any, pixels: Places, channel: Any, count: int) -> None:
        """Stores the codes of some pixels."""
        lanes = quads * QUAD
        for i, place in enumerate(pixels):
            if len(pixels) == 1 and lanes == _width(quads):
                part = codes
            elif quads == 1:  # as a word: LLVM would take four bytes out one by one
                part = T.reinterpret(T.Shuffle([T.reinterpret(codes, dtype="int32x2")], [i]), dtype="uint8x4")
            else:
                part = lanes_of(codes, i * lanes, lanes)
            store(write, self.step.write.at(*place, channel), part, count, lanes)

    def _scaled(self, acc: Any, c: Constants) -> Any:
        code = neon("srshl.v4i32", "int32x4", neon("sqdmulh.v4i32", "int32x4", acc, c.multiplier), c.right)
        zero_point = self.step.write.tensor.zero_point[0]
        return code + T.broadcast(T.int32(zero_point), QUAD) if zero_point else code

    def _narrowed(self, quads: list[Any]) -> Any:
        """uint8 codes within the node's range, of one quad (its codes come twice), two or four."""
        quads = quads if len(quads) % 2 == 0 else [*quads, quads[-1]]
        halves = [neon("sqxtun.v4i16", "uint16x4", q) for q in quads]
        eights = [neon("uqxtn.v8i8", "uint8x8", joined(*halves[i : i + 2], 4)) for i in range(0, len(halves), 2)]
        codes, lanes = eights[0], 8
        while len(eights) > 1:
            eights = [*eights, eights[-1]] if len(eights) % 2 else eights
            eights = [joined(*eights[i : i + 2], lanes) for i in range(0, len(eights), 2)]
            codes, lanes = eights[0], lanes * 2
        node = self.step.node
        if node.qmax < 255:
            codes = T.min(codes, T.broadcast(T.uint8(node.qmax), lanes))
        return T.max(codes, T.broadcast(T.uint8(node.qmin), lanes)) if node.qmin else codes


def _shifted(acc: Any, c: Constants, halves: bool = False) -> Any:
    """acc: int32x4, or int16x4 if `halves`, for which a long multiply is the quickest shift."""
    if halves:
        acc = T.cast(acc, "int32x4")
        if c.power is not None:
            return c.bias + acc * T.cast(c.power, "int32x4")
    acc = acc if c.left is None else T.shift_left(acc, c.left)
    return acc if c.bias is None else acc + c.bias


def _width(quads: int) -> int:
    """Codes in the vector that `quads` narrow to."""
    return {1: 8, 2: 8, 3: 16, 4: 16}[quads]


class NeonConv(NeonEpilogue):
    """The end of a convolution: a ratio and bias in each channel, and a residual operand.

    `offset` was taken off every code of the input.

    Rows of the table: bias, multiplier, negative right shift; left shift where there is one; the residual operand's
    multiplier.
    """

    def __init__(self, step: Step[Any], groups: int = 1, offset: int = 0, base: int = 0):
        node, r = step.node, step.node.requant
        rows: list[npt.NDArray[Any]] = [folded_bias(node, step.reads, offset)]
        self._rows = ["bias"]
        if r is not None:
            rows += [r.multiplier, -r.shift.astype(np.int64)]
            self._rows += ["multiplier", "right"]
            if np.any(r.left):
                rows, self._rows = [*rows, r.left], [*self._rows, "left"]
        if node.skip is not None:
            rows, self._rows = [*rows, node.skip_multiplier], [*self._rows, "skip"]
        rows = [padded(row, groups) for row in rows]
        self.row = rows[0].size
        super().__init__(step, np.concatenate(rows), base)

    def constants(self, table: Any, column: Any) -> Constants:
        """Returns the constants of the four channels from `column` on, bound."""
        rows = {
            name: T.bind(table[T.ramp(self.base + k * self.row + column, 1, QUAD)]) for k, name in enumerate(self._rows)
        }
        node = self.step.node
        if node.skip is not None and np.abs(node.skip_multiplier).max() < 1 << 15:
            rows["skip"] = T.bind(T.cast(rows["skip"], "int16x4"))
        if "left" in rows and node.requant.left.max() < 15:
            rows["power"] = T.bind(T.cast(T.shift_left(T.broadcast(T.int32(1), QUAD), rows["left"]), "int16x4"))
        return Constants(**rows)


@dataclass(frozen=True)
class Short:
    """requant(code - zero_point) as (product + offset) >> shift in 16 bits, the same for every code.

    product: p = max(code, least) * multiplier, or p + (p >> finer) where 8 bits of multiplier are too coarse; `least`
    is 0 unless the codes below it all become the smallest one.
    """

    multiplier: int  # 8 bits
    offset: int  # below 0 where `least` is above it
    shift: int
    least: int = 0
    finer: int = 0

    def products(self, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns int64 [N], the products of codes int64 [N]."""
        p = np.maximum(codes, self.least) * self.multiplier
        return p + (p >> self.finer) if self.finer else p

    @classmethod
    def find(cls, expected: npt.NDArray[np.int64], qmax: int) -> "Short | None":
        """Returns a form that gives the answers expected [N] for codes 0 .. N - 1, or None where there is none.

        Larger ones than qmax may come out where qmax is expected.
        """
        codes = np.arange(len(expected), dtype=np.int64)
        last_least = max(0, int(np.argmax(expected > expected[0])) - 1)
        rises = np.flatnonzero(np.diff(expected)) + 1
        first, last = (rises[0], rises[-1]) if len(rises) > 1 else (0, len(expected) - 1)
        slope = (expected[last] - expected[first]) / (last - first)
        for finer, least, shift in itertools.product((0, 8, 9, 10, 11), sorted({0, last_least}), range(15, 7, -1)):
            centre = round(slope * (1 << shift))
            for multiplier in sorted(
                range(max(1, centre * 3 // 4), min(255, centre * 4 // 3) + 1), key=lambda m, c=centre: abs(m - c)
            ):
                products = cls(multiplier, 0, shift, least, finer).products(codes)
                low = ((expected << shift) - products).max()
                high = np.where(expected < qmax, (expected + 1 << shift) - 1 - products, 1 << 16).min()
                offset = low if least else max(0, low)
                if offset <= high and max(products[-1], products[-1] + offset) < 1 << 16:
                    return cls(multiplier, int(offset), shift, least, finer)
        return None


class NeonRatio(NeonEpilogue):
    """The end of a node with one ratio for all channels.

    offsets: int64 [C], added to the sums of raw codes; values: the rule's own.
    """

    def __init__(self, step: Step[Any], offsets: npt.NDArray[np.int64], *values: int, base: int = 0):
        self._left = int(np.max(step.node.requant.left))
        self._offsets = bool(np.any(offsets))
        shifted = np.asarray(offsets, np.int64) << self._left  # (sum + offset) << left
        self.short = _short(step) if isinstance(step.node, Rescale) else None
        if self.short is not None:
            values = (*values, self.short.multiplier, self.short.offset, self.short.least)
        super().__init__(step, ratio_table(step.node.requant, shifted, *values), base)

    def shortened(self, codes: Any, table: Any, lanes: int) -> Any:
        """Returns the node's codes, uint8, bound, of its input's."""
        wide = f"uint16x{lanes}"
        if self.short.least:
            codes = T.max(codes, T.broadcast(T.cast(self._entry(table, 2), "uint8"), lanes))
        multiplier = T.cast(T.broadcast(T.cast(self._entry(table, 0), "uint8"), lanes), wide)
        offset = T.broadcast(T.cast(self._entry(table, 1), "uint16"), lanes)
        product = T.cast(codes, wide) * multiplier
        if self.short.finer:
            product = T.bind(product)
            product = product + T.shift_right(product, T.broadcast(T.uint16(self.short.finer), lanes))
        sums = offset + product
        narrow = T.cast(T.shift_right(sums, T.broadcast(T.uint16(self.short.shift), lanes)), f"uint8x{lanes}")
        return T.bind(T.min(narrow, T.broadcast(T.uint8(self.step.node.qmax), lanes)))

    def value(self, buffers: Buffers, k: int) -> Any:
        """Returns the rule's k-th own value."""
        return self._entry(buffers.table, k)

    def _entry(self, table: Any, k: int) -> Any:
        return table[self.base + 4 + k]

    def constants(self, table: Any, column: Any) -> Constants:
        """Returns the constants of the four channels from `column` on, bound."""

        def value(k: int) -> Any:
            return T.broadcast(table[self.base + k], QUAD)

        bias = table[T.ramp(self.base + OFFSETS + column, 1, QUAD)]
        return Constants(
            T.bind(bias) if self._offsets else None,
            T.broadcast(T.int32(self._left), QUAD) if self._left else None,
            T.bind(value(1)),
            T.bind(T.broadcast(T.int32(0), QUAD) - value(3)),
        )


def _short(step: Step[Any]) -> Short | None:
    node, read = step.node, step.reads[0].tensor
    if len(read.zero_point) > 1:
        return None
    codes = np.arange(read.qmax + 1, dtype=np.int64)[:, None] - read.zero_point[0]
    zero_point = step.write.tensor.zero_point[0]
    expected = requantize(codes << node.requant.left, node.requant, zero_point, node.qmin, node.qmax)
    return Short.find(expected[:, 0].astype(np.int64), node.qmax)


EPILOGUES = Epilogues(NeonConv, NeonRatio)
