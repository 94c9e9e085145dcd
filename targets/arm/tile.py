"""What dense convolutions on NEON share: a tile of pixels by channels that walks over rows, tiles and blocks.

NHWC makes the kW * Cin bytes of a kernel row one run of memory, read 16 at a time. The multiplies take signed bytes;
codes of 8 bits do not fit one, so 128 is taken off them and put back through the bias.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.arm.epilogue import NeonConv, Tile
from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import over_rows
from targets.cpu.winograd.plan import at_once
from targets.kernel import Buffers, Kernel, Step, is_step_of
from targets.reference.nodes import Conv


@dataclass(frozen=True)
class Multiply:
    """How a tile, pixels of a row by channels, is multiplied.

    sums(codes, filters, pixels) gives int32x4 sums [pixels][quads of channels]: codes(p, dy, k, lanes=16) is the int8
    vector at byte k of kernel row dy of pixel p, filters(n) the n-th int8x16 of the block's own. halves: the sums are
    int16x4.
    """

    pixels: int
    channels: int
    sums: Callable[..., Sequence[Sequence[Any]]]
    halves: bool = False


def applies(step: Step[Any]) -> bool:
    """Returns whether the step is a dense convolution of neighbouring taps."""
    return is_step_of(step, Conv) and step.node.groups == 1 and step.node.is_regular


@dataclass(frozen=True)
class PixelRuns:
    """The pixels of an output as `rows` of some width, taken `pixels` at a time."""

    rows: int
    width: int
    pixels: int

    @property
    def tiles(self) -> int:
        """Tiles of a row."""
        return -(-self.width // self.pixels)

    @classmethod
    def of(cls, step: Step[Any], most: int) -> "PixelRuns":
        """Returns the output's own rows, or all of them as one run.

        One run can be where each pixel is made of one of a map without gaps; it is taken where it leaves less to
        compute in vain.
        """
        node, (oh, ow, _), (_, left, _, right) = step.node, step.write.tensor.shape, step.reads[0].border
        own = cls(oh, ow, at_once(ow, most))
        one = cls(1, oh * ow, at_once(oh * ow, most))
        alone = (
            node.weight.shape[1:3] == (1, 1) and node.stride == (1, 1) and not any(node.padding) and left + right == 0
        )
        return one if alone and one.computed < own.computed else own

    @property
    def computed(self) -> int:
        """All pixels, with those computed in vain."""
        return self.rows * self.tiles * self.pixels


def zeros(count: int, dtype: str, lanes: int) -> Any:
    """Returns a buffer of `count` zeroed vectors that LLVM keeps in registers."""
    buffer = T.alloc_buffer((count * lanes,), dtype, scope="local", annotations={"disable_lower_builtin": True})
    for v in range(count):
        T.buffer_store(buffer, T.broadcast(T.cast(0, dtype), lanes), [T.ramp(v * lanes, 1, lanes)])
    return buffer


def gathered(weight: np.ndarray, multiple: int) -> bool:
    """Returns whether a pixel's kernel rows, of weights [O, kH, kW, I], are worth a copy into one run.

    They are where they are short, and apart would fill up with more zeros.
    """
    _, kh, kw, i = weight.shape
    apart, together = (-(-n // multiple) for n in (kw * i, kh * kw * i))
    return kh > 1 and kw * i <= 32 and together < kh * apart


def rows_of(weight: np.ndarray, channels: int, multiple: int) -> np.ndarray:
    """Returns int8 [blocks, channels, kH, K] of weights [O, kH, kW, I]: K is kW * I, with zeros up to a multiple.

    All rows are one where they are gathered.
    """
    if gathered(weight, multiple):
        weight = weight.reshape(weight.shape[0], 1, 1, -1)
    o, kh, kw, i = weight.shape
    blocks, k = -(-o // channels), -(-kw * i // multiple) * multiple
    full = np.zeros((blocks * channels, kh, k), np.int8)
    full[:o, :, : kw * i] = weight.reshape(o, kh, kw * i)
    return full.reshape(blocks, channels, kh, k)


def signed(step: Step[Any]) -> bool:
    """Returns whether codes are signed bytes as they are."""
    return step.reads[0].tensor.qmax < 128


def signed_codes(buffer: Any, at: Any, as_they_are: bool, lanes: int = 16) -> Any:
    """Returns the int8 vector of the codes from an index on: as they are, or less 128."""
    x = buffer[T.ramp(at, 1, lanes)]
    x = x if as_they_are else T.bitwise_xor(x, T.broadcast(T.uint8(128), lanes))
    return T.reinterpret(x, dtype=f"int8x{lanes}")


class Window:
    """Where a tile's codes come from: the map itself, or a copy of one output row's kernel rows, pixel by pixel."""

    def __init__(self, step: Step[Any], multiple: int):
        self.step, self.node = step, step.node
        self.plain = signed(step)
        _, kh, kw, i = step.node.weight.shape
        self.gathered, self.bytes = gathered(step.node.weight, multiple), kw * i
        self.stride = -(-kh * kw * i // 16) * 16

    def prepare(self, codes: Any, y: Any) -> Any:
        """Returns the copies for row y of the output, or None where the map itself is read."""
        if not self.gathered:
            return None
        width, kh = self.step.write.tensor.shape[1], self.node.weight.shape[1]
        copies = T.alloc_buffer(
            (width * self.stride + 32,), "uint8", scope="local", annotations={"disable_lower_builtin": True}
        )
        with T.serial(width) as x:
            for dy in range(kh):  # in this order: what a copy writes beyond its bytes, the next one overwrites
                for k in range(0, self.bytes, 16):
                    value = codes[T.ramp(self._at(y, x, dy) + k, 1, 16)]
                    T.buffer_store(copies, value, [T.ramp(x * self.stride + dy * self.bytes + k, 1, 16)])
        return copies

    def read(self, codes: Any, copies: Any, y: Any, x: Any, dy: Any, k: Any, lanes: int) -> Any:
        """Returns the int8 vector at byte k of kernel row dy of pixel (y, x)."""
        if copies is None:
            return signed_codes(codes, self._at(y, x, dy) + k, self.plain, lanes)
        return signed_codes(copies, x * self.stride + k, self.plain, lanes)

    def _at(self, y: Any, x: Any, dy: Any) -> Any:
        node = self.node
        return self.step.reads[0].at(y * node.stride[0] + dy - node.padding[0], x * node.stride[1] - node.padding[1])


def tiled(
    step: Step[Any], epilogues: Epilogues, rule: str, multiply: Multiply, weights_of_block: np.ndarray, window: Window
) -> Kernel:
    """Returns a kernel of tiles; its units are rows of the output, or tiles of one run of pixels.

    weights_of_block: int8 [blocks, vectors, 16].
    """
    node, (oh, ow, o) = step.node, step.write.tensor.shape
    blocks, vectors, _ = weights_of_block.shape
    epilogue: NeonConv = epilogues.conv(step, offset=0 if window.plain else 128)
    runs = PixelRuns.of(step, multiply.pixels)
    pixels, one_run = runs.pixels, runs.width > ow
    apart = one_run and any(layout.border[1] + layout.border[3] for layout in (*step.writes, *step.reads[1:]))

    def at(buffers: Buffers, copies: Any, y: Any, x0: Any) -> None:
        """A tile's pixels, in every block of channels."""
        places = [(y, x0 + p) for p in range(pixels)]
        if apart:
            places = [(T.bind((x0 + p) // ow), T.bind((x0 + p) % ow)) for p in range(pixels)]

        def block(b: Any, count: int) -> None:
            def codes(p: int, dy: Any, k: Any, lanes: int = 16) -> Any:
                return window.read(buffers.reads[0], copies, y, x0 + p, dy, k, lanes)

            def filters(n: Any) -> Any:
                return buffers.weights[T.ramp((b * vectors + n) * 16, 1, 16)]

            sums, channel = multiply.sums(codes, filters, pixels), b * multiply.channels
            epilogue.put_tile(Tile(sums, places, channel, count, channel, multiply.halves), buffers)

        if blocks > 1:
            with T.serial(blocks - 1) as b:
                block(b, multiply.channels)
        block(blocks - 1, o - (blocks - 1) * multiply.channels)

    def row(buffers: Buffers, y: Any) -> None:
        copies = window.prepare(buffers.reads[0], y)
        with T.serial(runs.tiles) as t:
            # the last tile of a row overlaps the one before
            at(buffers, copies, y, T.min(t * pixels, ow - pixels))

    def of_run(buffers: Buffers, t: Any) -> None:
        # the last tile overlaps the one before, whoever computes it: both write the same codes
        at(buffers, None, 0, T.bind(T.min(t * pixels, runs.width - pixels)))

    emit = over_rows(step, of_run if one_run else row)
    units = runs.tiles if one_run else oh
    return Kernel(rule, weights_of_block.reshape(-1), node.w_bits, epilogue.table, emit, units)
