"""The pictures of an adaptation: those that fits are made of, those for the selector, and those for the report."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from compile.calibrate.pictures import files_under
from runtime.pictures.arrays import as_picture, framed
from runtime.pictures.files import read_picture
from train.data.dataset import DataError

LEAST_PICTURES = 32


@dataclass(frozen=True, eq=False)
class AdaptPictures:
    """Pictures uint8 [N, H, W, 3] as the network gets them, without degradations of ours; all three parts differ.

    labels: int64 of validation and test pictures, None where nobody knows: then the network's own answers to the
    pictures as they are stand in their place.
    """

    fitted: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    validation_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None


def read_pictures(
    folder: Path, size: tuple[int, int], crop: float | None, counts: tuple[int, int], classes: int | None
) -> AdaptPictures:
    """Returns the pictures of a folder and the folders in it, drawn by one fixed seed.

    size: (height, width) of the network's picture; crop: see `framed`. counts: of pictures to fit with, and to judge by
    in each of the two other parts, at most. classes: of the network, where the folder's sub-folders are its classes in
    order of name; None: pictures have no labels. Raises DataError for a folder that will not do, and PictureError for a
    file that cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"--pictures {folder}: expected a folder of pictures, but there is no such folder")
    files = files_under(folder)
    if len(files) < LEAST_PICTURES:
        raise DataError(
            f"--pictures {folder}: expected at least {LEAST_PICTURES} pictures in this folder and those in it, got "
            f"{len(files)}; add some that the network may see"
        )
    labels = None if classes is None else _labels(folder, files, classes)
    order = np.random.default_rng(0).permutation(len(files))
    fitted = min(counts[0], len(files) // 2)
    judged = min(counts[1], (len(files) - fitted) // 2)
    ends = np.cumsum([0, fitted, judged, judged])
    rows = [order[begin:end] for begin, end in pairwise(ends)]
    parts = [np.stack([framed(_read(files[k]), size, crop) for k in part]) for part in rows]
    known = (None, None) if labels is None else (labels[rows[1]], labels[rows[2]])
    return AdaptPictures(*parts, *known)


def _labels(folder: Path, files: list[Path], classes: int) -> np.ndarray:
    names = [file.relative_to(folder).parts[0] if file.parent != folder else "" for file in files]
    known = sorted(set(names))
    if "" in known or len(known) != classes:
        raise DataError(
            f"--labelled {folder}: expected a sub-folder for each of the network's {classes} classes, got "
            f"{len(known) - ('' in known)}{' and pictures beside them' if '' in known else ''}; leave --labelled out, "
            "or sort the pictures into them"
        )
    return np.array([known.index(name) for name in names], np.int64)


def _read(file: Path) -> np.ndarray:
    try:
        return as_picture(read_picture(file, with_pillow=True))
    except TypeError as error:
        raise DataError(f"{file}: {error}") from error
