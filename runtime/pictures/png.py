"""Reads PNG files with numpy and zlib alone: 8 bits a value, not interlaced, without transparent colours or EXIF."""

import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np

from runtime.pictures.png_filters import unfilter
from runtime.pictures.warning import PictureWarning

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRANSPARENCY = b"tRNS"
_ANCILLARY = 0x20  # bit of the first letter of chunks that pixels can be read without
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
    return plain and _TRANSPARENCY not in chunks and b"eXIf" not in chunks


def read_chunks(data: bytes) -> dict[bytes, bytes]:
    """Returns the content of each type of chunk in a file, that of one type joined.

    Metadata whose checksum does not fit is left out, with a PictureWarning. Raises ValueError where the file is cut off
    or another checksum does not fit.
    """
    parts: dict[bytes, list[bytes]] = {}
    at = len(SIGNATURE)
    while at + 12 <= len(data) and b"IEND" not in parts:
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + size
        if end > len(data):
            break
        body = data[at + 8 : end - 4]
        (checksum,) = struct.unpack(">I", data[end - 4 : end])
        at = end
        if zlib.crc32(body, zlib.crc32(kind)) == checksum:
            parts.setdefault(kind, []).append(body)
        elif kind[0] & _ANCILLARY and kind != _TRANSPARENCY:
            warnings.warn(f"its metadata are damaged ({kind!r}), and left out", PictureWarning, stacklevel=2)
        else:
            raise ValueError(f"expected the checksum of its {kind.decode('latin1')} chunk to fit, it does not")
    if b"IEND" not in parts:
        raise ValueError(f"expected a whole file, this one is cut off after {len(data)} bytes")
    return {kind: b"".join(bodies) for kind, bodies in parts.items()}


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
    values = unfilter(rows.reshape(header.height, stride + 1), header.channels)
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
