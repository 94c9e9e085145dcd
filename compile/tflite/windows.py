"""Windows of convolutions and pools, and the padding that TFLite's SAME gives them."""

from dataclasses import dataclass

from compile.tflite.errors import require
from targets.reference.nodes import NO_PADDING, Padding, Pair, reach

SAME, VALID = 0, 1  # of the schema's Padding
LARGEST = 1 << 15  # rows or columns of a window, and of its steps


@dataclass(frozen=True)
class Window:
    """Rows and columns of a window, its step, and the distance of its taps."""

    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)

    def check(self, where: str) -> None:
        """Raises TfliteError for numbers that no window has."""
        numbers = (*self.kernel, *self.stride, *self.dilation)
        require(
            min(numbers) >= 1 and max(numbers) < LARGEST, where, "a window, stride and dilation of at least 1", self
        )


def padding_of(kind: int, size: tuple[int, ...], window: Window, where: str) -> Padding:
    """Returns the padding of a map [H, W]; of an odd number the larger half comes behind. Raises TfliteError."""
    require(kind in (SAME, VALID), where, "SAME or VALID padding", kind)
    if kind == VALID:
        return NO_PADDING
    before, after = [], []
    for length, reached, step in zip(size, reach(window.kernel, window.dilation), window.stride, strict=True):
        total = max((-(-length // step) - 1) * step + reached - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before[0], before[1], after[0], after[1]
