"""Reads PNG files with numpy and zlib alone: 8 bits a value, not interlaced, without transparent colours or EXIF."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE, _GREY_ALPHA = 0, 3, 4  # colour types that are no array of pixels as they are stored
_CHANNELS = {_GREY: 1, 2: 3, _PALETTE: 1, _GREY_ALPHA: 2, 6: 4}  # colour type -> values of a pixel


@dataclass(frozen=True)
class Header:
    """The IHDR chunk of a file: size in pixels, bits of a value, colour type, and whether rows are interlaced."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: int

    @property
    def channels(self) -> int:
        """Values of a pixel."""
        return _CHANNELS[self.colour]


def read_header(chunks: dict[bytes, bytes]) -> Header:
    """Returns the header of a file's chunks. Raises ValueError for one of another length."""
    data = require_chunk(chunks, b"IHDR")
    if len(data) != 13:
        raise ValueError(f"expected an IHDR chunk of 13 bytes, got {len(data)}")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data)
    return Header(width, height, depth, colour, interlaced)


def is_plain(header: Header, chunks: dict[bytes, bytes]) -> bool:
    """Whether `read_pixels` reads this kind of file; others are left to Pillow."""
    plain = header.depth == 8 and not header.interlaced and header.colour in _CHANNELS
    return plain and b"tRNS" not in chunks and b"eXIf" not in chunks


def read_chunks(data: bytes) -> dict[bytes, bytes]:
    """Returns the content of each type of chunk in a file, that of one type joined.

    Raises ValueError where the file is cut off or a checksum does not fit.
    """
    chunks: dict[bytes, bytes] = {}
    at = len(SIGNATURE)
    while at + 12 <= len(data) and b"IEND" not in chunks:
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + size
        if end > len(data):
            break
        body = data[at + 8 : end - 4]
        (checksum,) = struct.unpack(">I", data[end - 4 : end])
        if zlib.crc32(kind + body) != checksum:
            raise ValueError(f"expected the checksum of its {kind.decode('latin1')} chunk to fit, it does not")
        chunks[kind] = chunks.get(kind, b"") + body
        at = end
    if b"IEND" not in chunks:
        raise ValueError(f"expected a whole file, this one is cut off after {len(data)} bytes")
    return chunks


def require_chunk(chunks: dict[bytes, bytes], kind: bytes) -> bytes:
    """Returns the content of a type of chunk. Raises ValueError where there is none."""
    if kind not in chunks:
        raise ValueError(f"expected a chunk {kind.decode()}, there is none")
    return chunks[kind]


def read_pixels(header: Header, chunks: dict[bytes, bytes]) -> np.ndarray:
    """Returns uint8 [H, W] for grey, else [H, W, 3] or [H, W, 4], of a file that `is_plain`.

    Raises ValueError where the pixels are damaged.
    """
    stride = header.width * header.channels
    size = header.height * (stride + 1)
    packed = require_chunk(chunks, b"IDAT")
    try:
        rows = np.frombuffer(zlib.decompressobj().decompress(packed, size), np.uint8)
    except zlib.error as error:
        raise ValueError(f"expected pixels that can be decompressed, got others ({error})") from error
    if rows.size != size:
        raise ValueError(f"expected {size} bytes of pixels, got {rows.size}")
    values = _unfilter(rows.reshape(header.height, stride + 1), header.channels)
    pixels = values.reshape(header.height, header.width, -1)
    if header.colour == _PALETTE:
        return _look_up(pixels[:, :, 0], require_chunk(chunks, b"PLTE"))
    if header.colour == _GREY_ALPHA:
        return pixels[:, :, [0, 0, 0, 1]]
    return pixels[:, :, 0] if header.colour == _GREY else pixels


def _look_up(indices: np.ndarray, palette: bytes) -> np.ndarray:
    """Returns the colours uint8 [H, W, 3] of indices uint8 [H, W]."""
    values = np.frombuffer(palette, np.uint8)
    if values.size % 3 or indices.max() >= values.size // 3:
        raise ValueError(f"expected a palette of {indices.max() + 1} colours or more, got {values.size} bytes")
    colours: np.ndarray = values.reshape(-1, 3)[indices]
    return colours


def _unfilter(rows: np.ndarray, step: int) -> np.ndarray:
    """Returns uint8 [H, stride] of rows [H, 1 + stride], each led by its filter: none, left, up, average, Paeth.

    step: bytes of a pixel.
    """
    out = np.zeros((len(rows) + 1, rows.shape[1] - 1 + step), np.uint8)  # a zero row above, a zero pixel to the left
    for y, (kind, line) in enumerate(zip(rows[:, 0].tolist(), rows[:, 1:], strict=True)):
        up = out[y]
        row = out[y + 1]
        if kind == 0:
            row[step:] = line
        elif kind == 1:
            row[step:] = np.cumsum(line.reshape(-1, step), 0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            row[step:] = line + up[step:]
        elif kind == 3:
            row[:] = _undo_average(up.tolist(), line.tolist(), step)
        elif kind == 4:
            row[:] = _undo_paeth(up.tolist(), line.tolist(), step)
        else:
            raise ValueError(f"expected PNG filters 0..4, got {kind}")
    return out[1:, step:]


# In these two filters every value needs the one before it: plain integers are quicker than numpy there.


def _undo_average(above: list[int], line: list[int], step: int) -> list[int]:
    """Returns a row, led by a zero pixel, of the row above and a line of filtered values."""
    row = [0] * step
    for i, value in enumerate(line):
        row.append((value + (row[i] + above[i + step]) // 2) & 255)
    return row


def _undo_paeth(above: list[int], line: list[int], step: int) -> list[int]:
    """Returns a row, led by a zero pixel, of the row above and a line of filtered values (PNG, 3rd edition, 9.4)."""
    row = [0] * step
    for i, value in enumerate(line):
        left, up, corner = row[i], above[i + step], above[i]
        to_left = abs(up - corner)  # distances of the estimate left + up - corner
        to_up = abs(left - corner)
        to_corner = abs(left + up - 2 * corner)
        if to_left <= to_up and to_left <= to_corner:
            nearest = left
        elif to_up <= to_corner:
            nearest = up
        else:
            nearest = corner
        row.append((value + nearest) & 255)
    return row
