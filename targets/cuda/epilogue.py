"""How CUDA kernels end: four neighbouring channels of a pixel, from int32 sums to codes and to copies in other widths.

The table holds rows of one value a channel: bias, left, multiplier, shift and, with a residual operand, its multiplier;
or left, multiplier, half, shift and the rule's own values, then from OFFSETS on what is added in each channel
(targets/cpu/epilogue.py). Zero points of inputs are folded into the bias.
"""

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import OFFSETS, ratio_table
from targets.cpu.vector import folded_bias
from targets.cuda.memory import QUAD, Place, load, quads, store
from targets.kernel import Step


class Epilogue:
    """Base of both kinds; `base` is where its part of the kernel's table begins."""

    def __init__(self, step: Step, own: np.ndarray, base: int = 0):
        self.step, self.base, self._also = step, base, []
        tables, at = [own], base + own.size
        for also in step.also:
            part = RatioEpilogue(Step(also.node, (step.write,), also.write), -step.write.tensor.zero_points(), base=at)
            self._also.append(part)
            tables.append(part.table)
            at += part.table.size
        self.table = np.concatenate(tables).astype(np.int32)

    def put(self, accs, reads, writes, table, place: Place, channel) -> None:
        """Stores what becomes of the sums of four channels from `channel` on, of which some may lie past the last."""
        layout, offset = self.step.write, T.bind(place.at(self.step.write, channel))
        codes = [T.bind(value) for value in self.codes(accs, reads, table, place, channel)]
        store(writes[0], layout, offset, channel, codes)
        for also, write in zip(self._also, writes[1:], strict=True):
            also.put(codes, (), (write,), table, place, channel)

    def codes(self, accs, reads, table, place: Place, channel) -> list:
        """int32 codes (or logits) within the node's range."""
        raise NotImplementedError

    def _row(self, table, at: int, channel) -> list:
        """Four int32 of the table."""
        return quads(table[T.ramp(self.base + at + channel, 1, QUAD)])

    def _requantize(self, acc, multiplier, half, shift):
        """targets/reference/interpreter.py: requantize."""
        node, zero_point = self.step.node, self.step.write.tensor.zero_point[0]
        high = T.cast(T.shift_right(T.cast(acc, "int64") * T.cast(multiplier, "int64"), T.int64(31)), "int32")
        value = T.shift_right(high + half, shift) + T.int32(zero_point)
        return T.max(T.min(value, T.int32(node.qmax)), T.int32(node.qmin))


class ConvEpilogue(Epilogue):
    """Own ratio and bias in each channel, and a residual operand."""

    def __init__(self, step: Step):
        node = step.node
        rows = [folded_bias(node, step.reads)]
        if node.requant is not None:
            rows += [node.requant.left, node.requant.multiplier, node.requant.shift]
        if node.skip is not None:
            rows.append(node.skip_multiplier)
        self._length = -(-rows[0].size // QUAD) * QUAD
        super().__init__(step, np.concatenate([np.pad(row, (0, self._length - row.size), "edge") for row in rows]))

    def codes(self, accs, reads, table, place, channel):
        node = self.step.node
        row = lambda k: self._row(table, k * self._length, channel)  # noqa: E731
        bias = row(0)
        if node.requant is None:
            return [acc + b for acc, b in zip(accs, bias, strict=True)]
        left, multiplier, shift = row(1), row(2), row(3)
        sums = [T.shift_left(acc, s) + b for acc, s, b in zip(accs, left, bias, strict=True)]
        if node.skip is not None:
            layout = self.step.reads[1]
            skipped = load(reads[1], layout, place.at(layout, channel), channel)
            sums = [acc + code * unit for acc, code, unit in zip(sums, skipped, row(4), strict=True)]
        return [
            self._requantize(acc, m, T.shift_left(T.int32(1), s - 1), s)
            for acc, m, s in zip(map(T.bind, sums), multiplier, shift, strict=True)
        ]


class RatioEpilogue(Epilogue):
    """One ratio for all channels. offsets: int64 [C], added to the sums of raw codes; values: the rule's own."""

    def __init__(self, step: Step, offsets: np.ndarray, *values: int, base: int = 0):
        super().__init__(step, ratio_table(step.node.requant, offsets, *values), base)

    def value(self, table, k: int):
        """The rule's k-th own value."""
        return table[self.base + 4 + k]

    def codes(self, accs, reads, table, place, channel):
        left, multiplier, half, shift = (table[self.base + k] for k in range(4))
        offsets = self._row(table, OFFSETS, channel)
        return [
            self._requantize(T.bind(T.shift_left(acc + offset, left)), multiplier, half, shift)
            for acc, offset in zip(accs, offsets, strict=True)
        ]
