"""The operators of the integer network, over tensors of unsigned codes: `real = scale * (code - zero_point)`.

They hold only integers and the scales those came from. Ratios of scales become `Requant`, the only rounding rule there
is (`requantize` in targets/reference/interpreter.py):

    acc  = ((sum of w * (x - zero_point)) << left) + bias + (skip - zero_point) * skip_multiplier
    code = clamp(((((acc * multiplier) >> 31) + (1 << (shift - 1))) >> shift) + zero_point, qmin, qmax)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = range(2, 9)
SIGNED_BYTE_BITS = 9  # of uint8 weights less their zero point

Pair = tuple[int, int]  # of rows, of columns
Padding = tuple[int, int, int, int]  # top, left, bottom, right
NO_PADDING: Padding = (0, 0, 0, 0)


class GraphError(ValueError):
    """The graph cannot be computed exactly; the message names the node, what was expected and what came."""


@dataclass(frozen=True)
class Tensor:
    """Codes of one feature map, [H, W, C] without the batch; uint8 unless `bits` is 32 (logits, int32, one scale)."""

    name: str
    shape: tuple[int, int, int]
    bits: int = 8
    scale: float = 1.0
    zero_point: tuple[int, ...] = (0,)  # one for all channels, or one per channel

    @property
    def qmax(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def zero_points(self) -> npt.NDArray[np.int64]:
        """Returns int64 [C]."""
        return np.broadcast_to(np.asarray(self.zero_point, np.int64), (self.shape[2],))


@dataclass(frozen=True, eq=False)
class Requant:
    """`acc * ratio` with one rounding, ties up: ratio = 2**left * multiplier / 2**(31 + shift), per output channel.

    `left` int64 [C] in 0..30, `multiplier` int64 [C] in 2**30..2**31-1, `shift` int64 [C] in 1..31. Convolutions
    shift their sum left before the bias is added (bias and skip multiplier are in the finer unit); every other node
    shifts its whole accumulator.
    """

    left: npt.NDArray[np.int64]
    multiplier: npt.NDArray[np.int64]
    shift: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution (dense or grouped) with an optional residual operand; a classifier is a 1x1 one on a 1x1 map.

    weight int8 [O, kH, kW, I / groups] in -2**(w_bits-1) .. 2**(w_bits-1)-1, int16 where w_bits is 9 (uint8 codes less
    their zero point); bias int64 [O] in units of the accumulator after `requant.left`; padding is filled with the
    input's zero point; skip_multiplier int64 [O] where `skip` names a tensor of the output's shape. `requant` None: the
    output is the int32 accumulator itself (logits); an int32 output with a `requant` is not clamped. w_scale float32
    [O] is what the integers were derived from.
    """

    name: str
    input: str
    output: str
    weight: npt.NDArray[Any]
    w_bits: int
    bias: npt.NDArray[np.int64]
    w_scale: npt.NDArray[np.float32]
    requant: Requant | None = None
    stride: Pair = (1, 1)
    padding: Padding = NO_PADDING
    groups: int = 1
    qmin: int = 0
    qmax: int = 255
    skip: str | None = None
    skip_multiplier: npt.NDArray[np.int64] | None = None
    dilation: Pair = (1, 1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads."""
        return (self.input,) if self.skip is None else (self.input, self.skip)

    @property
    def window(self) -> Pair:
        """Rows and columns that the kernel reaches over."""
        return reach(self.weight.shape[1:3], self.dilation)

    @property
    def is_regular(self) -> bool:
        """Whether taps are neighbours, weights are signed bytes and both strides are equal, as most kernels need it."""
        return self.dilation == (1, 1) and self.w_bits in BITS and self.stride[0] == self.stride[1]


@dataclass(frozen=True, eq=False)
class _TwoInputs:
    """What nodes that read tensors `a` and `b` have in common; one ratio for all channels."""

    name: str
    a: str
    b: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads."""
        return (self.a, self.b)


@dataclass(frozen=True, eq=False)
class Add(_TwoInputs):
    """acc = (a - za) * multipliers[0] + (b - zb) * multipliers[1], then requantized; a multiplier may be negative."""

    multipliers: Pair
    requant: Requant
    qmin: int = 0
    qmax: int = 255


@dataclass(frozen=True, eq=False)
class Mul(_TwoInputs):
    """acc = (a - za) * (b - zb), then requantized; b may have one pixel, which counts for all (squeeze and excite)."""

    requant: Requant
    qmin: int = 0
    qmax: int = 255


@dataclass(frozen=True, eq=False)
class _OneInput:
    """What nodes that read one tensor have in common."""

    name: str
    input: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads."""
        return (self.input,)


@dataclass(frozen=True, eq=False)
class AvgPool(_OneInput):
    """acc = sum of (x - zero_point) over a window; the ratio holds the division by the window's area.

    Padded pixels add nothing. Of the padding only `counted` belongs to a window's area: none of it where pixels outside
    the map do not count. `requant` has a ratio for each of `areas`, ascending, which are all that occur.
    """

    kernel: Pair
    stride: Pair
    requant: Requant
    qmin: int = 0
    qmax: int = 255
    padding: Padding = NO_PADDING
    counted: Padding = NO_PADDING
    areas: tuple[int, ...] = ()  # () for the one of a whole window


@dataclass(frozen=True, eq=False)
class MaxPool(_OneInput):
    """Largest code of a window; padding never wins. Input and output share scale, zero point and bits."""

    kernel: Pair
    stride: Pair
    padding: Padding = NO_PADDING
    dilation: Pair = (1, 1)

    @property
    def window(self) -> Pair:
        """Rows and columns that a window reaches over."""
        return reach(self.kernel, self.dilation)


@dataclass(frozen=True, eq=False)
class Shortcut(_OneInput):
    """Every stride-th pixel, `before` channels of the zero point in front and the rest behind (ResNet's option A)."""

    stride: Pair = (1, 1)
    before: int = 0


@dataclass(frozen=True, eq=False)
class Gather(_OneInput):
    """out[y, x, c] = in[rows[y], columns[x], channels[c]], the zero point where an index is -1.

    Slices, splits, shuffled channels, padding and resizing to the nearest pixel. Input and output share scale, zero
    point and bits.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Concat:
    """Channels of several maps one after the other; all of them and the output share scale, zero point and bits."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Lookup(_OneInput):
    """out = table[c, in]: any function of one value; table uint8 [1 or C, 2**bits of the input]."""

    table: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Rescale(_OneInput):
    """The same values in another scale or width: acc = x - zero_point, requantized with one ratio for all channels."""

    requant: Requant
    qmin: int = 0
    qmax: int = 255


Node = Conv | Add | Mul | AvgPool | MaxPool | Shortcut | Gather | Concat | Lookup | Rescale


def reach(kernel: Sequence[int], dilation: Pair) -> Pair:
    """Returns the rows and columns that a window with gaps between its taps reaches over."""
    return (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1
