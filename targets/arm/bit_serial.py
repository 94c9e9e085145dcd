"""Dense convolution of few bits without multiplies (A72): bit planes of codes and weights, ANDed and counted.

A code is the sum of its planes, 2^i a_i; a weight likewise, its top plane p negative. So a sum of products is the sum
of 2^(i+j) * popcount(a_i & p_j), and bytes of eight channels make 128 products of one bit by an AND, a count, an add.
Register lanes are pixels: one byte of weights meets 16 bytes of codes, so nothing is added across lanes, and a kernel
of few channels fills registers as well as one of many. Two registers hold 2 rows of 16 pixels, or 4 rows of 8.

    rows of codes are packed to planes once for every ROWS rows of the output, into
    [row][8 channels][plane][column % stride][column // stride]
    counts of one power of two stay in bytes as long as they fit, then join int16 sums
    8 channels of 32 pixels are transposed to where every kernel of the family ends
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.arm import long_multiply, outer_product, winograd
from targets.arm.epilogue import QUAD, NeonConv, Tile, joined, lanes_of, neon
from targets.arm.tile import applies, zeros
from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import fill_borders
from targets.kernel import Buffers, Kernel, Step

ROWS = 4  # of the output, computed from one packing
BYTE = 8  # channels
LANES = 16
VECTORS = 2
OUTPUTS = 8  # channels transposed together
REGISTERS = 16  # for counts


@dataclass(frozen=True)
class Powers:
    """Which products of planes count together: (sign, exponent) of each counter, and the counter of each (i, j)."""

    counters: tuple[tuple[int, int], ...]
    counter_of: dict[tuple[int, int], int]

    @classmethod
    def make(cls, w_bits: int, a_bits: int) -> "Powers":
        """Returns the counters of weights and codes of those widths."""
        keys = {(i, j): (-1 if j == w_bits - 1 else 1, i + j) for i in range(a_bits) for j in range(w_bits)}
        counters = tuple(sorted(set(keys.values())))
        return cls(counters, {pair: counters.index(key) for pair, key in keys.items()})

    @property
    def run(self) -> int:
        """How many bytes of weights fit the counters: each adds eight at most for every pair that shares one."""
        shared = max(list(self.counter_of.values()).count(c) for c in range(len(self.counters)))
        return 255 // (BYTE * shared)


def planes(weight: np.ndarray, w_bits: int) -> np.ndarray:
    """Returns uint8 [O, kH, kW, bytes, w_bits] of weights [O, kH, kW, I]: bit c of a byte is channel c of its eight."""
    o, _, _, i = weight.shape
    padded = np.pad(weight, ((0, -o % OUTPUTS), (0, 0), (0, 0), (0, -i % BYTE))).view(np.uint8)
    bits = padded[..., None] >> np.arange(w_bits, dtype=np.uint8) & 1
    return np.packbits(bits.reshape(*padded.shape[:3], -1, BYTE, w_bits), axis=-2, bitorder="little")[..., 0, :]


def cheaper(step: Step[Any]) -> bool:
    """Returns whether counting takes less than multiplying, which is about 8 products a cycle."""
    node, a_bits = step.node, step.reads[0].tensor.bits
    oh, ow, o = step.write.tensor.shape
    segment, rows = _shape(ow)
    _, kh, kw, i = node.weight.shape
    lanes = -(-oh // rows) * rows * -(-ow // segment) * segment
    counted = lanes / LANES * -(-o // OUTPUTS) * OUTPUTS * kh * kw * -(-i // BYTE) * (3 * node.w_bits * a_bits + 1) / 2
    ends = lanes * o * 1.5 + lanes * node.stride[0] ** 2 * i * 0.5  # transposing, and packing codes
    others = (long_multiply.cycles(step), outer_product.cycles(step), winograd.cycles(step))
    return 1.1 * (counted + ends) < min(others)


def bit_serial(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Dense convolution by bit planes, where counting takes less than multiplying.

    Weights are stored [O / together][kH][kW][8 channels][together][plane], a byte each, still w_bits a weight.
    """
    if not applies(step):
        return None
    node, x = step.node, step.reads[0].tensor
    largest = np.abs(node.weight.astype(np.int64)).sum((1, 2, 3)).max() * x.qmax
    counters = len(Powers.make(node.w_bits, x.bits).counters)
    if counters > REGISTERS // VECTORS or largest > long_multiply.INT16_MAX or not cheaper(step):
        return None
    kernel = _BitSerial(step, epilogues.conv(step))
    weights = planes(node.weight, node.w_bits)
    weights = weights.reshape(-1, kernel.together, *weights.shape[1:]).transpose(0, 2, 3, 4, 1, 5).reshape(-1)
    units = -(-step.write.tensor.shape[0] // ROWS)
    rule = f"bit serial, {node.w_bits} x {x.bits}"
    return Kernel(rule, weights.view(np.int8), 8, kernel.epilogue.table, kernel.emit, units)


def _shape(width: int) -> tuple[int, int]:
    """Neighbouring pixels in a register, and rows in a tile."""
    return (16, VECTORS) if width > 8 else (8, 2 * VECTORS)


class _BitSerial:
    """Emits the code of one step."""

    def __init__(self, step: Step[Any], epilogue: NeonConv):
        self.step, self.node, self.epilogue = step, step.node, epilogue
        _, self.kh, self.kw, channels = step.node.weight.shape
        self.bytes, self.a_bits, self.w_bits = -(-channels // BYTE), step.reads[0].tensor.bits, step.node.w_bits
        self.powers = Powers.make(self.w_bits, self.a_bits)
        self.together = 2 if len(self.powers.counters) * 2 * VECTORS <= REGISTERS else 1  # channels of the output
        self.height, self.width, self.outputs = step.write.tensor.shape
        self.segment, self.rows = _shape(self.width)
        self.tiles = -(-self.width // self.segment)
        self.stride = step.node.stride[0]
        # columns of one phase: those that the last tile reads, in whole registers
        last = max(0, self.width - self.segment)
        self.columns = -(-(last + self.segment + (self.kw - 1) // self.stride) // LANES) * LANES
        self.packed_rows = (ROWS - 1) * self.stride + self.kh

    def emit(self, buffers: Buffers, units: tuple[Any, Any]) -> None:
        """Emits the code of some units."""
        first, end = units
        size = self.packed_rows * self.bytes * self.a_bits * self.stride * self.columns
        packed = _scratch(size, "uint8")
        with T.serial(first, end) as unit:
            self.pack(buffers.reads[0], packed, unit * ROWS)
            with T.grid(ROWS // self.rows, self.tiles) as (row, t):
                x0 = T.min(t * self.segment, max(0, self.width - self.segment))
                corner = Corner(packed, unit * ROWS, row * self.rows, x0)
                blocks = -(-self.outputs // OUTPUTS)
                if blocks > 1:
                    with T.serial(blocks - 1) as b:
                        self.block(buffers, corner, b, OUTPUTS)
                self.block(buffers, corner, blocks - 1, self.outputs - (blocks - 1) * OUTPUTS)
        fill_borders(self.step, buffers.writes, first)

    def at(self, row: Any, byte: Any, plane: int, phase: Any, column: Any) -> Any:
        """Returns the index of a packed plane."""
        return (((row * self.bytes + byte) * self.a_bits + plane) * self.stride + phase) * self.columns + column

    def pack(self, codes: Any, packed: Any, y: Any) -> None:
        """Packs the rows that output rows y .. y + ROWS - 1 read; beyond the map, rows and columns are repeated."""
        layout, (top, left, _, _) = self.step.reads[0], self.node.padding
        bottom = layout.tensor.shape[0] + layout.border[2] - 1
        right = layout.tensor.shape[1] + layout.border[3] - 1
        with T.grid(self.packed_rows, self.bytes) as (r, byte):
            row = T.min(y * self.stride - top + r, bottom)
            for phase in range(self.stride):

                def group(first, column, byte=byte, row=row, r=r, phase=phase):
                    """16 columns, of which the k-th lies at column(k) of the map."""
                    eights = [codes[T.ramp(layout.at(row, column(k), byte * BYTE), 1, BYTE)] for k in range(LANES)]
                    pairs = [T.bind(joined(eights[k], eights[k + 1], BYTE)) for k in range(0, LANES, 2)]
                    for plane in range(self.a_bits):
                        T.buffer_store(
                            packed, _plane(pairs, plane), [T.ramp(self.at(r, byte, plane, phase, first), 1, LANES)]
                        )

                place = lambda first, k, phase=phase: (first + k) * self.stride + phase - left  # noqa: E731
                whole = max(0, (right - place(0, 0)) // self.stride + 1) // LANES
                whole = min(whole, self.columns // LANES)
                if whole:
                    with T.serial(whole) as g:
                        group(g * LANES, lambda k, g=g, place=place: place(g * LANES, k))
                for g in range(whole, self.columns // LANES):
                    group(g * LANES, lambda k, g=g, place=place: min(place(g * LANES, k), right))

    def codes(self, corner: "Corner", tap: tuple[Any, Any, Any], plane: int, vector: int) -> Any:
        """Returns a plane of the codes under a tap, (dy, dx, byte), of the tile at a corner."""
        dy, dx, byte = tap
        per = LANES // self.segment
        column = corner.x + dx // self.stride
        rows = [(corner.row + vector * per + s) * self.stride + dy for s in range(per)]
        places = [self.at(row, byte, plane, dx % self.stride, column) for row in rows]
        parts = [corner.packed[T.ramp(place, 1, self.segment)] for place in places]
        return parts[0] if per == 1 else joined(*parts, self.segment)

    def block(self, buffers: Buffers, corner: "Corner", b: Any, count: int) -> None:
        """Computes OUTPUTS channels of a tile: sums by channel, then codes by pixel."""
        sums, together = _scratch(OUTPUTS * VECTORS * LANES, "int16"), self.together
        top = corner.y + corner.row
        with T.serial(OUTPUTS // together) as n:
            totals = self.count(buffers.weights, corner, b * OUTPUTS + n * together)
            for (o, v, h), total in totals.items():
                T.buffer_store(sums, total, [T.ramp(((n * together + o) * VECTORS + v) * LANES + h * 8, 1, 8)])
        for group in range(VECTORS * LANES // 8):
            dy, x = divmod(group * 8, self.segment)
            pixels = min(8, self.width - x) if self.width < self.segment else 8
            if pixels <= 0:
                continue
            with T.If(top + dy < self.height), T.Then():
                lines = [T.bind(sums[T.ramp(o * VECTORS * LANES + group * 8, 1, 8)]) for o in range(OUTPUTS)]
                halves = [[T.bind(v) for v in transposed(lines[q : q + QUAD])] for q in range(0, OUTPUTS, QUAD)]
                tile = [[lanes_of(half[p % QUAD], p // QUAD * QUAD, QUAD) for half in halves] for p in range(pixels)]
                places = [(top + dy, corner.x + x + p) for p in range(pixels)]
                channel = b * OUTPUTS
                self.epilogue.put_tile(Tile(tile, places, channel, count, channel, halves=True), buffers)

    def count(self, weights: Any, corner: "Corner", output: Any) -> dict[tuple[int, int, int], Any]:
        """Returns int16x8 sums of the channels from `output` on: (channel, register, half) -> vector."""
        kinds, a, w, together = self.powers.counters, self.a_bits, self.w_bits, self.together
        totals = zeros(together * VECTORS * 2, "int16", 8)

        def run(extents, place):
            counters = zeros(together * VECTORS * len(kinds), "uint8", LANES)
            with T.grid(*extents) as indices:
                dy, dx, byte = place(*indices)
                xs = [[T.bind(self.codes(corner, (dy, dx, byte), i, v)) for i in range(a)] for v in range(VECTORS)]
                at = ((output // together * self.kh + dy) * self.kw + dx) * self.bytes + byte
                loaded = T.bind(T.reinterpret(weights[T.ramp(at * together * w, 1, LANES)], dtype="uint8x16"))
                for o in range(together):
                    ws = [T.bind(T.Shuffle([loaded], [o * w + j] * LANES)) for j in range(w)]
                    for v, (i, j) in itertools.product(range(VECTORS), self.powers.counter_of):
                        k = T.ramp(((o * VECTORS + v) * len(kinds) + self.powers.counter_of[i, j]) * LANES, 1, LANES)
                        ones = T.popcount(T.bitwise_and(xs[v][i], ws[j]))
                        T.buffer_store(counters, counters[k] + ones, [k])
            for o, v, h in itertools.product(range(together), range(VECTORS), range(2)):
                at = T.ramp(((o * VECTORS + v) * 2 + h) * 8, 1, 8)
                total = totals[at]
                for c, (sign, exponent) in enumerate(kinds):
                    counter = counters[T.ramp(((o * VECTORS + v) * len(kinds) + c) * LANES, 1, LANES)]
                    wide = T.cast(lanes_of(counter, h * 8, 8), "int16x8")
                    wide = T.shift_left(wide, T.broadcast(T.int16(exponent), 8)) if exponent else wide
                    total = total + wide if sign > 0 else total - wide
                T.buffer_store(totals, total, [at])

        def positions(first, count: int) -> None:
            """The kernel's positions `first`, `first` + 1, ..."""
            if count == self.kh * self.kw:
                run((self.kh, self.kw, self.bytes), lambda dy, dx, byte: (dy, dx, byte))
            else:
                run((count, self.bytes), lambda k, byte: ((first + k) // self.kw, (first + k) % self.kw, byte))

        limit, every = self.powers.run, self.kh * self.kw
        if self.bytes <= limit:
            count = -(-every // -(-every // (limit // self.bytes)))  # runs of about the same length
            if every > count:
                with T.serial(every // count) as c:
                    positions(c * count, count)
            if rest := every % count or (count == every) * every:
                positions(every - rest, rest)
        else:
            with T.grid(self.kh, self.kw) as (dy, dx):
                for first in range(0, self.bytes, limit):
                    run(
                        (1, min(limit, self.bytes - first)),
                        lambda _, byte, first=first, dy=dy, dx=dx: (dy, dx, first + byte),
                    )
        return {
            (o, v, h): totals[T.ramp(((o * VECTORS + v) * 2 + h) * 8, 1, 8)]
            for o, v, h in itertools.product(range(together), range(VECTORS), range(2))
        }


@dataclass(frozen=True)
class Corner:
    """Where a tile begins: `row` of the unit whose first output row is y, column x; packed: the unit's planes."""

    packed: Any
    y: Any
    row: Any
    x: Any


def _scratch(size: int, dtype: str):
    """Memory on the stack."""
    return T.alloc_buffer((size,), dtype, scope="local", annotations={"disable_lower_builtin": True})


def _plane(pairs: list, plane: int):
    """uint8x16: a bit of the codes of 16 pixels, of eight channels each; pairs: 8 registers of two pixels."""
    shifts = T.Shuffle([T.int8(c - plane) for c in [*range(BYTE)] * 2], list(range(LANES)))
    bits = [
        neon("ushl.v16i8", "uint8x16", T.bitwise_and(p, T.broadcast(T.uint8(1 << plane), LANES)), shifts) for p in pairs
    ]
    while len(bits) > 1:  # bits of a pixel never meet
        bits = [neon("addp.v16i8", "uint8x16", *bits[k : k + 2]) for k in range(0, len(bits), 2)]
    return bits[0]


def transposed(rows: list[Any]) -> list[Any]:
    """Returns 4 vectors int16x8 as two matrices of 4 by 4 side by side, each transposed."""
    for size in (1, 2):
        low = [k + row for block in range(0, 8, 2 * size) for row in (0, 8) for k in range(block, block + size)]
        swapped = list(rows)
        for r in range(QUAD):
            if not r & size:
                pair = [T.bind(rows[r]), T.bind(rows[r + size])]
                swapped[r] = T.Shuffle(pair, low)
                swapped[r + size] = T.Shuffle(pair, [k + size for k in low])
        rows = swapped
    return rows
