"""Reads picture files with numpy alone: PNG, PPM and PGM, BMP, .npy; anything else through Pillow if installed."""

import io
import re
import struct
import tokenize
import zlib
from pathlib import Path

import numpy as np

from runtime.pictures.arrays import of_pillow

_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> values per pixel; 3 is an index into a palette
_NETPBM = re.compile(rb"P[56]" + 3 * rb"(?:\s|#[^\n]*\n)+(\d{1,9})" + rb"\s")  # comments anywhere before a number
_LARGEST = 1 << 27  # pixels, of which some 2 GB of memory are needed
_SUFFIXES = (".png", ".ppm", ".pgm", ".bmp", ".npy", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff")


class PictureError(ValueError):
    """The file cannot be read as a picture; the message says what was expected and what to do."""


def pictures_in(path: Path) -> list[Path]:
    """The file itself, or the pictures in a folder, sorted; raises PictureError for a folder without any."""
    try:
        if not path.is_dir():
            return [path]
        found = pictures_inside(path)
    except OSError as error:
        raise PictureError(
            f"{path}: expected a picture file, or a folder of them, cannot look ({error.strerror})"
        ) from error
    if not found:
        raise PictureError(f"{path}: expected pictures in this folder ({' '.join(_SUFFIXES)}), it holds none")
    return found


def pictures_inside(folder: Path) -> list[Path]:
    """Files in a folder, but not in folders in it, that are called like pictures, sorted."""
    return sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def read_picture(path: str | Path) -> np.ndarray:
    """The picture in a file: uint8 [H, W, 3] or [H, W, 4], or [H, W] for grey; .npy files as they are.

    Photos are turned upright as the camera noted. Of more than 8 bits a value the upper 8 count.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path}: expected a picture file, cannot read it ({error.strerror})") from error
    if not data:
        raise PictureError(f"{path}: expected a picture file, this one is empty")
    reader = next((read for magic, read in _READERS if data.startswith(magic)), _pillow)
    try:
        picture = reader(data)
    except MemoryError as error:
        raise PictureError(
            f"{path}: expected a picture that fits into memory, this one does not; make it smaller"
        ) from error
    except ValueError as error:
        raise PictureError(
            f"{path}: {error}; expected a sound PNG, PPM, PGM, BMP or .npy file, or any other with "
            "Pillow installed (`pip install pillow`)"
        ) from error
    return picture


def _png(data: bytes) -> np.ndarray:
    chunks = _chunks(data)
    header = _chunk(chunks, b"IHDR")
    if len(header) != 13:
        raise ValueError(f"expected an IHDR chunk of 13 bytes, got {len(header)}")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or interlaced or colour not in _CHANNELS or {b"tRNS", b"eXIf"} & set(chunks):
        return _pillow(data)
    _require_size(width, height)
    stride = width * _CHANNELS[colour]
    packed = _chunk(chunks, b"IDAT")
    try:
        rows = np.frombuffer(zlib.decompressobj().decompress(packed, height * (stride + 1)), np.uint8)
    except zlib.error as error:
        raise ValueError(f"expected pixels that can be decompressed, got others ({error})") from error
    if rows.size != height * (stride + 1):
        raise ValueError(f"expected {height * (stride + 1)} bytes of pixels, got {rows.size}")
    pixels = _unfilter(rows.reshape(height, stride + 1), _CHANNELS[colour]).reshape(height, width, -1)
    if colour == 3:
        colours = np.frombuffer(_chunk(chunks, b"PLTE"), np.uint8)
        if colours.size % 3 or pixels.max() >= colours.size // 3:
            raise ValueError(f"expected a palette of {pixels.max() + 1} colours or more, got {colours.size} bytes")
        return colours.reshape(-1, 3)[pixels[:, :, 0]]
    if colour == 4:  # grey with alpha
        return pixels[:, :, [0, 0, 0, 1]]
    return pixels[:, :, 0] if colour == 0 else pixels


def _chunk(chunks: dict[bytes, bytes], kind: bytes) -> bytes:
    if kind not in chunks:
        raise ValueError(f"expected a chunk {kind.decode()}, there is none")
    return chunks[kind]


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Contents by type; those of one type joined."""
    found, at = {}, len(_PNG)
    while at + 12 <= len(data) and b"IEND" not in found:
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if at + 12 + size > len(data):
            break
        body, (crc,) = data[at + 8 : at + 8 + size], struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        if zlib.crc32(kind + body) != crc:
            raise ValueError(f"expected the checksum of its {kind.decode('latin1')} chunk to fit, it does not")
        found[kind] = found.get(kind, b"") + body
        at += 12 + size
    if b"IEND" not in found:
        raise ValueError(f"expected a whole file, this one is cut off after {len(data)} bytes")
    return found


def _unfilter(rows: np.ndarray, step: int) -> np.ndarray:
    """uint8 [H, stride] of rows [H, 1 + stride], each led by its filter: none, left, up, average, Paeth."""
    out = np.zeros((len(rows) + 1, rows.shape[1] - 1 + step), np.uint8)  # a zero row above, a zero pixel to the left
    for y, (kind, line) in enumerate(zip(rows[:, 0].tolist(), rows[:, 1:], strict=True)):
        up, row = out[y], out[y + 1]
        if kind == 0:
            row[step:] = line
        elif kind == 1:
            row[step:] = np.cumsum(line.reshape(-1, step), 0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            row[step:] = line + up[step:]
        elif kind in (3, 4):
            _unfilter_by_pixel(row, up, line.tolist(), step, kind == 4)
        else:
            raise ValueError(f"expected PNG filters 0..4, got {kind}")
    return out[1:, step:]


def _unfilter_by_pixel(row: np.ndarray, up: np.ndarray, line: list[int], step: int, paeth: bool) -> None:
    """Filters in which every value needs the one before it: plain integers are quicker here than numpy's."""
    above, done = up.tolist(), [0] * step
    for i, value in enumerate(line):
        a, b, c = done[i], above[i + step], above[i]
        if paeth:
            p = a + b - c
            da, db, dc = abs(p - a), abs(p - b), abs(p - c)
            done.append(value + (a if da <= db and da <= dc else b if db <= dc else c) & 255)
        else:
            done.append(value + (a + b) // 2 & 255)
    row[:] = done


def _netpbm(data: bytes) -> np.ndarray:
    """Binary PGM (P5) or PPM (P6); of 16 bits a value, PGM is cut and PPM rounded to 8, as Pillow does."""
    header = _NETPBM.match(data)
    if header is None:
        raise ValueError("expected width, height and largest value after P5 or P6, got something else")
    width, height, largest = (int(word) for word in header.groups())
    _require_size(width, height)
    if not 0 < largest < 1 << 16:
        raise ValueError(f"expected values up to 65535, got a maximum of {largest}")
    grey, dtype = data.startswith(b"P5"), np.dtype(">u2" if largest > 255 else "u1")
    shape = (height, width) if grey else (height, width, 3)
    pixels = _values(data, dtype, shape, header.end())
    if largest != 255:
        wide = grey and largest > 255
        pixels = np.rint(np.minimum(pixels, largest) / largest * (65535 if wide else 255)).astype(np.int64)
        pixels = (pixels >> 8 if wide else pixels).astype(np.uint8)
    return pixels


def _values(data: bytes, dtype: np.dtype, shape: tuple[int, ...], at: int) -> np.ndarray:
    count, there = int(np.prod(shape)), max(0, len(data) - at)
    if there < count * dtype.itemsize:
        raise ValueError(f"expected {count * dtype.itemsize} bytes of pixels, got {there}")
    return np.frombuffer(data, dtype, count, at).reshape(shape)


def _bmp(data: bytes) -> np.ndarray:
    """Uncompressed, 24 bits a pixel, from the bottom up or the top down."""
    if len(data) < 34:
        raise ValueError(f"expected a header of 34 bytes or more, the file has {len(data)}")
    begin, header, width, height, _, depth, compression = struct.unpack("<I I i i H H I", data[10:34])
    if header < 40 or depth != 24 or compression:
        return _pillow(data)
    _require_size(width, abs(height))
    stride = -(-width * 3 // 4) * 4
    rows = _values(data, np.dtype(np.uint8), (abs(height), stride), begin)
    bgr = rows[:, : 3 * width].reshape(abs(height), width, 3)
    return np.ascontiguousarray((bgr[::-1] if height > 0 else bgr)[:, :, ::-1])


def _npy(data: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (
        ValueError,
        EOFError,
        OSError,
        SyntaxError,
        TypeError,
        MemoryError,
        OverflowError,
        tokenize.TokenError,
    ) as error:
        raise ValueError(f"expected an array in a .npy file, it cannot be read ({error})") from error


def _pillow(data: bytes) -> np.ndarray:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError  # optional: numpy alone reads the formats above
    except ImportError as error:
        raise ValueError("this kind of file needs Pillow, which is not installed") from error
    try:
        with Image.open(io.BytesIO(data)) as image:
            return of_pillow(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise ValueError("expected a picture, got a file of no kind that Pillow knows") from error
    except Exception as error:  # each of Pillow's many readers raises kinds of its own at damaged files
        raise ValueError(f"Pillow cannot read it ({error})") from error


def _require_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > _LARGEST:
        raise ValueError(f"expected 1 to {_LARGEST} pixels, got {width} x {height}")


_READERS = ((_PNG, _png), (b"P5", _netpbm), (b"P6", _netpbm), (b"BM", _bmp), (b"\x93NUMPY", _npy))
