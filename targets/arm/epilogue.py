"""How NEON kernels end: a register tile of int32 sums becomes codes, several pixels at a time.

The requantization of targets/reference/interpreter.py is two instructions, a doubling high multiply and a rounding
shift; the narrowing that follows saturates at 0 and 255, so clamps cost only where a range is narrower. What all pixels
of a tile share is loaded once, before the first store: LLVM cannot know that codes are not written over the table."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import OFFSETS, Epilogue, Epilogues, ratio_table
from targets.cpu.vector import LANES, folded_bias, padded, store
from targets.kernel import Step
from targets.reference.interpreter import requantize
from targets.reference.nodes import Rescale

QUAD = 4  # int32 lanes of a register

Places = list[tuple[Any, Any]]  # of pixels: row and column


def neon(name: str, dtype: str, *args):
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.aarch64.neon.{name}"), *args, dtype=dtype)


def lanes_of(vector, first: int, count: int):
    return T.Shuffle([vector], list(range(first, first + count)))


def joined(low, high, lanes: int):
    """Two vectors of `lanes` as one."""
    return T.Shuffle([low, high], list(range(2 * lanes)))


@dataclass(frozen=True)
class Constants:
    """int32x4 of four channels; None where there is nothing to do."""

    bias: Any = None
    left: Any = None
    multiplier: Any = None
    right: Any = None  # the shift, negative
    skip: Any = None
    power: Any = None  # 2^left, int16x4, where it fits


class NeonEpilogue(Epilogue):
    """What both kinds share."""

    @staticmethod
    def ratio(step: Step, offsets: np.ndarray, *values: int, base: int = 0) -> "NeonRatio":
        return NeonRatio(step, offsets, *values, base=base)

    def constants(self, table, column) -> Constants:
        """Of the four channels from `column` on, bound."""
        raise NotImplementedError

    def put(self, acc, reads, writes, table, y, x, channel, count: int, column=None, lanes: int = LANES) -> None:
        acc = T.bind(acc)
        quads = [lanes_of(acc, i, QUAD) for i in range(0, lanes, QUAD)] if lanes > QUAD else [acc]
        self.put_tile([quads], reads, writes, table, [(y, x)], channel, count, column, acc.ty.dtype.bits == 16)

    def put_tile(
        self,
        tile: list[list],
        reads,
        writes,
        table,
        places: Places,
        channel,
        count: int,
        column=None,
        halves: bool = False,
    ) -> None:
        """Stores the first `count` channels from `channel` on of some pixels, (row, column) each.

        tile: int32x4 sums (int16x4 if `halves`), [pixels][quads of channels]; those of channels beyond `count` are left
        out.
        """
        column, quads = channel if column is None else column, -(-count // QUAD)
        every = [self, *self._also]
        constants = [[e.constants(table, column + q * QUAD) for q in range(quads)] for e in every[:1]]
        constants += [[e.constants(table, channel + q * QUAD) for q in range(quads)] for e in every[1:]]
        group = max(1, 2 // quads)  # pixels narrowed together: eight codes at least
        for first in range(0, len(tile), group):
            pixels = places[first : first + group]
            sums = [
                acc
                for quads_of, place in zip(tile[first : first + group], pixels, strict=True)
                for acc in self._sums(quads_of, constants[0], reads, place, channel, halves)
            ]
            codes = self._store(sums, constants[0], writes[0], pixels, channel, count)
            for also, these, write in zip(self._also, constants[1:], writes[1:], strict=True):
                if also.short is not None:
                    also._spread(also.shortened(codes, table, _width(len(sums))), quads, write, pixels, channel, count)
                    continue
                wide = [T.cast(lanes_of(codes, i * QUAD, QUAD), "int32x4") for i in range(len(sums))]
                sums_also = [_shifted(w, these[i % quads]) for i, w in enumerate(wide)]
                also._store(sums_also, these, write, pixels, channel, count)

    def _sums(self, quads: list, constants: list[Constants], reads, place, channel, halves: bool) -> list:
        """A pixel's, in the unit of the requantization, with what the residual operand adds."""
        sums = [_shifted(acc, c, halves) for acc, c in zip(quads, constants, strict=False)]
        if constants[0].skip is None:
            return sums
        lanes = QUAD * len(constants)
        codes = T.bind(T.cast(reads[-1][T.ramp(self.step.reads[1].at(*place, channel), 1, lanes)], f"int16x{lanes}"))
        four = [lanes_of(codes, i * QUAD, QUAD) if lanes > QUAD else codes for i in range(len(constants))]
        return [
            acc + T.cast(v, "int32x4") * T.cast(c.skip, "int32x4")
            for acc, v, c in zip(sums, four, constants, strict=True)
        ]

    def _store(self, sums: list, constants: list[Constants], write, pixels: Places, channel, count: int):
        """Requantizes the quads of some pixels and stores them; the codes, uint8, bound."""
        layout, quads = self.step.write, len(constants)
        if constants[0].multiplier is None:
            for i, acc in enumerate(sums):
                q = i % quads
                at = layout.at(*pixels[i // quads], channel + q * QUAD)
                store(write, at, acc, min(QUAD, count - q * QUAD), QUAD)
            return None
        codes = T.bind(self._narrowed([self._scaled(acc, constants[i % quads]) for i, acc in enumerate(sums)]))
        self._spread(codes, quads, write, pixels, channel, count)
        return codes

    def _spread(self, codes, quads: int, write, pixels: Places, channel, count: int) -> None:
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

    def _scaled(self, acc, c: Constants):
        code = neon("srshl.v4i32", "int32x4", neon("sqdmulh.v4i32", "int32x4", acc, c.multiplier), c.right)
        zero_point = self.step.write.tensor.zero_point[0]
        return code + T.broadcast(T.int32(zero_point), QUAD) if zero_point else code

    def _narrowed(self, quads: list):
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


def _shifted(acc, c: Constants, halves: bool = False):
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
    """Own ratio and bias in each channel, and a residual operand; `offset` was taken off every code of the input.

    Rows of the table: bias, multiplier, negative right shift; left shift where there is one; the residual operand's
    multiplier.
    """

    def __init__(self, step: Step, groups: int = 1, offset: int = 0, base: int = 0):
        node, r = step.node, step.node.requant
        rows, self._rows = [folded_bias(node, step.reads, offset)], ["bias"]
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

    def constants(self, table, column) -> Constants:
        found = {
            name: T.bind(table[T.ramp(self.base + k * self.row + column, 1, QUAD)]) for k, name in enumerate(self._rows)
        }
        node = self.step.node
        if node.skip is not None and np.abs(node.skip_multiplier).max() < 1 << 15:
            found["skip"] = T.bind(T.cast(found["skip"], "int16x4"))
        if "left" in found and node.requant.left.max() < 15:
            found["power"] = T.bind(T.cast(T.shift_left(T.broadcast(T.int32(1), QUAD), found["left"]), "int16x4"))
        return Constants(**found)


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

    def products(self, codes: np.ndarray) -> np.ndarray:
        """int64, of int64 codes."""
        p = np.maximum(codes, self.least) * self.multiplier
        return p + (p >> self.finer) if self.finer else p

    @classmethod
    def find(cls, expected: np.ndarray, qmax: int) -> "Short | None":
        """expected: the answers for codes 0, 1, ...; larger ones than qmax may come out where qmax is expected."""
        codes, last_least = np.arange(len(expected), dtype=np.int64), max(0, int(np.argmax(expected > expected[0])) - 1)
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
    """One ratio for all channels. offsets: int64 [C], added to the sums of raw codes; values: the rule's own."""

    def __init__(self, step: Step, offsets: np.ndarray, *values: int, base: int = 0):
        self._left, self._offsets = int(np.max(step.node.requant.left)), bool(np.any(offsets))
        shifted = np.asarray(offsets, np.int64) << self._left  # (sum + offset) << left
        self.short = _short(step) if isinstance(step.node, Rescale) else None
        if self.short is not None:
            values = (*values, self.short.multiplier, self.short.offset, self.short.least)
        super().__init__(step, ratio_table(step.node.requant, shifted, *values), base)

    def shortened(self, codes, table, lanes: int):
        """Codes of what is written, uint8, bound."""
        wide = f"uint16x{lanes}"
        if self.short.least:
            codes = T.max(codes, T.broadcast(T.cast(self.value(table, 2), "uint8"), lanes))
        multiplier = T.cast(T.broadcast(T.cast(self.value(table, 0), "uint8"), lanes), wide)
        offset, product = T.broadcast(T.cast(self.value(table, 1), "uint16"), lanes), T.cast(codes, wide) * multiplier
        if self.short.finer:
            product = T.bind(product)
            product = product + T.shift_right(product, T.broadcast(T.uint16(self.short.finer), lanes))
        sums = offset + product
        narrow = T.cast(T.shift_right(sums, T.broadcast(T.uint16(self.short.shift), lanes)), f"uint8x{lanes}")
        return T.bind(T.min(narrow, T.broadcast(T.uint8(self.step.node.qmax), lanes)))

    def value(self, table, k: int):
        """The rule's k-th own value."""
        return table[self.base + 4 + k]

    def constants(self, table, column) -> Constants:
        value = lambda k: T.broadcast(table[self.base + k], QUAD)  # noqa: E731
        bias = table[T.ramp(self.base + OFFSETS + column, 1, QUAD)]
        return Constants(
            T.bind(bias) if self._offsets else None,
            T.broadcast(T.int32(self._left), QUAD) if self._left else None,
            T.bind(value(1)),
            T.bind(T.broadcast(T.int32(0), QUAD) - value(3)),
        )


def _short(step: Step) -> Short | None:
    node, read = step.node, step.reads[0].tensor
    if len(read.zero_point) > 1:
        return None
    codes = np.arange(read.qmax + 1, dtype=np.int64)[:, None] - read.zero_point[0]
    zero_point = step.write.tensor.zero_point[0]
    expected = requantize(codes << node.requant.left, node.requant, zero_point, node.qmin, node.qmax)
    return Short.find(expected[:, 0].astype(np.int64), node.qmax)


EPILOGUES = Epilogues(NeonConv, NeonRatio)
