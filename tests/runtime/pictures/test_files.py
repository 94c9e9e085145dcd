"""Picture files read by numpy alone equal what Pillow reads."""

import io
import struct
import warnings

import numpy as np
import pytest

from runtime.pictures.files import PictureError, pictures_in, read_picture
from runtime.pictures.warning import PictureWarning
from tests.runtime.pictures.samples import SIZES, read_bare, some
from train.data.dataset import DataError
from train.data.folder import read_picture as read_training_picture

PIL, ImageOps = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
def test_photos_are_turned_upright(tmp_path, name, orientation):
    image, exif = PIL.fromarray(some((24, 40, 3))), PIL.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / name, exif=exif)
    with PIL.open(tmp_path / name) as stored:
        raw, expected = np.asarray(stored), np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(read_picture(tmp_path / name), expected)
    assert orientation == 1 or not np.array_equal(raw, expected)


WIDE = (np.arange(12 * 9, dtype=np.uint16).reshape(12, 9) * 601) + 37  # up to 64,344


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_grey_of_16_bits(tmp_path, name):
    PIL.fromarray(WIDE).save(tmp_path / name)
    np.testing.assert_array_equal(read_picture(tmp_path / name), WIDE >> 8)
    PIL.fromarray(WIDE.astype(np.int32)).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "x.tif"), WIDE >> 8)


@pytest.mark.parametrize("kind, largest", [("P5", 65535), ("P6", 65535), ("P5", 1000), ("P6", 1000), ("P6", 100)])
def test_netpbm_of_16_bits_is_read_as_pillow_does(tmp_path, kind, largest):
    values = WIDE.astype(int) % (largest + 1)
    body = values.astype(">u2" if largest > 255 else "u1").tobytes()
    width = 9 if kind == "P5" else 3
    (tmp_path / "x.ppm").write_bytes(f"{kind} {width} 12 {largest}\n".encode() + body)
    with PIL.open(tmp_path / "x.ppm") as image:
        codes = np.asarray(image)
    np.testing.assert_array_equal(read_bare(tmp_path / "x.ppm"), codes >> 8 if kind == "P5" else codes)


@pytest.mark.parametrize(
    "array, words",
    [(np.ones((4, 4), np.float32), "got floats"), (np.full((4, 4), 70000, np.int32), "grey of 16 bits at most")],
)
def test_greys_without_a_range_are_refused(tmp_path, array, words):
    PIL.fromarray(array).save(tmp_path / "x.tif")
    with pytest.raises(PictureError, match=words):
        read_picture(tmp_path / "x.tif")


def test_errors_say_what_was_expected(tmp_path):
    """And nothing of how the reader found out."""
    path = tmp_path / "x.png"
    PIL.fromarray(some((20, 20, 3))).save(path)
    whole = path.read_bytes()
    header, iend = whole[:33], whole[-12:]
    (tmp_path / "x.bmp").write_bytes(b"BM12")
    (tmp_path / "x.pgm").write_bytes(b"P5 1 23 456")  # one number is missing
    (tmp_path / "none.jpg").write_bytes(b"hello")
    (tmp_path / "empty.png").write_bytes(b"")
    np.save(tmp_path / "x.npy", some((5, 6)))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-3])
    cases = {
        "x.bmp": "expected a header",
        "x.pgm": "expected width, height",
        "none.jpg": "no kind that Pillow knows",
        "empty.png": "is empty",
        "x.npy": "expected an array",
    }
    for name, words in cases.items():
        with pytest.raises(PictureError, match=words) as caught:
            read_picture(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ") and "object at" not in str(caught.value)
    for data, words in (
        (whole[:-14], "cut off after"),
        (whole[:20], "cut off after"),
        (header + iend, "chunk IDAT"),
        (whole[:8] + iend, "chunk IHDR"),
    ):
        path.write_bytes(data)
        with pytest.raises(PictureError, match=words) as caught:
            read_bare(path)
        assert "requires a buffer" not in str(caught.value) and "b'" not in str(caught.value)


@pytest.mark.parametrize("kind", [NotImplementedError, SyntaxError, RecursionError, struct.error, KeyError])
def test_whatever_pillow_raises_is_one_error(tmp_path, kind, monkeypatch):
    """Each of its readers raises kinds of its own at damaged files."""
    PIL.fromarray(some((8, 8, 3))).save(tmp_path / "a.jpg")

    def load(self):
        raise kind("deep inside")

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load)
    with pytest.raises(PictureError, match="a.jpg: Pillow cannot read it .*expected a sound PNG"):
        read_picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="a.jpg: not a picture that can be read .*repair or remove it"):
        read_training_picture(tmp_path / "a.jpg")


