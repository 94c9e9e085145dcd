"""The integers that follow from scales, for nodes other than convolutions: shared by training, export and import.

Scales are exact in float32 and combined in float64, so that a file of float32 scales brings every integer back.
Convolutions have `conv_ratio`, `requant_from_ratio` and `skip_multiplier` in targets/reference/nodes.py.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from targets.reference.nodes import CONV_MIN_SHIFT, Requant, conv_ratio, requant_from_ratio

ADD_BITS = 20  # width of the larger multiplier of an Add: two 8-bit operands stay below 2**29


def float32(scale: float) -> float:
    """Returns the scale that a file can hold."""
    return float(np.float32(scale))


def conv_requant(x_scale: float, w_scale: npt.NDArray[np.float32], out_scale: float) -> Requant:
    """Returns the `Requant` [O] of a convolution."""
    return requant_from_ratio(conv_ratio(x_scale, w_scale, out_scale), CONV_MIN_SHIFT)


def rescale_requant(x_scale: float, out_scale: float, area: int = 1) -> Requant:
    """Returns the `Requant` [1] of a Rescale, or of an AvgPool over `area` pixels."""
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
