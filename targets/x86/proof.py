"""Requantization in float32 and in int16, where it is proved to give the reference's code for every sum.

    float32   code = trunc(fma(float(sum), scale, offset)); the offset holds bias, zero point and the rounding half
    int16     code = ((centred << left) * multiplier + 2**14 >> 15) + zero point, one vpmulhrsw, for sums that are codes

Both formulas, and the reference's (targets/reference/interpreter.py: requantize), never fall as the sum grows. So
float32 is right everywhere if it is right on either side of each of the at most 255 sums where the reference takes the
next code; those leave an interval for the offset, and its middle is taken. Ratios of one over an odd integer, which
training makes, put all steps of a channel at the same distance from a tie, so that the interval is wide. The int16 form
is tried on all 256 codes."""

from dataclasses import dataclass

import numpy as np

from targets.reference import interpreter
from targets.reference.nodes import Requant

LARGEST = 1 << 30  # magnitudes of sums and of scaled sums stay below: conversions to and from int32 never overflow


@dataclass(frozen=True, eq=False)
class Scaling:
    """float32 [C]: code = trunc(fma(float(sum), scale, offset)), then clamped."""

    scale: np.ndarray
    offset: np.ndarray

    def rows(self) -> list[np.ndarray]:
        """Returns scale and offset, int64 [C] each, as int32 words of a kernel's table."""
        return [a.view(np.int32).astype(np.int64) for a in (self.scale, self.offset)]


@dataclass(frozen=True)
class Range:
    """Codes that a node may write: its zero point and the clamp."""

    zero_point: int
    qmin: int
    qmax: int


def float_scaling(ratio: Requant, bias, low, high, codes: Range, shifted: bool = True, only=None) -> Scaling | None:
    """The Scaling of sums int64 in low..high [C] that equals requantize((sum << left) + bias), or None.

    shifted: whether the sums are to be shifted by ratio.left first. only: sorted int64 [n], the sums there are, where
    that is not every integer of the range.
    """
    left = ratio.left if shifted else np.zeros_like(ratio.left)
    real = np.ldexp(ratio.multiplier.astype(np.float64), left - 31 - ratio.shift)
    real, bias, low, high = np.broadcast_arrays(real, *(np.asarray(a, np.int64) for a in (bias, low, high)))
    levels = np.arange(codes.qmin + 1, codes.qmax + 1)[:, None]
    first = _first_sums(ratio, left, bias, low, high, codes, levels)
    before = first - 1
    if only is not None:
        place = np.searchsorted(only, first)
        first, before = np.append(only, high.max() + 1)[place], np.append(low.min() - 1, only)[place]
    usual = bias * np.ldexp(real, -left) + codes.zero_point + 0.5
    scale, offset, proved = (np.zeros(real.shape, t) for t in (np.float32, np.float32, bool))
    for ulps in (0, 1, -1, 2, -2):  # where the nearest scale has no offset, a neighbour may have one
        s = real.astype(np.float32) + ulps * np.spacing(real.astype(np.float32))
        z = _offset(s, usual, first, before, low, high, levels)
        scale, offset = np.where(proved, scale, s), np.where(proved, offset, z)
        proved = proved | np.isfinite(z)
        if proved.all():
            return Scaling(scale, offset)
    return None


def _offset(scale, usual, first, before, low, high, levels) -> np.ndarray:
    """float32 [C]: an offset that puts `first` at its level or above and `before` below; NaN where there is none.

    Rounding a number of at least a level, which float32 holds, gives at least the level; rounding one that is below by
    more than half a unit in the last place gives less. Products of a float32 sum and scale are exact in float64.
    """
    at = lambda sums: levels - sums.astype(np.float32).astype(np.float64) * scale.astype(np.float64)  # noqa: E731
    least, most = at(first), at(before) - 0.51 * np.spacing(levels.astype(np.float32))
    least = np.where(first <= high, least + np.spacing(np.abs(least)), -np.inf).max(0, initial=-np.inf)
    most = np.where(before >= low, most - np.spacing(np.abs(most)), np.inf).min(0, initial=np.inf)
    bounded = np.isfinite(least) & np.isfinite(most)
    middle = np.where(bounded, least, usual) / 2 + np.where(bounded, most, usual) / 2
    offset = np.clip(middle, least, np.maximum(least, most)).astype(np.float32)
    reach = np.maximum(*(np.abs(s * scale.astype(np.float64) + offset) for s in (low, high)))
    fits = (least <= offset) & (offset <= most) & (reach < LARGEST) & (-low <= LARGEST) & (high <= LARGEST)
    return np.where(fits, offset, np.float32(np.nan))


def _first_sums(ratio: Requant, left, bias, low, high, codes: Range, levels) -> np.ndarray:
    """int64 [levels, C]: the smallest sum in low..high whose code reaches the level, high + 1 where none does.

    Searched near the tie that float64 finds; where the reference does not confirm what was found there, everywhere.
    """
    reached = lambda s: (  # noqa: E731
        interpreter.requantize((np.clip(s, low, high) << left) + bias, ratio, codes.zero_point, 0, 255) >= levels
    )
    tie = np.ldexp((levels - codes.zero_point - 0.5) / ratio.multiplier, 31 + ratio.shift)
    near = np.clip(np.ldexp(tie - bias, -left), low, high + 1).astype(np.int64)
    everywhere = np.zeros_like(near)
    for first, end in ((near - 1, near + 2), (everywhere + low, everywhere + high + 1)):
        a, b = np.clip(first, low, high + 1), np.clip(end, low, high + 1)
        while (a < b).any():
            middle = (a + b) >> 1
            below = (a < b) & ~reached(middle)
            a, b = np.where(below, middle + 1, a), np.where(below, b, np.minimum(b, middle))
        if (((a > high) | reached(a)) & ((a == low) | ~reached(a - 1))).all():
            break
    return a


@dataclass(frozen=True)
class Fraction:
    """code = ((centred << left) * multiplier + 2**14 >> 15) + zero point, in int16."""

    left: int
    multiplier: int


def fraction(ratio: Requant, zero_point: int, codes: Range) -> Fraction | None:
    """The Fraction that equals the reference for every code 0..255 less `zero_point`, or None."""
    centred = np.arange(256) - zero_point
    expected = interpreter.requantize(centred << ratio.left, ratio, codes.zero_point, codes.qmin, codes.qmax)
    real = np.ldexp(float(ratio.multiplier[0]), int(ratio.left[0] - 31 - ratio.shift[0]))
    for left in range(8):
        nearest = round(real * 2.0 ** (15 - left))
        for multiplier in (nearest, nearest + 1, nearest - 1):
            if 0 < multiplier < 1 << 15:
                codes_given = ((centred << left) * multiplier + (1 << 14) >> 15) + codes.zero_point
                if np.array_equal(np.clip(codes_given, codes.qmin, codes.qmax), expected):
                    return Fraction(left, multiplier)
    return None
