"""Picture files read by numpy alone equal what Pillow reads."""

import struct
import sys
import zlib

import numpy as np
import pytest

from runtime.pictures import PictureError, read_picture

PIL = pytest.importorskip("PIL.Image")
SIZES = [(1, 1), (1, 7), (13, 5), (32, 32), (40, 31)]


def some(shape, seed=0):
    """Noise over a ramp, so that encoders find use for every filter."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(shape[0]) * 5, np.arange(shape[1]) * 3).reshape(*shape[:2], *[1] * (len(shape) - 2))
    return ((ramp + rng.integers(0, 40, shape)) % 256).astype(np.uint8)


def read_bare(path):
    """As on a board: any use of Pillow fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "PIL", None)
        return read_picture(path)


def png(rows: bytes, width: int, height: int, colour: int) -> bytes:
    """A PNG of filtered rows."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data, half = zlib.compress(rows), len(rows) // 2
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", data[:half]) + chunk(b"IDAT", data[half:])
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


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


@pytest.mark.parametrize("size", SIZES)
def test_netpbm_and_bmp(tmp_path, size):
    rgb, grey = some((*size, 3)), some(size)
    for x, name in ((rgb, "x.ppm"), (grey, "x.pgm"), (rgb, "x.bmp")):
        PIL.fromarray(x).save(tmp_path / name)
        np.testing.assert_array_equal(read_bare(tmp_path / name), x)


def test_netpbm_comments_and_smaller_maximum(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 # made by hand\n 3 1\n# maximum\n15\n" + bytes([0, 7, 15]))
    np.testing.assert_array_equal(read_bare(tmp_path / "x.pgm"), np.array([[0, 119, 255]], np.uint8))


def test_bmp_from_the_top_down(tmp_path):
    pixels = bytes([1, 2, 3, 4, 5, 6, 0, 0]) + bytes([7, 8, 9, 10, 11, 12, 0, 0])
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54 + len(pixels), 0, 0, 54, 40, 2, -2, 1, 24, 0, *[0] * 5)
    (tmp_path / "x.bmp").write_bytes(header + pixels)
    expected = np.array([[[3, 2, 1], [6, 5, 4]], [[9, 8, 7], [12, 11, 10]]], np.uint8)
    np.testing.assert_array_equal(read_bare(tmp_path / "x.bmp"), expected)


def test_npy(tmp_path):
    np.save(tmp_path / "x.npy", some((5, 6, 3)))
    np.testing.assert_array_equal(read_bare(tmp_path / "x.npy"), some((5, 6, 3)))


def test_other_files_need_pillow(tmp_path):
    x = some((16, 16, 3))
    PIL.fromarray(x).save(tmp_path / "x.webp", lossless=True)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.webp"), x)
    with pytest.raises(PictureError, match="needs Pillow"):
        read_bare(tmp_path / "x.webp")


@pytest.mark.parametrize("name", ["x.png", "x.ppm", "x.bmp", "x.npy"])
def test_damaged_files_are_refused(tmp_path, name):
    """Cut anywhere, or with any byte changed: a picture or a PictureError, never another error."""
    path, x, refused = tmp_path / name, some((6, 5, 3)), 0
    np.save(path, x) if name.endswith("npy") else PIL.fromarray(x).save(path)
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        with pytest.raises(PictureError, match="expected"):
            read_bare(path)
    for i in range(len(data)):
        for value in (0, 255, data[i] ^ 1):
            path.write_bytes(data[:i] + bytes([value]) + data[i + 1:])
            try:
                read_bare(path)
            except PictureError:
                refused += 1
    assert refused > 10
    with pytest.raises(PictureError, match="cannot read it"):
        read_picture(tmp_path / "absent.png")
