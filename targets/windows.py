"""Windows of pools as kernels compute them: which pixels lie inside the map, and by which ratio a window is divided."""

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.kernel import Layout
from targets.reference.nodes import AvgPool

VALUES = 4  # int32 of a ratio in a table: left shift, multiplier, rounding half, right shift


def nearest_inside(first: Any, tap: Any, gap: int, size: int) -> Any:
    """Returns the place of a window's tap, or of its nearest tap inside a map of `size`; first: of tap 0."""
    place = first + tap * gap
    if gap == 1:
        return T.max(T.min(place, size - 1), 0)
    below = T.max(0, T.floordiv(gap - 1 - place, gap))  # taps to go on to come to 0 or above
    above = T.max(0, T.floordiv(place - size + gap, gap))  # to go back to come below the size
    return place + gap * (below - above)


def area_ratios(node: AvgPool) -> npt.NDArray[np.int32]:
    """Returns int32 [VALUES * kH * kW]: the ratio of every area from 1 pixel on, zeros for those that do not occur."""
    r = node.requant
    ratios = np.zeros((node.kernel[0] * node.kernel[1], VALUES), np.int32)
    ratios[np.array(node.areas) - 1] = np.stack([r.left, r.multiplier, 1 << (r.shift - 1), r.shift], 1)
    return ratios.reshape(-1)


def area_ratio_index(node: AvgPool, read: Layout, y: Any, x: Any) -> Any:
    """Returns where in `area_ratios` the ratio of the window of output pixel (y, x) begins."""

    def length(axis: int, position: Any) -> Any:
        first = position * node.stride[axis] - node.padding[axis]
        end = read.tensor.shape[axis] + node.counted[axis + 2]
        return T.min(first + node.kernel[axis], end) - T.max(first, -node.counted[axis])

    return VALUES * (length(0, y) * length(1, x) - 1)
