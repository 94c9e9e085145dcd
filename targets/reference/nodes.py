"""The operators of the integer network, over tensors of unsigned codes: `real = scale * (code - zero_point)`.

They hold only integers and the scales those came from. Ratios of scales become `Requant`, the only rounding rule there
is (`requantize` in targets/reference/interpreter.py):

    acc  = ((sum of w * (x - zero_point)) << left) + bias + (skip - zero_point) * skip_multiplier
    code = clamp(((((acc * multiplier) >> 31) + (1 << (shift - 1))) >> shift) + zero_point, qmin, qmax)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BITS = range(2, 9)
ONE_31 = 1 << 31
CONV_MIN_SHIFT = 10  # convolutions keep ten bits below the output code: room for exact biases and skip multipliers


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

    weight int8 [O, kH, kW, I / groups] in -2**(w_bits-1) .. 2**(w_bits-1)-1; bias int64 [O] in units of the
    accumulator after `requant.left`; padding (top, left, bottom, right), filled with the input's zero point;
    skip_multiplier int64 [O] where `skip` names a tensor of the output's shape. `requant` None: the output is the
    int32 accumulator itself (logits). w_scale float32 [O] is what the integers were derived from.
    """

    name: str
    input: str
    output: str
    weight: npt.NDArray[np.int8]
    w_bits: int
    bias: npt.NDArray[np.int64]
    w_scale: npt.NDArray[np.float32]
    requant: Requant | None = None
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    qmin: int = 0
    qmax: int = 255
    skip: str | None = None
    skip_multiplier: npt.NDArray[np.int64] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads."""
        return (self.input,) if self.skip is None else (self.input, self.skip)


@dataclass(frozen=True, eq=False)
class Add:
    """acc = (a - za) * multipliers[0] + (b - zb) * multipliers[1], then requantized with one ratio for all channels."""

    name: str
    a: str
    b: str
    output: str
    multipliers: tuple[int, int]
    requant: Requant
    qmin: int = 0
    qmax: int = 255

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads."""
        return (self.a, self.b)


class _OneInput:
    """What nodes that read one tensor, their `input`, have in common."""

    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads."""
        return (self.input,)


@dataclass(frozen=True, eq=False)
class AvgPool(_OneInput):
    """acc = sum of (x - zero_point) over a window without padding; the ratio holds the division by its area."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: int
    requant: Requant
    qmin: int = 0
    qmax: int = 255


@dataclass(frozen=True, eq=False)
class MaxPool(_OneInput):
    """Largest code of a window; padding never wins. Input and output share scale, zero point and bits."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Shortcut(_OneInput):
    """Every stride-th pixel, `before` channels of the zero point in front and the rest behind (ResNet's option A)."""

    name: str
    input: str
    output: str
    stride: int = 1
    before: int = 0


@dataclass(frozen=True, eq=False)
class Rescale(_OneInput):
    """The same values in another scale or width: acc = x - zero_point, requantized with one ratio for all channels."""

    name: str
    input: str
    output: str
    requant: Requant
    qmin: int = 0
    qmax: int = 255


Node = Conv | Add | AvgPool | MaxPool | Shortcut | Rescale


def requant_from_ratio(ratio: npt.ArrayLike, min_shift: int = 1) -> Requant:
    """Returns the `Requant` nearest to positive real ratios, with shift >= min_shift reached by shifting left first.

    ratio: float or float64 [C]. min_shift 1 shifts left only for ratios of 1/2 or more. Ratios below 2**-32 send
    every accumulator to the zero point, as does the smallest ratio that can be held, which they become.
    Raises GraphError for ratios that are not positive and finite.
    """
    ratios = np.atleast_1d(np.asarray(ratio, np.float64))
    if not (np.isfinite(ratios).all() and (ratios > 0).all()):
        raise GraphError(f"a ratio of scales must be positive and finite, got {ratios.min()} .. {ratios.max()}")
    mantissa, exponent = np.frexp(ratios)
    multiplier = np.rint(mantissa * ONE_31).astype(np.int64)
    carry = multiplier == ONE_31
    multiplier, exponent = np.where(carry, ONE_31 // 2, multiplier), exponent.astype(np.int64) + carry
    left = np.maximum(0, min_shift + exponent)
    shift = left - exponent
    tiny = shift > 31
    return Requant(left, np.where(tiny, ONE_31 // 2, multiplier), np.minimum(shift, 31))


def conv_ratio(x_scale: float, w_scale: npt.NDArray[np.float32], out_scale: float) -> npt.NDArray[np.float64]:
    """Returns float64 [O], from scales that are exact in float32: the one formula that training and import share."""
    exact = np.asarray(w_scale, np.float32).astype(np.float64)
    ratio: npt.NDArray[np.float64] = np.float64(np.float32(x_scale)) * exact / np.float64(np.float32(out_scale))
    return ratio


def skip_multiplier(
    x_scale: float, w_scale: npt.NDArray[np.float32], left: npt.NDArray[np.int64], skip_scale: float
) -> npt.NDArray[np.int64]:
    """Returns int64 [O]: how many units of the shifted accumulator one code of the residual operand is worth."""
    unit = np.float64(np.float32(x_scale)) * np.asarray(w_scale, np.float32).astype(np.float64) / np.exp2(left)
    units: npt.NDArray[np.int64] = np.rint(np.float64(np.float32(skip_scale)) / unit).astype(np.int64)
    return units
