"""How CUDA kernels end: four neighbouring channels of a pixel, from int32 sums to codes and to copies in other widths.

The table holds rows of one value a channel: bias, left, multiplier, shift and, with a residual operand, its multiplier;
or the part of one ratio for all channels (targets/tables.py). Zero points of inputs are folded into the bias.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.cuda.memory import QUAD, Place, load, quads, store
from targets.kernel import Buffers, Step
from targets.tables import OFFSETS, folded_bias, ratio_table


class Epilogue:
    """Base of both kinds; `base` is where its part of the kernel's table begins."""

    def __init__(self, step: Step[Any], own: npt.NDArray[Any], base: int = 0):
        self.step, self.base = step, base
        self.table: npt.NDArray[np.int32]
        self._copies: list[RatioEpilogue] = []
        tables, at = [own], base + own.size
        for copy in step.copies:
            offsets = -step.write.tensor.zero_points()
            part = RatioEpilogue(Step(copy.node, (step.write,), copy.write), offsets, base=at)
            self._copies.append(part)
            tables.append(part.table)
            at += part.table.size
        self.table = np.concatenate(tables).astype(np.int32)

    def put(self, sums: Sequence[Any], buffers: Buffers, place: Place, channel: Any) -> None:
        """Stores what becomes of the sums of four channels from `channel` on, of which some may lie past the last."""
        layout, offset = self.step.write, T.bind(place.at(self.step.write, channel))
        codes = [T.bind(value) for value in self.codes(sums, buffers, place, channel)]
        store(buffers.writes[0], layout, offset, channel, codes)
        for copy, write in zip(self._copies, buffers.writes[1:], strict=True):
            copy.put(codes, replace(buffers, reads=(), writes=(write,)), place, channel)

    def codes(self, sums: Sequence[Any], buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        """Returns int32 codes (or logits) within the node's range. Raises NotImplementedError here."""
        raise NotImplementedError

    def _row(self, buffers: Buffers, at: int, channel: Any) -> list[Any]:
        """Four int32 of the table."""
        return quads(buffers.table[T.ramp(self.base + at + channel, 1, QUAD)])

    def _requantize(self, acc: Any, multiplier: Any, half: Any, shift: Any) -> Any:
        """The reference's rule (targets/reference/interpreter.py); logits are not clamped."""
        node, zero_point = self.step.node, self.step.write.tensor.zero_point[0]
        high = T.cast(T.shift_right(T.cast(acc, "int64") * T.cast(multiplier, "int64"), T.int64(31)), "int32")
        value = T.shift_right(high + half, shift) + T.int32(zero_point)
        is_logit = self.step.write.dtype == "int32"
        return value if is_logit else T.max(T.min(value, T.int32(node.qmax)), T.int32(node.qmin))


class ConvEpilogue(Epilogue):
    """Own ratio and bias in each channel, and a residual operand."""

    def __init__(self, step: Step[Any]):
        node = step.node
        rows: list[npt.NDArray[Any]] = [folded_bias(node, step.reads)]
        if node.requant is not None:
            rows += [node.requant.left, node.requant.multiplier, node.requant.shift]
        if node.skip is not None:
            rows.append(node.skip_multiplier)
        self._length = -(-rows[0].size // QUAD) * QUAD
        super().__init__(step, np.concatenate([np.pad(row, (0, self._length - row.size), "edge") for row in rows]))

    def codes(self, sums: Sequence[Any], buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        """Returns int32 codes, or logits where nothing is requantized."""

        def row(k: int) -> list[Any]:
            return self._row(buffers, k * self._length, channel)

        node, bias = self.step.node, row(0)
        if node.requant is None:
            return [acc + b for acc, b in zip(sums, bias, strict=True)]
        left, multiplier, shift = row(1), row(2), row(3)
        shifted = [T.shift_left(acc, s) + b for acc, s, b in zip(sums, left, bias, strict=True)]
        if node.skip is not None:
            layout = self.step.reads[1]
            skipped = load(buffers.reads[1], layout, place.at(layout, channel), channel)
            shifted = [acc + code * unit for acc, code, unit in zip(shifted, skipped, row(4), strict=True)]
        return [
            self._requantize(acc, m, T.shift_left(T.int32(1), s - 1), s)
            for acc, m, s in zip(map(T.bind, shifted), multiplier, shift, strict=True)
        ]


class RatioEpilogue(Epilogue):
    """One ratio for all channels. offsets: int64 [C], added to the sums of raw codes; values: the rule's own."""

    def __init__(self, step: Step[Any], offsets: npt.NDArray[np.int64], *values: int, base: int = 0):
        super().__init__(step, ratio_table(step.node.requant, offsets, *values), base)

    def value(self, buffers: Buffers, k: int) -> Any:
        """Returns the rule's k-th own value."""
        return buffers.table[self.base + 4 + k]

    def ratio(self, buffers: Buffers, place: Place) -> list[Any]:  # noqa: ARG002  (every pixel has the same)
        """Returns the left shift, multiplier, half and right shift of an output pixel."""
        return [buffers.table[self.base + k] for k in range(4)]

    def codes(self, sums: Sequence[Any], buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        """Returns int32 codes."""
        left, multiplier, half, shift = self.ratio(buffers, place)
        offsets = self._row(buffers, OFFSETS, channel)
        return [
            self._requantize(T.bind(T.shift_left(acc + offset, left)), multiplier, half, shift)
            for acc, offset in zip(sums, offsets, strict=True)
        ]
