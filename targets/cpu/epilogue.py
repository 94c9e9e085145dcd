"""How CPU kernels end: from int32 accumulators to stored codes, in the tensor's width and in others written alongside.

An epilogue is made from a step; it owns the table of biases, multipliers and shifts and the code that uses it. The
table of a convolution holds rows of 16-channel blocks: bias, left, multiplier, half, shift and, with a residual
operand, its multiplier. That of one ratio for all channels begins with left, multiplier, half, shift and the rule's own
values; from OFFSETS on lies what is added in each channel. Zero points of inputs are folded into the bias, which is
exact because the physical border holds the zero point.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.vector import LANES, folded_bias, load, padded, requantize, splat, store
from targets.kernel import Kernel, Rule, Step

OFFSETS = 16  # where the channels of a ratio's table begin


class Epilogue:
    """What both kinds share. `base` is where its part of the kernel's table begins."""

    requantize = staticmethod(requantize)
    note = ""  # what a rule's name should say of it

    def __init__(self, step: Step, own: np.ndarray, base: int = 0):
        self.step, self.base = step, base
        tables, at, self._also = [own], base + own.size, []
        for also in step.also:
            zero_points = step.write.tensor.zero_points()
            part = self.ratio(Step(also.node, (step.write,), also.write), -zero_points, base=at)
            self._also.append(part)
            tables.append(part.table)
            at += part.table.size
        self.table = np.concatenate(tables)

    @staticmethod
    def ratio(step: Step, offsets: np.ndarray, *values: int, base: int = 0) -> "Epilogue":
        """The epilogue of what is written alongside."""
        return RatioEpilogue(step, offsets, *values, base=base)

    def codes(self, acc, reads, table, y, x, channel, column, lanes):
        """int32 vector of codes (or logits) within the node's range."""
        raise NotImplementedError

    def put(self, acc, reads, writes, table, y, x, channel, count: int, column=None, lanes: int = LANES) -> None:
        """Stores the first `count` channels from `channel` on of pixel (y, x), for a vector of `lanes` int32 sums (or
        int16, which are widened).

        column: where the channels lie in a row of the table, if elsewhere than `channel`.
        """
        layout, column = self.step.write, channel if column is None else column
        acc = T.cast(acc, f"int32x{lanes}") if acc.ty.dtype.bits == 16 else acc
        codes = T.bind(self.codes(acc, reads, table, y, x, channel, column, lanes))
        narrow = codes if layout.dtype == "int32" else T.cast(codes, f"uint8x{lanes}")
        store(writes[0], layout.at(y, x, channel), narrow, count, lanes)
        for also, write in zip(self._also, writes[1:], strict=True):
            also.put(codes, (), (write,), table, y, x, channel, count, lanes=lanes)

    def _value(self, table, k: int):
        return table[self.base + k]


class ConvEpilogue(Epilogue):
    """Own ratio and bias in each channel, and a residual operand; `offset` was taken off every code of the input."""

    def __init__(self, step: Step, groups: int = 1, offset: int = 0, base: int = 0):
        rows = [padded(row, groups) for row in self.rows(step, offset)]
        self.row = rows[0].size
        super().__init__(step, np.concatenate(rows), base)

    def rows(self, step: Step, offset: int) -> list[np.ndarray]:
        """int64 [O] each: what the table holds of a channel."""
        node, r = step.node, step.node.requant
        rows = [folded_bias(node, step.reads, offset)]
        if r is not None:
            rows += [r.left, r.multiplier, 1 << (r.shift - 1), r.shift]
        if node.skip is not None:
            rows.append(node.skip_multiplier)
        return rows

    def codes(self, acc, reads, table, y, x, channel, column, lanes):
        node = self.step.node
        entry = lambda k: self.entry(table, k, column, lanes)  # noqa: E731
        if node.requant is None:
            return acc + entry(0)
        acc = T.shift_left(acc, entry(1)) + entry(0)
        if node.skip is not None:
            acc = acc + load(reads[-1], self.step.reads[1].at(y, x, channel), lanes) * entry(5)
        zero_point = self.step.write.tensor.zero_point[0]
        return self.requantize(acc, entry(2), entry(3), entry(4), node, zero_point, lanes)

    def entry(self, table, k: int, column, lanes: int = LANES):
        """Row k of the table at a column."""
        return load(table, self.base + k * self.row + column, lanes)


class RatioEpilogue(Epilogue):
    """One ratio for all channels. offsets: int64 [C], added to the sums of raw codes; values: the rule's own."""

    def __init__(self, step: Step, offsets: np.ndarray, *values: int, base: int = 0):
        super().__init__(step, self.head(step, offsets, *values), base)

    def head(self, step: Step, offsets: np.ndarray, *values: int) -> np.ndarray:
        """Its own part of the table."""
        return ratio_table(step.node.requant, offsets, *values)

    def value(self, table, k: int):
        """The rule's k-th own value."""
        return self._value(table, 4 + k)

    def codes(self, acc, reads, table, y, x, channel, column, lanes):
        left, multiplier, half, shift = (splat(self._value(table, k), lanes) for k in range(4))
        acc = T.shift_left(acc + load(table, self.base + OFFSETS + channel, lanes), left)
        zero_point = self.step.write.tensor.zero_point[0]
        return self.requantize(acc, multiplier, half, shift, self.step.node, zero_point, lanes)


def ratio_table(requant, offsets: np.ndarray, *values: int) -> np.ndarray:
    """int32: left, multiplier, half, shift, values; from OFFSETS on the offsets, int64 [C], in whole blocks."""
    ratio = (requant.left, requant.multiplier, 1 << (requant.shift - 1), requant.shift)
    head = np.array([*(int(a[0]) for a in ratio), *values], np.int64)
    return np.concatenate([np.pad(head, (0, OFFSETS - len(head))), padded(offsets)]).astype(np.int32)


@dataclass(frozen=True)
class Epilogues:
    """How a family ends its convolutions and its nodes of one ratio: calls with the arguments of the two classes."""

    conv: Callable[..., Epilogue] = ConvEpilogue
    ratio: Callable[..., Epilogue] = RatioEpilogue


def bound(rule: Callable[[Step, Epilogues], Kernel | None], epilogues: Epilogues) -> Rule:
    """A rule of steps alone, for a family's list."""

    @functools.wraps(rule)
    def apply(step: Step) -> Kernel | None:
        return rule(step, epilogues)

    return apply
