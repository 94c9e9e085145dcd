"""What every data set has to hold."""

import numpy as np

from train.data.dataset import Dataset


def check_dataset(dataset: Dataset) -> None:
    for x, y in ((dataset.train_x, dataset.train_y), (dataset.val_x, dataset.val_y), (dataset.test_x, dataset.test_y)):
        assert x.dtype == np.uint8 and x.shape == (len(y), *dataset.shape) and y.dtype == np.int64
        assert set(y) == set(range(len(dataset.labels)))
