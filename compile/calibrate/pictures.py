"""Reads the pictures of a calibration, framed as the device frames them, and keeps some apart to judge by."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compile.calibrate.errors import CalibrationError
from runtime.pictures.arrays import as_picture, framed
from runtime.pictures.files import pictures_inside, read_picture

MOST_CALIBRATING = 128
MOST_HELD_OUT = 1000


@dataclass(frozen=True, eq=False)
class PictureSets:
    """Pictures uint8 [N, H, W, 3]: those that calibrate, and others; the very same where there is but one."""

    calibrating: np.ndarray
    held_out: np.ndarray

    @property
    def are_apart(self) -> bool:
        """Whether none of the pictures held out calibrates."""
        return self.held_out is not self.calibrating


def read_pictures(folder: Path, size: tuple[int, int], crop: float | None) -> PictureSets:
    """Returns pictures of a folder and the folders in it, as a network of that size (height, width) gets them.

    At most two thirds calibrate. Which ones is drawn by one fixed seed. Raises CalibrationError for a folder without
    pictures, and PictureError for a file that cannot be read.
    """
    files = files_under(folder)
    if not files:
        raise CalibrationError(f"--calibrate {folder}: expected pictures in this folder or those in it, it holds none")
    order = [files[k] for k in np.random.default_rng(0).permutation(len(files))]
    count = min(MOST_CALIBRATING, max(1, 2 * len(files) // 3))
    calibrating = _read_all(order[:count], size, crop)
    rest = order[count : count + MOST_HELD_OUT]
    return PictureSets(calibrating, _read_all(rest, size, crop) if rest else calibrating)


def files_under(folder: Path) -> list[Path]:
    """Returns the picture files in a folder and all folders in it, sorted."""
    folders = sorted(path for path in folder.rglob("[!.]*") if path.is_dir())
    return [path for place in (folder, *folders) for path in pictures_inside(place)]


def _read_all(files: list[Path], size: tuple[int, int], crop: float | None) -> np.ndarray:
    """uint8 [N, *size, 3]."""
    return np.stack([framed(_read(file), size, crop) for file in files])


def _read(file: Path) -> np.ndarray:
    try:
        return as_picture(read_picture(file))
    except TypeError as error:
        raise CalibrationError(f"{file}: {error}") from error
