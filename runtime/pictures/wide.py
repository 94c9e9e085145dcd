"""Cuts codes of 16 bits to 8, and warns where a camera of fewer bits has left the upper ones empty."""

import warnings

import numpy as np

from runtime.pictures.warning import PictureWarning

_USED = 14  # bits; a picture that needs more than these fills its 16


def cut_to_bytes(codes: np.ndarray) -> np.ndarray:
    """Returns the upper 8 of 16 bits, uint8 [...], of codes 0..65535 [...]."""
    upper: np.ndarray = (codes >> 8).astype(np.uint8)
    return upper


def warn_of_few_bits(codes: np.ndarray) -> None:
    """Gives a PictureWarning where codes [...] of 0..65535 fit 14 bits: those of many cameras are stored so."""
    largest = int(codes.max())
    bits = largest.bit_length()
    if 0 < bits <= _USED:
        warnings.warn(
            f"its values are {int(codes.min())}..{largest} of 65535: of {bits} bits stored in 16, {max(0, bits - 8)} "
            f"are left; scale it by {1 << 16 - bits} before saving where the camera has {bits} bits",
            PictureWarning,
            stacklevel=2,
        )
