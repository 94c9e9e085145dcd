"""The integers that follow from scales: shared by training, export and import.

Scales are exact in float32 and combined in float64, so that a file of float32 scales brings every integer back.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from targets.reference.nodes import GraphError, Requant

ONE_31 = 1 << 31
CONV_MIN_SHIFT = 10  # convolutions keep ten bits below the output code: room for exact biases and skip multipliers
ADD_BITS = 20  # width of the larger multiplier of an Add: two 8-bit operands stay below 2**29


def float32(scale: float) -> float:
    """Returns the scale that a file can hold."""
    return float(np.float32(scale))


def requant_from_ratio(ratio: npt.ArrayLike, min_shift: int = 1) -> Requant:
    """Returns the `Requant` nearest to positive real ratios, with shift >= min_shift reached by shifting left first.

    ratio: float or float64 [C]. min_shift 1 shifts left only for ratios of 1/2 or more. Ratios below 2**-32 send
    every accumulator to the zero point, as does the smallest ratio that can be held, which they become.
    Raises GraphError for ratios that are not positive and finite.
    """
    ratios = np.atleast_1d(np.asarray(ratio, np.float64))
    if not (np.isfinite(ratios).all() and (ratios > 0).all()):
        raise GraphError(f"expected a positive and finite ratio of scales, got {ratios.min()} .. {ratios.max()}")
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


def conv_requant(x_scale: float, w_scale: npt.NDArray[np.float32], out_scale: float) -> Requant:
    """Returns the `Requant` [O] of a convolution."""
    return requant_from_ratio(conv_ratio(x_scale, w_scale, out_scale), CONV_MIN_SHIFT)


def rescale_requant(x_scale: float, out_scale: float, area: Any = 1) -> Requant:
    """Returns the `Requant` [1] of a Rescale, or of an AvgPool over `area` pixels; [n] of areas float64 [n]."""
    return requant_from_ratio(float32(x_scale) / (float32(out_scale) * area))


def add_integers(a_scale: float, b_scale: float, out_scale: float) -> tuple[tuple[int, int], Requant]:
    """Returns the multipliers of an Add and its `Requant` [1], a power of two."""
    ratios = np.array([float32(a_scale), float32(b_scale)]) / float32(out_scale)
    unit = ADD_BITS - int(np.frexp(ratios.max())[1])
    a, b = np.rint(np.ldexp(ratios, unit))
    return (int(a), int(b)), requant_from_ratio(2.0**-unit)


def logit_scale(x_scale: float, w_scale: float) -> float:
    """Returns the scale of the int32 logits: the product, rounded to float32."""
    return float(np.float32(x_scale) * np.float32(w_scale))


LARGEST_Q = (1 << 14) - 1  # keeps the distance to a tie, code / (2 Q), far above float32's rounding
LARGEST_P, LARGEST_POINTWISE_Q = 64, 511  # a float average of many codes is rounded more often


def odd_ratio(ratio: float) -> tuple[int, int]:
    """Returns (P, Q), P <= 64 and Q <= 511 odd, whose quotient is nearest to a ratio; the smallest P of equals."""
    p = np.arange(1, LARGEST_P + 1)
    q = np.clip(_nearest_odd(p / ratio), 1, LARGEST_POINTWISE_Q)
    best = int(np.argmin(np.abs(np.log(p / q / ratio)).round(12)))
    return int(p[best]), int(q[best])


def _odd_floor(value: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Largest odd integer <= value (values of at least 1)."""
    halves: npt.NDArray[np.int64] = np.floor((np.asarray(value, np.float64) - 1) / 2).astype(np.int64)
    return 2 * halves + 1


def _nearest_odd(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    below = _odd_floor(value)
    nearest: npt.NDArray[Any] = np.where(value - below <= 1, below, below + 2)
    return nearest


def tie_free(
    weight: npt.NDArray[np.int64], ratio: npt.NDArray[np.float64], divisor: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Returns (weight, left, Q) of int64 codes [O, ...] and natural ratios float64 [O].

    acc * ratio is about acc * 2**left / Q.

    Q is `divisor` times an odd integer. A channel of so small a ratio that Q would pass LARGEST_Q gets smaller codes,
    by a power of two: variants that share their weights then mostly share those codes too, though their ratios differ.
    """
    smallest = 1 / LARGEST_Q
    shrink = np.exp2(np.minimum(0, np.floor(np.log2(ratio / smallest))))
    weight = np.floor(weight * shrink.reshape(-1, *[1] * (weight.ndim - 1)) + 0.5).astype(np.int64)
    ratio = np.maximum(ratio / shrink, smallest)
    left = requant_from_ratio(ratio, CONV_MIN_SHIFT).left
    q = divisor * _nearest_odd(np.exp2(left) / ratio / divisor)
    low, high = (1 << CONV_MIN_SHIFT) + 1, (2 << CONV_MIN_SHIFT) - 1  # where the same left follows from the new ratio
    q = np.where(q < low, q + 2 * divisor, q)
    return weight, left, np.where((left > 0) & (q > high), q - 2 * divisor, q)
