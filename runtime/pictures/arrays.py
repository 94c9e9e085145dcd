"""Turns pictures of any kind and size into uint8 RGB of the network's size: the same bytes on every machine."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

UNIT = 1 << 16  # 1.0 as a fixed-point weight: 255 * UNIT still is an exact float32
LUMA = np.array([19595, 38470, 7471], np.uint32)  # of red, green and blue; they sum to UNIT
USUAL = 1 << 13  # pixels a side
LONGEST = 1 << 29  # pixels a side whose sums of distances, times 16, fit int64
_BAND = 1 << 20  # values whose columns are filtered together
HINT = "give a numpy array [H, W, 3] of uint8 (RGB)"


def as_picture(img: np.ndarray) -> np.ndarray:
    """Returns a picture as uint8 [H, W, 3] RGB, C-contiguous; not copied when it already is one.

    Also takes grey [H, W] or [H, W, 1], repeated to three channels; RGBA [H, W, 4], laid over white; and floats in 0..1
    of any of these shapes, rounded to the nearest of 256 codes, ties up. Raises TypeError for what is no array or of
    another dtype, ValueError for another shape, no pixels, or floats outside 0..1.
    """
    if not isinstance(img, np.ndarray):
        raise TypeError(
            f"expected a picture as a numpy array, got {type(img).__module__}.{type(img).__name__}; {HINT}, such as "
            "np.asarray(image.convert('RGB')) of a Pillow image"
        )
    picture = _as_uint8(_with_channels(np.asarray(img)))
    if picture.shape[2] == 1:
        picture = np.repeat(picture, 3, axis=2)
    elif picture.shape[2] == 4:
        picture = _lay_over_white(picture)
    return np.ascontiguousarray(picture)


def as_grey(picture: np.ndarray) -> np.ndarray:
    """Returns the luma uint8 [H, W, 1] of a picture uint8 [H, W, 3], ITU-R 601-2 in fixed point as Pillow's "L" is.

    Grey pictures that were repeated to three channels come back as they were.
    """
    luma = (picture.astype(np.uint32) @ LUMA + UNIT // 2) // UNIT
    return luma.astype(np.uint8)[:, :, None]


def _with_channels(x: np.ndarray) -> np.ndarray:
    """Returns [H, W, C] with C in 1, 3, 4. Raises ValueError for other shapes."""
    if x.ndim == 2:
        x = x[:, :, None]
    if x.ndim != 3 or x.shape[2] not in (1, 3, 4):
        advice = ""
        if x.ndim == 4:
            advice = "; give the pictures of a batch one by one"
        elif x.ndim == 3 and x.shape[0] in (1, 3, 4):
            advice = "; this one has its channels first: x.transpose(1, 2, 0)"
        raise ValueError(f"expected a picture as [H, W] or [H, W, 1, 3 or 4], got {list(x.shape)}{advice}")
    if x.size == 0:
        raise ValueError(f"expected a picture of one pixel or more, got {list(x.shape)}; was the file empty?")
    return x


def _as_uint8(x: np.ndarray) -> np.ndarray:
    """Returns uint8 of the same shape. Raises TypeError for other dtypes, ValueError for floats outside 0..1."""
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind != "f":
        advice = ": 16-bit codes fit after x >> 8" if x.dtype == np.uint16 else ""
        raise TypeError(f"expected a picture as uint8, or as floats in 0..1, got {x.dtype}; {HINT}{advice}")
    low = float(x.min())
    high = float(x.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise ValueError(
            f"expected a picture of floats in 0..1, got {low:g}..{high:g}; divide codes 0..255 by 255, "
            "and undo any normalization: the network brings its own"
        )
    return np.floor(x.astype(np.float64) * 255 + 0.5).astype(np.uint8)


def _lay_over_white(x: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W, 3] of RGBA uint8 [H, W, 4]."""
    color = x[:, :, :3].astype(np.uint32)
    alpha = x[:, :, 3:].astype(np.uint32)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the picture in another size, by bilinear interpolation, antialiased when it shrinks.

    picture: uint8 [H, W, 3]; size: (H, W), each >= 1. Returns uint8 [*size, 3], the picture itself if it has that size.
    The filter is a triangle as wide as two new pixels: Pillow's BILINEAR, at most one code away from it. All sums are
    of integers that floats hold exactly, rounded once, so that every machine and every BLAS computes the same bytes.
    Raises ValueError for anything else.
    """
    if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.size):
        raise ValueError("expected a picture to resize as uint8 [H, W, 3]; make one with as_picture")
    height, width = (int(n) for n in size)
    if min(height, width) < 1:
        raise ValueError(f"expected a size of at least (1, 1), got {tuple(size)}")
    h, w, c = picture.shape
    if (h, w) == (height, width):
        return picture
    if max(h, w) > LONGEST:
        raise ValueError(f"expected a picture of at most {LONGEST} pixels a side, got {h} x {w}")
    # Unless it is small anyway, the axis that shrinks more goes first: what lies between takes memory. Sums of the
    # first pass are below 2**24, exact in float32; those of the second below 2**40, exact in float64.
    if height * w * c <= _BAND or h * width >= w * height:
        rows = _filter_rows(picture.reshape(h, w * c), height, np.float32)
        sums = _filter_columns(rows.reshape(height, w, c), width, np.float64)
    else:
        columns = _filter_columns(picture, width, np.float32)
        sums = _filter_rows(columns.reshape(h, width * c), height, np.float64).reshape(height, width, c)
    return ((sums.astype(np.int64) + UNIT * UNIT // 2) // (UNIT * UNIT)).astype(np.uint8)


def cropped(picture: np.ndarray, size: tuple[int, int], crop: float | None) -> np.ndarray:
    """Returns the part of a picture that a network looks at, uint8 [h, w, 3].

    picture: uint8 [H, W, 3]; size: (H, W) of the network. crop: None for the whole picture. A number in 0..1 keeps the
    network's shape: the largest rectangle of that shape, times the number, from the centre. 0.875 is what resizing the
    short side to 256 pixels and cropping 224 leaves.
    """
    if crop is None:
        return picture
    h, w = picture.shape[:2]
    scale = min(h / size[0], w / size[1]) * crop
    height, width = (min(n, max(1, int(np.floor(side * scale + 0.5)))) for n, side in zip((h, w), size, strict=True))
    top, left = (h - height) // 2, (w - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def framed(picture: np.ndarray, size: tuple[int, int], crop: float | None) -> np.ndarray:
    """Returns the part of a picture that a network looks at (see `cropped`), uint8 [*size, 3]; raises as `resize`."""
    return resize(cropped(picture, size, crop), size)


def _filter_rows(x: np.ndarray, length: int, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Returns [length, m] of integers [n, m], in units of 1 / UNIT; exact as long as sums fit dtype."""
    n, m = x.shape
    filtered = np.empty((length, m), dtype)
    x = x.astype(dtype) if x.size <= _BAND else x  # at once where that is small, else window by window
    for k, (first, weights) in enumerate(_weights(n, length)):
        np.matmul(weights.astype(dtype), x[first : first + len(weights)].astype(dtype, copy=False), out=filtered[k])
    return filtered


