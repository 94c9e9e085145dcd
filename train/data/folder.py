"""Reads a folder of pictures, one sub-folder a class, as a data set; and single picture files, as a device does."""

from pathlib import Path

import numpy as np

from runtime.pictures.arrays import as_picture, resize
from runtime.pictures.files import SUFFIXES, pictures_inside
from runtime.pictures.files import read_picture as read_on_device
from train.data.dataset import DataError, Dataset

SKIPPED_FOLDERS = ("__MACOSX",)  # of archives packed on a Mac
MOST_NAMED = 20  # damaged files in one error


def read_folder(path: Path, size: int) -> Dataset:
    """Returns PATH/train/CLASS/*, PATH/val/CLASS/* and PATH/test/CLASS/*, resized to size x size pixels.

    Without PATH/test every second picture of PATH/val is a test picture. Raises DataError for what `check_folder`
    refuses, and, once all were read, for all files that are no pictures.
    """
    damaged: list[str] = []
    labels = check_folder(path)
    train = _read_part(path / "train", labels, size, damaged)
    val = _read_part(path / "val", labels, size, damaged)
    note = f"all pictures were resized to {size}x{size}"
    test = _read_part(path / "test", labels, size, damaged) if (path / "test").is_dir() else None
    if damaged:
        named = "\n".join(damaged[:MOST_NAMED])
        raise DataError(f"{path}: expected pictures alone, got {len(damaged)} files that are none:\n{named}")
    if test is None:
        val, test = _halve(*val, path)
        note += f", and half of val/ became the test set, for there is no folder {path / 'test'}"
    return Dataset(path.name, labels, *train, *val, *test, note)


def check_folder(path: Path) -> tuple[str, ...]:
    """Returns the names of the classes, after a look at the folders alone, which reads no picture.

    Raises DataError where a folder is absent or holds no pictures, or val/ or test/ has a class that train/ lacks.
    """
    labels = _class_names(_subfolder(path, "train"))
    if len(labels) < 2:
        raise DataError(f"{path / 'train'}: expected a sub-folder for each of at least two classes, got {list(labels)}")
    tests = [path / "test"] if (path / "test").is_dir() else []
    for part in (path / "train", _subfolder(path, "val"), *tests):
        extra = [name for name in _class_names(part) if name not in labels]
        if extra:
            raise DataError(f"{part}: classes {extra} are not in train/, which has {list(labels)}")
        for label in labels:
            if not pictures_inside(part / label):
                raise DataError(f"{part / label}: expected pictures ({', '.join(SUFFIXES)}), found none")
    return labels


def _subfolder(path: Path, name: str) -> Path:
    """Returns a sub-folder that has to be there. Raises DataError where it is not."""
    if not (path / name).is_dir():
        raise DataError(
            f"{path / name}: there is no such folder; expected {path}/train/CLASS/*.png and {path}/val/CLASS/*.png"
        )
    return path / name


def _class_names(path: Path) -> tuple[str, ...]:
    """Returns the names of all sub-folders that are not hidden, sorted."""
    names = (p.name for p in path.iterdir() if p.is_dir())
    return tuple(sorted(name for name in names if not name.startswith(".") and name not in SKIPPED_FOLDERS))


def _read_part(path: Path, labels: tuple[str, ...], size: int, damaged: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures uint8 [N, size, size, 3] and labels int64 [N], in order of class and file name.

    damaged: gets the error of each file that is no picture, for which zeros stand.
    """
    x, y = [], []
    for index, label in enumerate(labels):
        files = pictures_inside(path / label)
        for file in files:
            try:
                x.append(resize(read_picture(file), (size, size)))
            except DataError as error:
                damaged.append(str(error))
                x.append(np.zeros((size, size, 3), np.uint8))
        y += [index] * len(files)
    return np.stack(x), np.array(y, np.int64)


def _halve(x: np.ndarray, y: np.ndarray, path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits a part in two, pictures [N, H, W, 3] and labels [N] each: every second picture of each class."""
    if np.bincount(y).min() < 2:
        raise DataError(f"{path / 'val'}: expected two pictures a class, or a folder {path / 'test'}")
    place_in_class = np.arange(len(y)) - np.searchsorted(y, y)  # pictures are in order of class
    return [(x[place_in_class % 2 == k], y[place_in_class % 2 == k]) for k in (0, 1)]


def read_picture(path: Path) -> np.ndarray:
    """Returns the RGB picture of a file, uint8 [H, W, 3], as a device reads it.

    It is turned upright as the camera noted; of 16 bits the upper 8 count. Raises DataError, which names the file, for
    one that is no picture.
    """
    try:
        return as_picture(read_on_device(path, with_pillow=True))
    except (ValueError, TypeError) as error:  # .npy files hold anything
        reason = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: not a picture that can be read ({reason}); repair or remove it") from error
