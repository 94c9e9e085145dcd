"""Pictures are read from folders in folders, framed as the device frames them, and kept apart."""

import numpy as np
import pytest

from compile.calibrate.errors import CalibrationError
from compile.calibrate.pictures import MOST_CALIBRATING, read_pictures
from runtime.pictures.arrays import framed
from runtime.pictures.files import PictureError
from tests.compile.calibrate.networks import photos

pytestmark = pytest.mark.slow


def write(folder, n: int, size: int = 20) -> np.ndarray:
    pictures = photos(n, size=size)
    for k, picture in enumerate(pictures):
        place = folder / f"class {k % 3}"
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{k:04d}.npy", picture)
    return pictures


@pytest.mark.parametrize("n, calibrating", [(1, 1), (2, 1), (3, 2), (30, 20), (200, MOST_CALIBRATING)])
def test_what_calibrates_and_what_judges_are_apart(tmp_path, n, calibrating):
    pictures = write(tmp_path, n)
    sets = read_pictures(tmp_path, (14, 14), 0.9)
    assert len(sets.calibrating) == calibrating
    assert sets.are_apart == (n > 1) and len(sets.held_out) == (n - calibrating or 1)
    expected = {framed(picture, (14, 14), 0.9).tobytes() for picture in pictures}
    read = [picture.tobytes() for picture in (*sets.calibrating, *(sets.held_out if n > 1 else ()))]
    assert len(set(read)) == n and set(read) == expected


def test_the_same_folder_gives_the_same_pictures(tmp_path):
    write(tmp_path, 9)
    first, second = (read_pictures(tmp_path, (14, 14), None) for _ in range(2))
    assert np.array_equal(first.calibrating, second.calibrating) and np.array_equal(first.held_out, second.held_out)


def test_folders_without_pictures_and_damaged_files(tmp_path):
    with pytest.raises(CalibrationError, match="expected pictures in this folder or those in it, it holds none"):
        read_pictures(tmp_path, (14, 14), None)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    with pytest.raises(PictureError, match=r"bad\.png"):
        read_pictures(tmp_path, (14, 14), None)
    (tmp_path / "bad.png").unlink()
    np.save(tmp_path / "ints.npy", np.zeros((9, 9, 3), np.int32))
    with pytest.raises(CalibrationError, match=r"ints\.npy: expected a picture as uint8"):
        read_pictures(tmp_path, (14, 14), None)
