"""Real pictures for a network of any input: from a folder or a zip, spread over it, resized and made grey as needed."""

import zipfile
from pathlib import Path

import numpy as np

from runtime.pictures.arrays import as_grey, as_picture, resize
from runtime.pictures.files import PictureError, pictures_in, read_picture
from runtime.pictures.pillow import read_with_pillow

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def photos(place: Path, count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns uint8 [N, H, W, C] of `count` pictures, or as many as are there; raises PictureError for none.

    place: a folder of pictures or a zip of them; every k-th in the order of names. shape: [H, W, C] of the network.
    """
    rgb = _from_zip(place, count) if place.suffix == ".zip" else _from_folder(place, count)
    return np.stack([_fitted(picture, shape) for picture in rgb])


def _spread(items: list, count: int) -> list:
    """At most `count` items, evenly over all."""
    step = max(1, len(items) // count)
    return items[::step][:count]


def _from_folder(place: Path, count: int) -> list[np.ndarray]:
    return [read_picture(path) for path in _spread(pictures_in(place), count)]


def _from_zip(place: Path, count: int) -> list[np.ndarray]:
    try:
        with zipfile.ZipFile(place) as archive:
            names = sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))
            contents = [archive.read(name) for name in _spread(names, count)]
    except (OSError, zipfile.BadZipFile) as error:
        raise PictureError(f"{place}: expected a zip of pictures, cannot read it ({error})") from error
    if not contents:
        raise PictureError(f"{place}: expected pictures in this zip ({' '.join(SUFFIXES)}), it holds none")
    return [as_picture(read_with_pillow(content)) for content in contents]


def _fitted(picture: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [H, W, C] of a picture of any size: grey is its luma, a fourth channel is full."""
    height, width, channels = shape
    rgb = picture[..., :3] if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    small = resize(np.ascontiguousarray(rgb), (height, width))
    if channels == 3:
        return small
    grey = as_grey(small)
    if channels == 4:
        return np.concatenate([small, np.full_like(grey, 255)], 2)
    return np.repeat(grey, channels, 2)
