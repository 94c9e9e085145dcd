"""Areas of windows at the edge of a map, by which average pools divide."""

import numpy as np
import numpy.typing as npt

from targets.reference.nodes import AvgPool, Padding, Pair


def window_areas(size: Pair, kernel: Pair, stride: Pair, padding: Padding, counted: Padding) -> npt.NDArray[np.int64]:
    """Returns int64 [OH, OW], how many pixels of each window lie in the map or in the padding that counts.

    size: rows and columns of the map.
    """
    down, across = (
        _lengths(size[k], kernel[k], stride[k], (padding[k], padding[k + 2]), (counted[k], counted[k + 2]))
        for k in range(2)
    )
    areas: npt.NDArray[np.int64] = down[:, None] * across
    return areas


def _lengths(size: int, kernel: int, stride: int, padding: Pair, counted: Pair) -> npt.NDArray[np.int64]:
    first = np.arange(0, padding[0] + size + padding[1] - kernel + 1, stride) - padding[0]
    return np.minimum(first + kernel, size + counted[1]) - np.maximum(first, -counted[0])


def area_numbers(node: AvgPool, shape: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """Returns int64 [OH, OW], the place of each window's area in `node.areas`, for an input of `shape`."""
    areas = window_areas(shape[:2], node.kernel, node.stride, node.padding, node.counted)
    return np.searchsorted(node.areas, areas) if node.areas else np.zeros_like(areas)
