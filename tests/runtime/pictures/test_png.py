"""PNG files read by numpy and zlib alone equal what Pillow reads."""

import struct
import zlib

import numpy as np
import pytest

from runtime.pictures import png_filters
from runtime.pictures.files import PictureError, read_picture
from runtime.pictures.png import read_chunks
from runtime.pictures.warning import PictureWarning
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


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (37, 41), (90, 6)])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_rows_and_diagonals_give_the_same_bytes(shape, step, monkeypatch):
    """Whatever filters follow each other, and wherever bands of rows end."""
    height, width = shape
    rng = np.random.default_rng(height * step)
    rows = rng.integers(0, 256, (height, 1 + width * step), np.uint8)
    rows[:, 0] = rng.integers(0, 5, height)
    monkeypatch.setattr(png_filters, "_DIAGONAL", 1.0)
    expected = png_filters.unfilter(rows, step)
    monkeypatch.setattr(png_filters, "_DIAGONAL", 0.0)
    for band in (1, 2, 7, 1024):
        monkeypatch.setattr(png_filters, "_BAND", band)
        np.testing.assert_array_equal(png_filters.unfilter(rows, step), expected)


def test_a_large_picture_is_read_as_pillow_does(tmp_path):
    """By diagonals, several bands of them."""
    x = some((1500, 300, 3))
    raw = b"".join(bytes([k % 5]) + row.tobytes() for k, row in enumerate(x.reshape(1500, 900)))
    (tmp_path / "x.png").write_bytes(png(raw, 300, 1500, 2))
    with PIL.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(read_bare(tmp_path / "x.png"), np.asarray(image))


def test_what_would_take_minutes_is_left_to_pillow(tmp_path):
    width = 8_000_000
    (tmp_path / "x.png").write_bytes(png(bytes([3]) + bytes(width) + bytes([4]) + bytes(width), width, 2, 0))
    with pytest.raises(PictureError, match="needs Pillow"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(png_filters, "_PATIENCE", 5.0)
            read_bare(tmp_path / "x.png")


def test_pixels_in_many_chunks_take_no_longer(tmp_path):
    """Joining them one by one would copy 2 MB 200,000 times."""
    data = zlib.compress(np.random.default_rng(0).integers(0, 256, 2_000_000, np.uint8).tobytes(), 0)
    header = struct.pack(">IIBBBBB", 1999, 1000, 8, 0, 0, 0, 0)
    pieces = [(b"IHDR", header), *((b"IDAT", data[at : at + 10]) for at in range(0, len(data), 10)), (b"IEND", b"")]
    chunks = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in pieces)
    assert read_chunks(b"\x89PNG\r\n\x1a\n" + chunks)[b"IDAT"] == data


def test_metadata_with_a_wrong_checksum_are_left_out(tmp_path):
    whole = png(bytes(5 * 16), 15, 5, 0)
    for kind, fits in ((b"tEXt", True), (b"eXIf", True), (b"tRNS", False), (b"PLTE", False)):
        chunk = struct.pack(">I", 4) + kind + b"abcd" + b"\0\0\0\0"
        (tmp_path / "x.png").write_bytes(whole[:33] + chunk + whole[33:])
        if fits:
            with pytest.warns(PictureWarning, match=f"its metadata are damaged .b'{kind.decode()}'"):
                assert read_bare(tmp_path / "x.png").shape == (5, 15)
        else:
            with pytest.raises(PictureError, match=f"the checksum of its {kind.decode()} chunk to fit"):
                read_bare(tmp_path / "x.png")
