"""The kernel of a Winograd tiling, for any CPU that can multiply V by U.

A unit is a band of tile rows times a share of the output channels. A patch of its tiles is transformed into scratch
V [positions][tiles][channels]; then, for each block of output channels, V times U gives M [positions][tiles][block],
from which come the outputs of every tile. The last tiles of a height or width that is no multiple of theirs overlap
those before; rows that another unit writes are left out.
"""

from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import LANES, fill_borders
from targets.cpu.winograd.plan import Operands, Plan
from targets.kernel import Buffers, Kernel, Origin, Span

LOCAL = dict(scope="local", annotations={"disable_lower_builtin": True})


def arrange(u: np.ndarray, block: int, step: int, group: int) -> np.ndarray:
    """Returns [blocks, positions, K, block, group] of U [positions, O, I], zeros where there is nothing."""
    positions, o, i = u.shape
    full = np.zeros((positions, -(-o // block) * block, -(-i // step) * step), u.dtype)
    full[:, :o, :i] = u
    return full.reshape(positions, -1, block, full.shape[2] // group, group).transpose(1, 0, 3, 2, 4)


def winograd(plan: Plan, epilogues: Epilogues) -> Kernel:
    """Returns the kernel of a plan."""
    return _Emitter(plan, epilogues).kernel()


class _Emitter:
    """Emits the code of one plan."""

    def __init__(self, plan: Plan, epilogues: Epilogues):
        self.plan, self.step, self.tiling, self.m = plan, plan.step, plan.tiling, plan.multiplier
        self.u = self.tiling.transform(self.step.node.weight)
        self.offsets = self.m.offsets(self.tiling, self.step.reads[0].tensor.qmax)
        self.epilogue = epilogues.conv(self.step)
        self.table = np.concatenate([self.epilogue.table, self._corrections()])

    def kernel(self) -> Kernel:
        node, m = self.step.node, self.m
        u = arrange(self.u, m.block, m.step, m.group)
        weights = u.astype(np.int8) if m.bytes == 1 else np.ascontiguousarray(u.astype("<i2")).view(np.int8)
        o, _, _, i = node.weight.shape
        forms = self.tiling.down.weights, self.tiling.across.weights
        origin = Origin(node.weight.reshape(o, 9, i), *forms, m.block, m.step, m.group, m.bytes)
        return Kernel(m.rule, weights.reshape(-1), node.w_bits, self.table, self.emit, self.plan.bands.units, origin)

    def _corrections(self) -> np.ndarray:
        """int32 [outputs, blocks * block]: what the offsets add to each sum of a tile, negated."""
        if not self.offsets.any():
            return np.zeros(0, np.int32)
        added = np.zeros((len(self.tiling.factors), self.plan.blocks * self.m.block), np.int64)
        added[:, : self.u.shape[1]] = (self.tiling.signs * self.offsets) @ self.u.sum(2)
        return (-added).reshape(-1).astype(np.int32)

    def emit(self, buffers: Buffers, units: tuple[Any, Any]) -> None:
        """Emits the code of some units."""
        (first, end), b = units, self.plan.bands
        v = T.alloc_buffer((self.tiling.positions * self.plan.held * self.plan.channels,), self.m.element, **LOCAL)
        m = T.alloc_buffer((self.tiling.positions * self.plan.held * self.m.block,), "int32", **LOCAL)
        per_share = self.plan.blocks // b.shares
        with T.serial(first, end) as unit:
            top = T.bind(unit // b.shares * b.rows)
            high = T.bind(T.min(b.rows, b.height - top))
            with T.serial(-(-b.width // b.columns)) as patch:
                left = T.bind(patch * b.columns)
                wide = T.bind(T.min(b.columns, b.width - left))
                with T.grid(high, wide) as (i, j):
                    self._transform(buffers.reads[0], v, i * wide + j, top + i, left + j)
                with T.serial(per_share) as n:
                    block = T.bind(unit % b.shares * per_share + n)
                    groups = (high * wide + self.plan.rows - 1) // self.plan.rows
                    with T.grid(self.tiling.positions, groups) as (p, group):
                        self._multiply(v, m, buffers.weights, block, p, group * self.plan.rows)
                    with T.grid(high, wide) as (i, j):
                        self._finish(m, buffers, block, i * wide + j, top + i, left + j)
        fill_borders(self.step, buffers.writes, first)

    def _corner(self, i, j):
        """The first output pixel of a tile."""
        return (
            T.bind(T.min(k * m, size - m))
            for k, m, size in zip((i, j), self.tiling.outputs, self.step.write.tensor.shape, strict=False)
        )

    def _transform(self, codes, v, tile, i, j) -> None:
        """V of one tile, `vector` channels at a time; beyond the last channel lies whatever memory holds."""
        layout, (above, before, _, _), n = self.step.reads[0], self.step.node.padding, self.m.vector
        element, down, across = self.m.element, self.tiling.down, self.tiling.across
        unsigned = "uint8" if self.m.bytes == 1 else element
        y, x = self._corner(i, j)

        def load(r, s, c):
            vector = codes[T.ramp(layout.at(y + r - above, x + s - before, c), 1, n)]
            return T.bind(vector if self.m.bytes == 1 else T.cast(vector, f"{element}x{n}"))

        def put(position, value, c):
            offset = int(self.offsets[position])
            if offset:
                value = value + T.broadcast(T.cast(offset % (1 << 8 * self.m.bytes), unsigned), n)
            value = value if unsigned == element else T.reinterpret(value, dtype=f"{element}x{n}")
            T.buffer_store(v, value, [T.ramp((position * self.plan.held + tile) * self.plan.channels + c, 1, n)])

        with T.serial(self.plan.channels // n) as c:
            columns = [
                [T.bind(value) for value in down.apart([load(r, s, c * n) for r in range(down.inputs)], T.bind)]
                for s in range(across.inputs)
            ]
            for r in range(down.inputs):
                for s, value in enumerate(across.apart([column[r] for column in columns], T.bind)):
                    put(r * across.inputs + s, value, c * n)

    def _multiply(self, v, m, weights, block, position, first) -> None:
        base = T.bind((position * self.plan.held + first) * self.plan.channels)
        out = T.bind((position * self.plan.held + first) * self.m.block)
        size = self.m.block * self.m.group * self.m.bytes
        start = T.bind((block * self.tiling.positions + position) * (self.plan.groups * size))

        def put(row, i, sums, lanes):
            T.buffer_store(m, sums, [T.ramp(out + row * self.m.block + i * lanes, 1, lanes)])

        def codes(row: int, k: Any) -> Any:
            return base + row * self.plan.channels + k * self.m.group

        def filters(k: Any) -> Any:
            return start + k * size

        self.m.products(Operands(v, weights, codes, filters, put, self.plan.rows, self.plan.groups))

    def _finish(self, m: Any, buffers: Buffers, block: Any, tile: Any, i: Any, j: Any) -> None:
        """The outputs of a tile, a vector of channels at a time."""
        channels = self.step.write.tensor.shape[2]
        tail = channels - (self.plan.blocks - 1) * self.m.block
        y, x = self._corner(i, j)

        def some(count):
            for first in range(0, count, LANES):
                outputs = self._outputs(m, buffers.table, block, tile, first)
                channel, lanes = block * self.m.block + first, min(LANES, count - first)
                with T.grid(*self.tiling.outputs) as (r, s):
                    acc = outputs[T.ramp((r * self.tiling.outputs[1] + s) * LANES, 1, LANES)]
                    span = Span(y + r, x + s, channel, lanes, LANES)
                    if self.step.write.tensor.shape[0] % self.tiling.outputs[0]:
                        with T.If(y + r >= i * self.tiling.outputs[0]), T.Then():
                            self.epilogue.put(acc, buffers, span)
                    else:
                        self.epilogue.put(acc, buffers, span)

        if tail == self.m.block or self.plan.blocks == 1:
            some(tail)
        else:
            with T.If(block == self.plan.blocks - 1):
                with T.Then():
                    some(tail)
                with T.Else():
                    some(self.m.block)

    def _outputs(self, m, table, block, tile, first):
        """Buffer int32 [outputs, LANES] of the sums of LANES channels, from `first` of the block on."""
        down, across = self.tiling.down, self.tiling.across
        outputs = T.alloc_buffer((len(self.tiling.factors) * LANES,), "int32", **LOCAL)

        def load(r, s):
            position = r * across.inputs + s
            return T.bind(m[T.ramp((position * self.plan.held + tile) * self.m.block + first, 1, LANES)])

        rows = [
            [T.bind(value) for value in across.together([load(r, s) for s in range(across.inputs)], T.bind)]
            for r in range(down.inputs)
        ]
        for s in range(across.outputs):
            for r, acc in enumerate(down.together([row[s] for row in rows], T.bind)):
                k = r * across.outputs + s
                if self.offsets.any():
                    at = self.epilogue.table.size + (k * self.plan.blocks + block) * self.m.block + first
                    acc = acc + table[T.ramp(at, 1, LANES)]
                if self.tiling.inverse != 1:
                    acc = acc * T.broadcast(T.int32(self.tiling.inverse), LANES)
                acc = T.shift_right(acc, T.broadcast(T.int32(self.tiling.shifts[k]), LANES))
                T.buffer_store(outputs, acc, [T.ramp(k * LANES, 1, LANES)])
        return outputs
