"""The pictures that a run is judged by: validation views, test views, and every test picture degraded at random."""

from dataclasses import dataclass, replace

import numpy as np

from train.data.datasets import Dataset, spread
from train.data.names import FAMILIES
from train.data.views import MIXED_SEED, evaluation_views, mixed_views, severities, training_views
from train.evidence.evidence import View
from train.settings.settings import Settings


@dataclass(frozen=True, eq=False)
class JudgedPictures:
    """Pictures uint8 that all variants of a run answer after training.

    validation: [F, M, H, W, 3], a row for each degradation family of training, with labels int64 [M] and severities
    [F, M]; views: (family, severity) -> the same test pictures [N, H, W, 3], with labels int64 [N]; mixed: every test
    picture once, [T, H, W, 3], its family and severity drawn at random, with labels int64 [T].
    """

    validation: np.ndarray
    validation_labels: np.ndarray
    severities: np.ndarray
    views: dict[View, np.ndarray]
    labels: np.ndarray
    mixed: np.ndarray
    mixed_labels: np.ndarray

    @classmethod
    def of_dataset(cls, settings: Settings, dataset: Dataset) -> "JudgedPictures":
        """Degrades the validation and test pictures of a data set, or takes them from the cache."""
        trained = settings.data.training_families
        seed = settings.training.seed
        cache, workers = settings.place.cache, settings.place.workers
        rows = spread(len(dataset.val_y), settings.judging.selector_pictures)
        validation = replace(dataset, train_x=dataset.val_x[rows], train_y=dataset.val_y[rows])
        test = spread(len(dataset.test_y), settings.judging.test_pictures)
        families = trained + settings.data.held_out
        return cls(
            validation=training_views(validation, trained, seed, cache, workers),
            validation_labels=validation.train_y,
            severities=severities(len(rows), trained, seed),
            views=evaluation_views(dataset.test_x[test], families, seed, cache, workers),
            labels=dataset.test_y[test],
            mixed=mixed_views(dataset.test_x, FAMILIES, MIXED_SEED, cache, workers)[0],
            mixed_labels=dataset.test_y,
        )

    def __len__(self) -> int:
        """How many pictures each variant answers."""
        return (
            self.validation.shape[0] * self.validation.shape[1] + len(self.views) * len(self.labels) + len(self.mixed)
        )
