"""Golden pictures of prepared networks: noise, degraded test pictures of CIFAR-10, or those of a folder."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from runtime.pictures.arrays import as_picture, resize
from runtime.pictures.files import read_picture
from targets.reference import interpreter
from targets.reference.graph import Graph
from train.data.datasets import load as load_data
from train.data.folder import SUFFIXES
from train.data.names import DATA_SIDE, FAMILIES
from train.data.views import MIXED_SEED, mixed_views
from train.integers.evaluate import evaluate
from train.settings.training import CACHE

NOISY = 4  # pictures of noise, where no others are given
PICTURE_BYTES = 31_000_000  # 10,000 of CIFAR-10


@dataclass(frozen=True)
class GoldenPictures:
    """Golden pictures by the shape of a network's input; they are read once.

    data: where CIFAR-10 is. folder: pictures for networks of other sizes. count: at most so many, as far as
    PICTURE_BYTES hold them.
    """

    data: Path | None = None
    folder: Path | None = None
    count: int = 10_000
    _by_shape: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def of_shape(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Returns uint8 [N, H, W, C]; raises ValueError for a folder that holds no pictures."""
        if shape not in self._by_shape:
            most = max(1, min(self.count, PICTURE_BYTES // int(np.prod(shape))))
            self._by_shape[shape] = self._read(shape, most)
        return self._by_shape[shape]

    def _read(self, shape: tuple[int, int, int], most: int) -> np.ndarray:
        is_cifar = shape == (DATA_SIDE, DATA_SIDE, 3)
        if self.data is not None and is_cifar:
            pictures = load_data("cifar10", self.data, CACHE).test_x[:most]
            return np.array(mixed_views(pictures, FAMILIES, MIXED_SEED, CACHE)[0])
        if self.folder is not None and not is_cifar:
            files = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES)[:most]
            if not files:
                raise ValueError(f"{self.folder}: expected pictures ({', '.join(SUFFIXES)}), found none")
            return np.stack([resize(as_picture(read_picture(p)), shape[:2]) for p in files])
        return np.random.default_rng(1).integers(0, 256, (NOISY, *shape), np.uint8)


def expected_logits(graph: Graph, pictures: np.ndarray) -> np.ndarray:
    """Returns int32 [N, classes] of pictures uint8 [N, H, W, C] by training's exact evaluation, which is fast.

    Raises RuntimeError where the integer reference computes something else.
    """
    logits = evaluate(graph, pictures)
    if not np.array_equal(logits[:NOISY], interpreter.run(graph, pictures[:NOISY])):
        raise RuntimeError(
            "expected training's integer evaluation to equal targets/reference/interpreter.py, it does not"
        )
    return logits
