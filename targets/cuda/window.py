"""How a convolution's window lies in a feature map, and the order in which a sum over it counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.cuda.memory import QUAD
from targets.reference.nodes import Conv

VECTORS = (16, 8, 4)  # bytes that cp.async copies


@dataclass(frozen=True)
class Window:
    """The run of bytes that each row of a convolution's window is, and how K counts through them.

    vector: bytes copied at once; 0 where runs do not lie on words.
    """

    rows: int
    run: int
    vector: int

    @staticmethod
    def of(node: Conv) -> "Window":
        """Returns the window of a convolution."""
        _, kh, kw, channels = node.weight.shape
        return Window(kh, kw * channels, next((v for v in VECTORS if channels % v == 0), 0))

    @property
    def step(self) -> int:
        """Codes of K that are moved at once."""
        return self.vector or QUAD

    @property
    def padded_run(self) -> int:
        """Codes of a run, up to whole steps."""
        return -(-self.run // self.step) * self.step

    @property
    def k(self) -> int:
        """Codes of a sum, padding of the runs included."""
        return self.rows * self.padded_run

    def matrix(self, weight: npt.NDArray[np.int8], n: int, k: int) -> npt.NDArray[Any]:
        """Returns int8 [n, k] of weights [O, kH, kW, I]."""
        flat = weight.reshape(len(weight), self.rows, self.run)
        flat = np.pad(flat, ((0, n - len(weight)), (0, 0), (0, self.padded_run - self.run))).reshape(n, self.k)
        return np.pad(flat, ((0, 0), (0, k - self.k)))
