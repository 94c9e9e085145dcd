"""Codes of real numbers: the limits of fused activations, and tables of functions of one value."""

from collections.abc import Callable

import numpy as np

from compile.tflite.errors import refusal
from compile.tflite.records import FileTensor

# The number of each ActivationFunctionType that clamps -> its limits.
LIMITS = {0: (-np.inf, np.inf), 1: (0.0, np.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
Function = Callable[[np.ndarray], np.ndarray]


def nearest_codes(real: np.ndarray, tensor: FileTensor) -> np.ndarray:
    """Returns int64 codes in 0..255 of reals [...]; halves go away from zero, as TFLite rounds them."""
    steps = np.asarray(real, np.float64) / np.float64(tensor.scale[0])
    rounded = np.copysign(np.floor(np.abs(steps) + 0.5), steps)
    return np.clip(rounded + int(tensor.zero_point[0]) + tensor.offset, 0, 255).astype(np.int64)


def clamp_of(activation: int, tensor: FileTensor, where: str) -> tuple[int, int]:
    """Returns the smallest and largest code of 0..255 after a fused activation; raises TfliteError for other ones."""
    if activation not in LIMITS:
        advice = "export it as an operator of its own"
        raise refusal(where, "no fused activation, RELU, RELU6 or RELU_N1_TO_1", f"number {activation}", advice)
    low, high = nearest_codes(np.array(LIMITS[activation]), tensor)
    return int(low), int(high)


def reals_of(tensor: FileTensor) -> np.ndarray:
    """Returns float64 [256]: what the codes 0..255 of a tensor mean."""
    return (np.arange(256) - tensor.offset - int(tensor.zero_point[0])) * np.float64(tensor.scale[0])


def table_of(function: Function, x: FileTensor, out: FileTensor, clamp: tuple[int, int] = (0, 255)) -> np.ndarray:
    """Returns uint8 [1 or C, 256]: for each code of x [256] the nearest code of its function's value.

    function: of float64 [256], gives float64 [256] or [C, 256].
    """
    codes = np.clip(nearest_codes(function(reals_of(x)), out), *clamp)
    return np.atleast_2d(codes).astype(np.uint8)
