"""CUDA kernels of pools; a thread takes four neighbouring channels of a pixel."""

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets.cuda.epilogue import RatioEpilogue
from targets.cuda.memory import QUAD, Place, load
from targets.cuda.quads import corner, plain, ratio, registers
from targets.kernel import Buffers, Kernel, Step, is_step_of
from targets.reference.nodes import AvgPool, MaxPool
from targets.tables import NO_TABLE, NO_WEIGHTS
from targets.windows import VALUES, area_ratio_index, area_ratios, nearest_inside


def average_pool(step: Step[Any]) -> Kernel | None:
    """The average of every window; pixels of the border hold the zero point, which adds nothing to a mean."""
    if not is_step_of(step, AvgPool):
        return None
    (layout,), (kh, kw), node = step.reads, step.node.kernel, step.node

    def sums(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        accs = registers([T.int32(0)] * QUAD)
        at = T.bind(corner(place, node.stride, node.padding).at(layout, channel))
        with T.serial(kh) as dy, T.unroll(kw) as dx:
            tap = at + dy * layout.row_stride + dx * layout.tensor.shape[2]
            for i, code in enumerate(load(buffers.reads[0], layout, tap, channel)):
                T.buffer_store(accs, accs[i] + code, [i])
        return [accs[i] for i in range(QUAD)]

    offsets = -kh * kw * layout.tensor.zero_points()
    epilogue = RatioOfAreas(step, offsets) if node.areas else RatioEpilogue(step, offsets)
    return ratio(step, "average pool", epilogue, sums)


class RatioOfAreas(RatioEpilogue):
    """Windows at the edge have areas, and so ratios, of their own; they lie behind the other parts of the table."""

    def __init__(self, step: Step[Any], offsets: npt.NDArray[np.int64]):
        super().__init__(step, offsets)
        self._first = self.table.size
        self.table = np.concatenate([self.table, area_ratios(step.node)])

    def ratio(self, buffers: Buffers, place: Place) -> list[Any]:
        """Returns the left shift, multiplier, half and right shift of an output pixel's window."""
        at = T.bind(self._first + area_ratio_index(self.step.node, self.step.reads[0], place.y, place.x))
        return [buffers.table[at + k] for k in range(VALUES)]


def max_pool(step: Step[Any]) -> Kernel | None:
    """The largest code of every window; taps outside the map move to the nearest tap of the window inside."""
    if not is_step_of(step, MaxPool):
        return None
    node, (layout,), (kh, kw) = step.node, step.reads, step.node.kernel
    h, w, _ = layout.tensor.shape

    def values(buffers: Buffers, place: Place, channel: Any) -> list[Any]:
        best = registers([T.int32(0)] * QUAD)
        with T.unroll(kh) as dy, T.unroll(kw) as dx:
            first = corner(place, node.stride, node.padding)
            y = nearest_inside(first.y, dy, node.dilation[0], h)
            x = nearest_inside(first.x, dx, node.dilation[1], w)
            at = Place(place.picture, y, x).at(layout, channel)
            for i, code in enumerate(load(buffers.reads[0], layout, at, channel)):
                T.buffer_store(best, T.max(best[i], code), [i])
        return [best[i] for i in range(QUAD)]

    return Kernel("max pool", NO_WEIGHTS, 8, NO_TABLE, plain(step, values))
