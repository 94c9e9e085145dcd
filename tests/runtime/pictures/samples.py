"""Arrays to write as pictures, and the reader as a board has it."""

import sys

import numpy as np
import pytest

from runtime.pictures.files import read_picture

SIZES = [(1, 1), (1, 7), (13, 5), (32, 32), (40, 31)]


def some(shape, seed=0):
    """Noise over a ramp, so that encoders find use for every filter."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(shape[0]) * 5, np.arange(shape[1]) * 3).reshape(*shape[:2], *[1] * (len(shape) - 2))
    return ((ramp + rng.integers(0, 40, shape)) % 256).astype(np.uint8)


def read_bare(path):
    """As on a board: any use of Pillow fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "PIL", None)
        return read_picture(path)
