"""Loads a data set by its name: digits (in scikit-learn, offline), cifar10, or any folder of pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.pictures.arrays import as_picture, resize
from train.data.cifar10 import read_cifar10
from train.data.dataset import DataError, Dataset
from train.data.folder import read_folder
from train.data.names import DATA_SIDE, FOLDER

LEAST_SIDE = 8  # pixels: the smallest pictures that a network takes
DIGITS_VAL = DIGITS_TEST = 0.2  # shares of the 1,797 digits
SPLIT_SEED = 0


def load(name: str, root: Path | None, cache: Path, size: int | None = None) -> Dataset:
    """Returns the data set of a name: "digits", "cifar10" or "folder:PATH".

    root: where cifar10 is, or may be put (`cache` when None). cache: a folder for what is downloaded.
    size: side of the pictures in pixels, 32 when None; only folders can have another. Raises DataError.
    """
    is_folder = name.startswith(FOLDER)
    if size is not None and (size < LEAST_SIDE or (size != DATA_SIDE and not is_folder)):
        raise DataError(f"size {size}: expected {DATA_SIDE} for {name}, or at least {LEAST_SIDE} for folder:PATH")
    if name == "digits":
        return read_digits()
    if name == "cifar10":
        return read_cifar10(Path(cache if root is None else root))
    if is_folder:
        return read_folder(Path(name.removeprefix(FOLDER)), DATA_SIDE if size is None else size)
    raise DataError(f"unknown data set {name!r}; expected digits, cifar10 or folder:PATH")


def read_digits() -> Dataset:
    """Returns the 1,797 digits of scikit-learn, 8x8 in 17 greys, enlarged to 32x32 RGB, in three stratified parts."""
    from sklearn.datasets import load_digits  # here, because it takes seconds and only this data set needs it

    data = load_digits()
    codes = np.rint(data.images * (255 / 16)).astype(np.uint8)
    x = np.stack([resize(as_picture(picture), (DATA_SIDE, DATA_SIDE)) for picture in codes])
    y = data.target.astype(np.int64)
    test, rest = _split_stratified(y, np.arange(len(y)), DIGITS_TEST)
    val, train = _split_stratified(y, rest, DIGITS_VAL * len(y) / len(rest))
    return Dataset("digits", tuple("0123456789"), x[train], y[train], x[val], y[val], x[test], y[test])


def _split_stratified(y: np.ndarray, among: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits indices int64 [N] into a share of every class of labels `y`, at least one, and the rest; both rise."""
    rng = np.random.default_rng(SPLIT_SEED)
    chosen = []
    for label in np.unique(y[among]):
        members = among[y[among] == label]
        chosen.append(rng.permutation(members)[: max(1, round(share * len(members)))])
    part = np.sort(np.concatenate(chosen))
    return part, np.setdiff1d(among, part)


def thin(dataset: Dataset, limit: int) -> Dataset:
    """Returns the data set with at most `limit` pictures in each part, evenly spread; with all of them for 0."""
    train = spread(len(dataset.train_y), limit)
    val = spread(len(dataset.val_y), limit)
    test = spread(len(dataset.test_y), limit)
    return replace(
        dataset,
        train_x=dataset.train_x[train],
        train_y=dataset.train_y[train],
        val_x=dataset.val_x[val],
        val_y=dataset.val_y[val],
        test_x=dataset.test_x[test],
        test_y=dataset.test_y[test],
    )


def spread(count: int, limit: int) -> np.ndarray:
    """Returns at most `limit` indices below `count`, evenly spread, int64 [N]; all of them for 0."""
    if not 0 < limit < count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).astype(np.int64)
