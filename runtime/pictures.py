"""Reads picture files with numpy alone: PNG, PPM and PGM, BMP, .npy; anything else through Pillow if installed."""

import io
import struct
import tokenize
import zlib
from pathlib import Path

import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> values per pixel; 3 is an index into a palette
_LARGEST = 1 << 28  # pixels


class PictureError(ValueError):
    """The file cannot be read as a picture; the message says what was expected and what to do."""


def read_picture(path: str | Path) -> np.ndarray:
    """The picture in a file: uint8 [H, W, 3] or [H, W, 4], or [H, W] for grey; .npy files as they are."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path}: expected a picture file, cannot read it ({error.strerror})") from error
    reader = next((read for magic, read in _READERS if data.startswith(magic)), _pillow)
    try:
        picture = reader(data)
    except (ValueError, IndexError, KeyError, struct.error, zlib.error, EOFError, OSError) as error:
        raise PictureError(f"{path}: {error}; expected a sound PNG, PPM, PGM, BMP or .npy file, or any other with "
                           "Pillow installed (`pip install pillow`)") from error
    return picture


def _png(data: bytes) -> np.ndarray:
    chunks = _chunks(data)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if depth != 8 or interlaced or colour not in _CHANNELS or b"tRNS" in chunks:
        return _pillow(data)
    _require_size(width, height)
    stride = width * _CHANNELS[colour]
    rows = np.frombuffer(zlib.decompressobj().decompress(chunks[b"IDAT"], height * (stride + 1)), np.uint8)
    if rows.size != height * (stride + 1):
        raise ValueError(f"expected {height * (stride + 1)} bytes of pixels, got {rows.size}")
    pixels = _unfilter(rows.reshape(height, stride + 1), _CHANNELS[colour]).reshape(height, width, -1)
    if colour == 3:
        return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[pixels[:, :, 0]]
    if colour == 4:  # grey with alpha
        return pixels[:, :, [0, 0, 0, 1]]
    return pixels[:, :, 0] if colour == 0 else pixels


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Contents by type; those of one type joined."""
    found, at = {}, len(_PNG)
    while at < len(data) and b"IEND" not in found:
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body, (crc,) = data[at + 8:at + 8 + size], struct.unpack(">I", data[at + 8 + size:at + 12 + size])
        if zlib.crc32(kind + body) != crc:
            raise ValueError(f"expected the checksum of its {kind.decode('latin1')} chunk to fit, it does not")
        found[kind] = found.get(kind, b"") + body
        at += 12 + size
    if b"IEND" not in found:
        raise ValueError("expected an IEND chunk, the file ends before it")
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
    """Binary PGM (P5) or PPM (P6) with up to 8 bits a value."""
    words, at = [], 2
    while len(words) < 3:
        while data[at:at + 1].isspace():
            at += 1
        if data[at:at + 1] == b"#":
            at = data.index(b"\n", at)
            continue
        begin = at
        while data[at:at + 1].isdigit():
            at += 1
        words.append(int(data[begin:at]))
    width, height, largest = words
    _require_size(width, height)
    if not 0 < largest < 256:
        raise ValueError(f"expected values up to 255, got a maximum of {largest}")
    channels = 3 if data.startswith(b"P6") else 1
    pixels = np.frombuffer(data, np.uint8, width * height * channels, at + 1)
    if largest != 255:
        pixels = ((np.minimum(pixels, largest).astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
    return pixels.reshape((height, width, 3) if channels == 3 else (height, width))


def _bmp(data: bytes) -> np.ndarray:
    """Uncompressed, 24 bits a pixel, from the bottom up or the top down."""
    begin, header, width, height, _, depth, compression = struct.unpack("<I I i i H H I", data[10:34])
    if header < 40 or depth != 24 or compression:
        return _pillow(data)
    _require_size(width, abs(height))
    stride = -(-width * 3 // 4) * 4
    rows = np.frombuffer(data, np.uint8, stride * abs(height), begin).reshape(abs(height), stride)
    bgr = rows[:, :3 * width].reshape(abs(height), width, 3)
    return np.ascontiguousarray((bgr[::-1] if height > 0 else bgr)[:, :, ::-1])


def _npy(data: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (SyntaxError, TypeError, MemoryError, OverflowError, tokenize.TokenError) as error:
        raise ValueError(f"its header cannot be read ({error})") from error


def _pillow(data: bytes) -> np.ndarray:
    try:
        from PIL import Image  # optional: a board with numpy alone reads the formats above
    except ImportError as error:
        raise ValueError("this kind of file needs Pillow, which is not installed") from error
    with Image.open(io.BytesIO(data)) as image:
        see_through = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA")
        return np.asarray(image.convert("RGBA" if see_through else "RGB"))


def _require_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > _LARGEST:
        raise ValueError(f"expected 1 to {_LARGEST} pixels, got {width} x {height}")


_READERS = ((_PNG, _png), (b"P5", _netpbm), (b"P6", _netpbm), (b"BM", _bmp), (b"\x93NUMPY", _npy))