def _filter_columns(x: np.ndarray, length: int, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Returns [h, length, c] of integers [h, n, c], in units of 1 / UNIT; exact as long as sums fit dtype."""
    h, n, c = x.shape
    filtered = np.empty((h, length, c), dtype)
    band = max(1, _BAND // (n * c))
    for at in range(0, h, band):
        some = x[at : at + band]
        columns = some.transpose(1, 0, 2).reshape(n, len(some) * c)
        filtered[at : at + band] = _filter_rows(columns, length, dtype).reshape(length, len(some), c).transpose(1, 0, 2)
    return filtered


def _weights(n: int, length: int) -> Iterable[tuple[int, np.ndarray]]:
    """Returns for each of `length` new pixels the first of n old ones that it sees, and int64 weights [...] of them.

    The weights of a pixel sum to UNIT. Those of usual sizes are kept; of long pictures they would take more memory than
    the picture.
    """
    return _kept_weights(n, length) if max(n, length) <= USUAL else _make_weights(n, length)


@lru_cache(maxsize=32)
def _kept_weights(n: int, length: int) -> tuple[tuple[int, np.ndarray], ...]:
    return tuple(_make_weights(n, length))


def _make_weights(n: int, length: int) -> Iterator[tuple[int, np.ndarray]]:
    wide = 2 * max(n, length)
    for k in range(length):
        # Distance of centres (x + 1/2) and (k + 1/2) * n / length, and the triangle's half width, times 2 * length.
        first = max(0, -(-((2 * k + 1) * n - wide - length) // (2 * length)))
        last = min(n - 1, ((2 * k + 1) * n + wide - length) // (2 * length))
        distance = np.abs((2 * np.arange(first, last + 1, dtype=np.int64) + 1) * length - (2 * k + 1) * n)
        # Rounding the running total keeps the sum exact and lets errors of neighbours cancel.
        yield first, np.diff(_shares(np.cumsum(np.maximum(wide - distance, 0))), prepend=0)


def _shares(total: np.ndarray) -> np.ndarray:
    """Returns total / total[-1] in units of 1 / UNIT, rounded to the nearest, ties up, int64 [n].

    By long division, four bits at a time: of long pictures total * UNIT would leave int64.
    """
    shares, rest = np.zeros_like(total), total
    for _ in range(4):
        digit, rest = np.divmod(rest << 4, total[-1])
        shares = (shares << 4) + digit
    shares += 2 * rest >= total[-1]
    return shares
