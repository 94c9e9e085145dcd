"""The integers that follow from scales, for nodes other than convolutions: shared by training, export and import.

Scales are exact in float32 and combined in float64, so that a file of float32 scales brings every integer back.
Convolutions have `conv_ratio`, `requant_from_ratio` and `skip_multiplier` in compile/graph.py.
"""

import numpy as np

from compile.graph import CONV_MIN_SHIFT, Requant, conv_ratio, requant_from_ratio

ADD_BITS = 20  # width of the larger multiplier of an Add: two 8-bit operands stay below 2**29


def float32(scale: float) -> float:
    """The scale that a file can hold."""
    return float(np.float32(scale))


def conv_requant(x_scale: float, w_scale: np.ndarray, out_scale: float) -> Requant:
    """`Requant` [O] of a convolution."""
    return requant_from_ratio(conv_ratio(x_scale, w_scale, out_scale), CONV_MIN_SHIFT)


def rescale_requant(x_scale: float, out_scale: float, area: int = 1) -> Requant:
    """`Requant` [1] of a Rescale, or of an AvgPool over `area` pixels."""
    return requant_from_ratio(float32(x_scale) / (float32(out_scale) * area))


def add_integers(a_scale: float, b_scale: float, out_scale: float) -> tuple[tuple[int, int], Requant]:
    """Multipliers of an Add and its `Requant` [1], a power of two."""
    ratios = np.array([float32(a_scale), float32(b_scale)]) / float32(out_scale)
    unit = ADD_BITS - int(np.frexp(ratios.max())[1])
    return tuple(int(m) for m in np.rint(np.ldexp(ratios, unit))), requant_from_ratio(2.0 ** -unit)


def logit_scale(x_scale: float, w_scale: float) -> float:
    """Scale of the int32 logits: the product, rounded to float32."""
    return float(np.float32(x_scale) * np.float32(w_scale))
