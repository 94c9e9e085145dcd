"""How CPU kernels end: from int32 accumulators to stored codes, in the tensor's width and in others written alongside.

An epilogue is made from a step; it owns the kernel's part of the table (targets/tables.py) and the code that uses it.
The part of a convolution holds rows of 16-channel blocks: bias, left, multiplier, half, shift and, with a residual
operand, its multiplier.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.cpu.vector import LANES, Ratio, load, requantize, splat, store
from targets.kernel import Buffers, Kernel, Rule, Span, Step
from targets.tables import OFFSETS, folded_bias, padded, ratio_table


class Epilogue:
    """What both kinds of epilogue share.

    base: where the epilogue's part of the kernel's table begins. note: what a rule's name should say of it.
    """

    note = ""

    def __init__(self, step: Step[Any], own: npt.NDArray[np.int32], base: int = 0):
        self.step, self.base = step, base
        self.table: npt.NDArray[np.int32]
        self._copies: list[Epilogue] = []
        tables, at = [own], base + own.size
        for copy in step.copies:
            zero_points = step.write.tensor.zero_points()
            part = self.ratio(Step(copy.node, (step.write,), copy.write), -zero_points, base=at)
            self._copies.append(part)
            tables.append(part.table)
            at += part.table.size
        self.table = np.concatenate(tables)

    @staticmethod
    def ratio(step: Step[Any], offsets: npt.NDArray[np.int64], *values: int, base: int = 0) -> "Epilogue":
        """Returns the epilogue of a copy; offsets: int64 [C]."""
        return RatioEpilogue(step, offsets, *values, base=base)

    def codes(self, acc: Any, buffers: Buffers, span: Span) -> Any:
        """Returns the int32 vector of codes (or logits) within the node's range. Raises NotImplementedError here."""
        raise NotImplementedError

    def put(self, acc: Any, buffers: Buffers, span: Span) -> None:
        """Stores the codes of a vector of int32 sums (or int16, which are widened), and its copies."""
        layout, lanes = self.step.write, span.lanes
        acc = T.cast(acc, f"int32x{lanes}") if acc.ty.dtype.bits == 16 else acc
        codes = T.bind(self.codes(acc, buffers, span))
        narrow = codes if layout.dtype == "int32" else T.cast(codes, f"uint8x{lanes}")
        store(buffers.writes[0], layout.at(span.y, span.x, span.channel), narrow, span.count, lanes)
        for copy, write in zip(self._copies, buffers.writes[1:], strict=True):
            copy.put(codes, replace(buffers, reads=(), writes=(write,)), replace(span, column=None))

    def _value(self, buffers: Buffers, k: int) -> Any:
        return buffers.table[self.base + k]


class ConvEpilogue(Epilogue):
    """A ratio and bias in each channel, and a residual operand; `offset` was taken off every code of the input."""

    def __init__(self, step: Step[Any], groups: int = 1, offset: int = 0, base: int = 0):
        rows = [padded(row, groups) for row in self.rows(step, offset)]
        self.row = rows[0].size
        super().__init__(step, np.concatenate(rows), base)

    def rows(self, step: Step[Any], offset: int) -> list[npt.NDArray[Any]]:
        """Returns rows int64 [O]: what the table holds of a channel."""
        node, r = step.node, step.node.requant
        rows: list[npt.NDArray[Any]] = [folded_bias(node, step.reads, offset)]
        if r is not None:
            rows += [r.left, r.multiplier, 1 << (r.shift - 1), r.shift]
        if node.skip is not None:
            rows.append(node.skip_multiplier)
        return rows

    def codes(self, acc: Any, buffers: Buffers, span: Span) -> Any:
        """Returns the int32 vector of codes, or of logits where nothing is requantized."""
        node, lanes = self.step.node, span.lanes

        def entry(k: int) -> Any:
            return self.entry(buffers, k, span.table_column, lanes)

        if node.requant is None:
            return acc + entry(0)
        acc = T.shift_left(acc, entry(1)) + entry(0)
        if node.skip is not None:
            skip = self.step.reads[1].at(span.y, span.x, span.channel)
            acc = acc + load(buffers.reads[-1], skip, lanes) * entry(5)
        return requantize(acc, Ratio(entry(2), entry(3), entry(4)), self.step, lanes)

    def entry(self, buffers: Buffers, k: int, column: Any, lanes: int = LANES) -> Any:
        """Returns row k of the table at a column, int32."""
        return load(buffers.table, self.base + k * self.row + column, lanes)


class RatioEpilogue(Epilogue):
    """One ratio for all channels. offsets: int64 [C], added to the sums of raw codes; values: the rule's own."""

    def __init__(self, step: Step[Any], offsets: npt.NDArray[np.int64], *values: int, base: int = 0):
        super().__init__(step, self.head(step, offsets, *values), base)

    def head(self, step: Step[Any], offsets: npt.NDArray[np.int64], *values: int) -> npt.NDArray[np.int32]:
        """Returns the epilogue's own part of the table, int32 [n]; offsets: int64 [C]."""
        return ratio_table(step.node.requant, offsets, *values)

    def value(self, buffers: Buffers, k: int) -> Any:
        """Returns the rule's k-th own value."""
        return self._value(buffers, 4 + k)

    def codes(self, acc: Any, buffers: Buffers, span: Span) -> Any:
        """Returns the int32 vector of codes."""
        left, multiplier, half, shift = (splat(self._value(buffers, k), span.lanes) for k in range(4))
        offsets = load(buffers.table, self.base + OFFSETS + span.channel, span.lanes)
        return requantize(T.shift_left(acc + offsets, left), Ratio(multiplier, half, shift), self.step, span.lanes)


@dataclass(frozen=True)
class Epilogues:
    """How a family ends its convolutions and its nodes of one ratio: calls with the arguments of the two classes."""

    conv: Callable[..., Epilogue] = ConvEpilogue
    ratio: Callable[..., Epilogue] = RatioEpilogue


def bound(rule: Callable[[Step[Any], Epilogues], Kernel | None], epilogues: Epilogues) -> Rule:
    """Returns a rule of steps alone, for a family's list."""

    @functools.wraps(rule)
    def apply(step: Step[Any]) -> Kernel | None:
        return rule(step, epilogues)

    return apply
