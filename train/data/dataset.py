"""What a data set is: labelled pictures in three disjoint parts, for training, validation and test."""

from dataclasses import dataclass

import numpy as np


class DataError(ValueError):
    """A data set is absent or not as expected; the message says what was expected where, and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures in three disjoint parts; *_x: uint8 [N, H, W, 3] RGB, *_y: int64 [N], indices into `labels`."""

    name: str
    labels: tuple[str, ...]
    train_x: np.ndarray
    train_y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    note: str = ""  # what was done to the pictures as they were found, for `describe`

    def describe(self) -> str:
        """Returns one line on sizes and classes, for whoever trains with the data set."""
        height, width = self.shape[:2]
        sizes = f"{len(self.train_y)} training, {len(self.val_y)} validation and {len(self.test_y)} test pictures"
        line = f"data: {sizes} of {len(self.labels)} classes, {height}x{width}"
        return f"{line}; {self.note}" if self.note else line

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and 3 channels of every picture."""
        height, width = self.train_x.shape[1:3]
        return height, width, 3
