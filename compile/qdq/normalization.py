"""How float pictures of other tools' networks follow from uint8 ones."""

from dataclasses import dataclass

import numpy as np


class NormalizationError(ValueError):
    """Mean and standard deviation that cannot belong to pictures in 0..1; the message says what to give instead."""


@dataclass(frozen=True)
class Normalization:
    """What a network expects of its float picture: x = (u8 / 255 - mean) / std, as torchvision writes it.

    mean, std: a number for each channel, or one for all. ((0,), (1,)) is x in 0..1, ((0,), (1 / 255,)) x in 0..255.
    Raises NormalizationError for numbers that are not finite, a std that is not positive, and for numbers above 1,
    which are those of pictures in 0..255.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not np.isfinite([*self.mean, *self.std]).all():
            raise NormalizationError(f"expected finite numbers, got {self._flags()}")
        if min(self.std) <= 0:
            raise NormalizationError(f"--std: expected numbers above 0, got {min(self.std):g}")
        if max(*self.mean, *self.std) > 1:
            raise NormalizationError(
                f"expected a mean and std of pictures in 0..1, got {self._flags()}, which are of pictures in 0..255; "
                f"use {self._flags(divisor=255, digits=3)}"
            )

    def _flags(self, divisor: float = 1, digits: int = 6) -> str:
        """The numbers, over a divisor, as they are given on the command line."""
        mean, std = (",".join(f"{v / divisor:.{digits}g}" for v in values) for values in (self.mean, self.std))
        return f"--mean {mean} --std {std}"

    def floats(self, pictures: np.ndarray) -> np.ndarray:
        """Returns float32 [N, C, H, W] of pictures uint8 [N, H, W, C]."""
        mean, std = (np.asarray(v, np.float64) for v in (self.mean, self.std))
        return np.ascontiguousarray(((pictures / 255 - mean) / std).transpose(0, 3, 1, 2), np.float32)
