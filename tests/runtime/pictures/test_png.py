"""PNG files read by numpy and zlib alone equal what Pillow reads."""

import struct
import zlib

import numpy as np
import pytest

from runtime.pictures.files import read_picture
from tests.runtime.pictures.samples import SIZES, read_bare, some

PIL = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("RGBA", 4), ("L", 0)])
@pytest.mark.parametrize("size", SIZES)
def test_png_of_pillow(tmp_path, mode, channels, size):
    x = some((*size, channels) if channels else size)
    PIL.fromarray(x).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_bare(tmp_path / "x.png"), x)


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_every_filter_of_png(tmp_path, kind, colour, channels):
    """The filtered bytes are arbitrary: whatever they mean, Pillow and we must agree."""
    h, w = 9, 11
    rows = np.random.default_rng(kind).integers(0, 256, (h, w * channels), np.uint8)
    (tmp_path / "x.png").write_bytes(png(b"".join(bytes([kind]) + r.tobytes() for r in rows), w, h, colour))
    with PIL.open(tmp_path / "x.png") as image:
        expected = np.asarray(image.convert("RGBA") if colour == 4 else image)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png"), expected)


def test_png_with_palette(tmp_path):
    image = PIL.fromarray(some((20, 21, 3))).quantize(100)
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_bare(tmp_path / "x.png"), np.asarray(image.convert("RGB")))


def png(rows: bytes, width: int, height: int, colour: int) -> bytes:
    """A PNG of filtered rows."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data, half = zlib.compress(rows), len(rows) // 2
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", data[:half]) + chunk(b"IDAT", data[half:])
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