@pytest.mark.parametrize("save_as", ["x.eps", "x.pdf", "x.dds", "x.sgi"])
def test_other_readers_of_pillow_are_never_asked(tmp_path, save_as, monkeypatch):
    """PostScript is a program, and Pillow has another one run it: here a file that is named like a photo."""
    PIL.fromarray(some((8, 8, 3))).save(tmp_path / save_as)
    (tmp_path / save_as).rename(tmp_path / "x.jpg")
    PIL.init()
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    for read, error in ((read_picture, PictureError), (read_training_picture, DataError)):
        with pytest.raises(error, match="a file of no kind that Pillow knows"):
            read(tmp_path / "x.jpg")


def jpeg_with(*segments: bytes) -> bytes:
    """A JPEG of some((24, 40, 3)) with APP1 segments of these contents."""
    file = io.BytesIO()
    PIL.fromarray(some((24, 40, 3))).save(file, "JPEG")
    data = file.getvalue()
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments) + data[2:]


TURNED = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)  # TIFF whose one entry is the orientation 6
DAMAGED_METADATA = {
    "no kind": b"Exif\0\0XX*\0broken",
    "empty": b"Exif\0\0",
    "four bytes": b"Exif\0\0II*\0",
    "cut": b"Exif\0\0" + TURNED[:15],
    "beyond": b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x10F, 2, 4000, 5000),
    "loop": b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 8, 8),
    "orientation of two": b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 2, 6, 1, 0),
    "orientation as text": b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x112, 2, 2, b"6\0", 0),
    "orientation 0": b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 0, 0, 0),
    "xmp": b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta a='\xa8\xff'/>",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DAMAGED_METADATA)
def test_damaged_metadata_never_cost_a_picture(tmp_path, kind):
    (tmp_path / "x.jpg").write_bytes(jpeg_with(DAMAGED_METADATA[kind]))
    (tmp_path / "sound.jpg").write_bytes(jpeg_with())
    expected = read_picture(tmp_path / "sound.jpg")
    picture = read_picture(tmp_path / "x.jpg")
    turned = np.rot90(expected, -1)
    assert np.array_equal(picture, expected) or (kind == "orientation of two" and np.array_equal(picture, turned))
    np.testing.assert_array_equal(read_training_picture(tmp_path / "x.jpg"), picture)


def test_metadata_that_are_sound_beside_others_that_are_not_count(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg_with(b"Exif\0\0" + TURNED, DAMAGED_METADATA["xmp"]))
    (tmp_path / "sound.jpg").write_bytes(jpeg_with())
    np.testing.assert_array_equal(read_picture(tmp_path / "x.jpg"), np.rot90(read_picture(tmp_path / "sound.jpg"), -1))


def test_metadata_that_cannot_be_read_are_warned_of(tmp_path):
    PIL.fromarray(some((6, 5, 3))).save(tmp_path / "x.png", exif=b"XX*\0broken")
    with pytest.warns(PictureWarning, match="its metadata are damaged .*; it is read as it lies"):
        np.testing.assert_array_equal(read_picture(tmp_path / "x.png"), some((6, 5, 3)))


@pytest.mark.parametrize("bits, warned", [(8, True), (10, True), (12, True), (14, True), (15, False), (16, False)])
def test_cameras_of_few_bits_in_16_are_warned_of(tmp_path, bits, warned):
    codes = np.linspace(0, (1 << bits) - 1, 64 * 64).astype(np.uint16).reshape(64, 64)
    for name in ("x.png", "x.tif"):
        PIL.fromarray(codes).save(tmp_path / name)
    (tmp_path / "x.pgm").write_bytes(b"P5\n64 64\n65535\n" + codes.astype(">u2").tobytes())
    for name in ("x.png", "x.tif", "x.pgm"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(read_picture(tmp_path / name), codes >> 8)
        assert [w.category for w in caught] == [PictureWarning] * warned
        assert not warned or f"{bits} bits stored in 16" in str(caught[0].message)


def test_folders_are_the_pictures_in_them(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".x.png"):
        (tmp_path / name).touch()
    (tmp_path / "c.png").mkdir()
    assert [p.name for p in pictures_in(tmp_path)] == ["a.JPG", "b.png"]
    assert pictures_in(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(PictureError, match="expected pictures in this folder"):
        pictures_in(tmp_path / "c.png")


def test_other_files_need_pillow(tmp_path):
    x = some((16, 16, 3))
    PIL.fromarray(x).save(tmp_path / "x.webp", lossless=True)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.webp"), x)
    with pytest.raises(PictureError, match="needs Pillow"):
        read_bare(tmp_path / "x.webp")


@pytest.mark.filterwarnings("ignore::runtime.pictures.warning.PictureWarning")
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
            path.write_bytes(data[:i] + bytes([value]) + data[i + 1 :])
            try:
                read_bare(path)
            except PictureError:
                refused += 1
    assert refused > 10
    with pytest.raises(PictureError, match="this one is missing"):
        read_picture(tmp_path / "absent.png")


def test_files_without_end_are_refused(monkeypatch):
    monkeypatch.setattr("runtime.pictures.files._LARGEST_FILE", 1 << 16)
    with pytest.raises(PictureError, match="/dev/zero: expected a picture file of 65536 bytes at most"):
        read_picture("/dev/zero")
