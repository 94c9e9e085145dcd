"""Reads picture files with numpy alone: PNG, PPM, PGM, BMP, .npy; other kinds through Pillow if it is installed."""

import io
import re
import struct
import tokenize
from pathlib import Path

import numpy as np

from runtime.pictures import png
from runtime.pictures.pillow import read_with_pillow
from runtime.pictures.png_filters import TooLong
from runtime.pictures.wide import cut_to_bytes, warn_of_few_bits

_NETPBM = re.compile(rb"P[56]" + 3 * rb"(?:\s|#[^\n]*\n)+(\d{1,9})" + rb"\s")  # comments anywhere before a number
_LARGEST = 1 << 27  # pixels, of which some 2 GB of memory are needed
_LARGEST_FILE = 1 << 30  # bytes; the largest picture takes fewer, at 16 bits and not packed
SUFFIXES = (".png", ".ppm", ".pgm", ".bmp", ".npy", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff")
_NPY_ERRORS = (ValueError, EOFError, OSError, SyntaxError, TypeError, MemoryError, OverflowError, tokenize.TokenError)


class PictureError(ValueError):
    """A file cannot be read as a picture; the message says what was expected, what is there and what to do."""


def pictures_in(path: Path) -> list[Path]:
    """Returns the file itself, or the pictures in a folder, sorted. Raises PictureError for a folder without any."""
    try:
        if not path.is_dir():
            return [path]
        pictures = pictures_inside(path)
    except OSError as error:
        raise PictureError(
            f"{path}: expected a picture file, or a folder of them, cannot look ({error.strerror})"
        ) from error
    if not pictures:
        raise PictureError(f"{path}: expected pictures in this folder ({' '.join(SUFFIXES)}), it holds none")
    return pictures


def pictures_inside(folder: Path) -> list[Path]:
    """Returns the files in a folder, but not in folders in it, whose names end like those of pictures, sorted."""
    return sorted(path for path in folder.glob("[!.]*") if is_picture_name(path) and path.is_file())


def is_picture_name(path: Path) -> bool:
    """Returns whether a file's name ends like those of pictures."""
    return path.suffix.lower() in SUFFIXES


def read_picture(path: str | Path, with_pillow: bool = False) -> np.ndarray:
    """Returns the picture in a file: uint8 [H, W, 3], [H, W, 4], or [H, W] for grey; .npy files as they are.

    Photos are turned upright as the camera noted. Of values of more than 8 bits the upper 8 count. with_pillow: read by
    Pillow what it can read, with the same result, sooner. Gives a PictureWarning for damaged metadata and for 16 bits
    of which few are used. Raises PictureError for what is no picture.
    """
    path = Path(path)
    data = _read_bytes(path)
    reader = next((read for magic, read in _READERS if data.startswith(magic)), read_with_pillow)
    if with_pillow and reader is not _read_npy:
        reader = read_with_pillow
    try:
        return reader(data)
    except MemoryError as error:
        raise PictureError(
            f"{path}: expected a picture that fits into memory, this one does not; make it smaller"
        ) from error
    except ValueError as error:
        raise PictureError(
            f"{path}: {error}; expected a sound PNG, PPM, PGM, BMP or .npy file, or any other with "
            "Pillow installed (`pip install pillow`)"
        ) from error


def _read_bytes(path: Path) -> bytes:
    """Returns what is in a file. Raises PictureError where it is missing, empty, too large or cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise PictureError(f"{path}: expected a picture file, this one is missing; check its name") from error
    except OSError as error:
        raise PictureError(f"{path}: expected a picture file, cannot read it ({error.strerror})") from error
    if not data:
        raise PictureError(f"{path}: expected a picture file, this one is empty")
    if len(data) > _LARGEST_FILE:
        raise PictureError(f"{path}: expected a picture file of {_LARGEST_FILE} bytes at most; make it smaller")
    return data


def _read_png(data: bytes) -> np.ndarray:
    chunks = png.read_chunks(data)
    header = png.read_header(chunks)
    if not png.is_plain(header, chunks):
        return read_with_pillow(data)
    _require_size(header.width, header.height)
    try:
        return png.read_pixels(header, chunks)
    except TooLong:
        return read_with_pillow(data)


def _read_netpbm(data: bytes) -> np.ndarray:
    """Reads binary PGM (P5) and PPM (P6); of 16 bits a value, PGM is cut and PPM rounded to 8, as Pillow does."""
    header = _NETPBM.match(data)
    if header is None:
        raise ValueError("expected width, height and largest value after P5 or P6, got something else")
    width, height, largest = (int(word) for word in header.groups())
    _require_size(width, height)
    if not 0 < largest < 1 << 16:
        raise ValueError(f"expected values up to 65535, got a maximum of {largest}")
    grey = data.startswith(b"P5")
    shape = (height, width) if grey else (height, width, 3)
    values = _read_values(data, np.dtype(">u2" if largest > 255 else "u1"), shape, header.end())
    if largest == 255:
        return values
    if largest == 65535:
        warn_of_few_bits(values)
    wide = grey and largest > 255
    codes = np.rint(np.arange(largest + 1) / largest * (65535 if wide else 255)).astype(np.uint16)
    codes = cut_to_bytes(codes) if wide else codes.astype(np.uint8)
    return np.asarray(codes[np.minimum(values, largest)])


def _read_values(data: bytes, dtype: np.dtype, shape: tuple[int, ...], begin: int) -> np.ndarray:
    """Returns an array of that shape from byte `begin` on. Raises ValueError where there are too few bytes."""
    count = int(np.prod(shape))
    size = max(0, len(data) - begin)
    if size < count * dtype.itemsize:
        raise ValueError(f"expected {count * dtype.itemsize} bytes of pixels, got {size}")
    return np.frombuffer(data, dtype, count, begin).reshape(shape)


def _read_bmp(data: bytes) -> np.ndarray:
    """Reads uncompressed BMP of 24 bits a pixel, from the bottom up or the top down."""
    if len(data) < 34:
        raise ValueError(f"expected a header of 34 bytes or more, the file has {len(data)}")
    begin, header, width, height, _, depth, compression = struct.unpack("<I I i i H H I", data[10:34])
    if header < 40 or depth != 24 or compression:
        return read_with_pillow(data)
    _require_size(width, abs(height))
    stride = -(-width * 3 // 4) * 4
    rows = _read_values(data, np.dtype(np.uint8), (abs(height), stride), begin)
    bgr = rows[:, : 3 * width].reshape(abs(height), width, 3)
    if height > 0:
        bgr = bgr[::-1]
    return np.ascontiguousarray(bgr[:, :, ::-1])


def _read_npy(data: bytes) -> np.ndarray:
    try:
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except _NPY_ERRORS as error:
        raise ValueError(f"expected an array in a .npy file, it cannot be read ({error})") from error
    return array


def _require_size(width: int, height: int) -> None:
    """Raises ValueError for no pixels, and for more than fit into memory."""
    if width < 1 or height < 1 or width * height > _LARGEST:
        raise ValueError(f"expected 1 to {_LARGEST} pixels, got {width} x {height}")


# first bytes of a file -> its reader; others go to Pillow
_READERS = (
    (png.SIGNATURE, _read_png),
    (b"P5", _read_netpbm),
    (b"P6", _read_netpbm),
    (b"BM", _read_bmp),
    (b"\x93NUMPY", _read_npy),
)
