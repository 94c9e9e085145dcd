"""Data sets by name: digits are read right, and unknown names and sizes are refused."""

import numpy as np
import pytest

from runtime.pictures.arrays import resize
from tests.train.data.checks import check_dataset
from train.data.dataset import DataError
from train.data.datasets import load


def test_digits(tmp_path):
    from sklearn.datasets import load_digits

    dataset = load("digits", None, tmp_path)
    check_dataset(dataset)
    assert dataset.shape == (32, 32, 3) and dataset.labels == tuple("0123456789")
    sizes = [len(dataset.train_y), len(dataset.val_y), len(dataset.test_y)]
    assert sum(sizes) == 1797 and min(sizes) > 350
    counts = np.stack([np.bincount(y) for y in (dataset.val_y, dataset.test_y)])
    assert counts.min() >= 34 and counts.max() <= 38  # stratified: 174 to 183 of each digit, a fifth
    every = np.concatenate([dataset.train_x, dataset.val_x, dataset.test_x])
    assert (every[..., 0] == every[..., 2]).all()
    wanted = {
        resize(np.rint(np.repeat(p[:, :, None], 3, 2) * 255 / 16).astype(np.uint8), (32, 32)).tobytes()
        for p in load_digits().images
    }
    assert {p.tobytes() for p in every} == wanted
    assert np.array_equal(load("digits", None, tmp_path).train_x, dataset.train_x)


@pytest.mark.parametrize(
    "name, size, words",
    [
        ("mnist", None, "unknown data set 'mnist'"),
        ("digits", 64, "size 64"),
        ("folder:/nowhere", None, "/nowhere/train: there is no such folder"),
        ("folder:x", 4, "size 4"),
    ],
)
def test_unknown_names_and_sizes(name, size, words):
    with pytest.raises(DataError, match=words):
        load(name, None, None, size)
