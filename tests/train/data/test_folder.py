"""Folders of pictures become data sets, and their pictures are read as the device reads them."""

import numpy as np
import pytest
from PIL import Image

from runtime.pictures.arrays import as_picture, resize
from runtime.pictures.files import read_picture as read_on_device
from tests.train.data.checks import check_dataset
from train.data.dataset import DataError
from train.data.datasets import load
from train.data.folder import read_picture


def write(path, size=(40, 30), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pets"
    for part, n in (("train", 3), ("val", 4)):
        for c, label in enumerate(("cat", "dog")):
            for k in range(n):
                write(root / part / label / f"{k}.png", seed=10 * c + k + 100 * (part == "val"))
    return root


def test_a_folder_becomes_a_data_set(pictures):
    dataset = load(f"folder:{pictures}", None, None)
    check_dataset(dataset)
    assert dataset.name == "pets" and dataset.labels == ("cat", "dog") and dataset.shape == (32, 32, 3)
    assert [len(v) for v in (dataset.train_y, dataset.val_y, dataset.test_y)] == [6, 4, 4]
    assert np.array_equal(dataset.train_x[0], resize(np.asarray(Image.open(pictures / "train/cat/0.png")), (32, 32)))
    assert not {x.tobytes() for x in dataset.val_x} & {x.tobytes() for x in dataset.test_x}
    assert load(f"folder:{pictures}", None, None, size=48).shape == (48, 48, 3)
    assert dataset.describe() == (
        "data: 6 training, 4 validation and 4 test pictures of 2 classes, 32x32; all pictures were "
        "resized to 32x32, and half of val/ became the test set, for there is no folder "
        f"{pictures / 'test'}"
    )


def test_a_test_folder_is_used_when_there(pictures):
    expected = write(pictures / "test/cat/a.bmp", (32, 32))
    write(pictures / "test/dog/b.webp")
    dataset = load(f"folder:{pictures}", None, None)
    assert dataset.describe().endswith(
        "8 validation and 2 test pictures of 2 classes, 32x32; all pictures were resized to 32x32"
    )
    assert len(dataset.val_y) == 8 and dataset.test_y.tolist() == [0, 1] and np.array_equal(dataset.test_x[0], expected)


def test_grey_transparent_and_turned_pictures(pictures):
    grey = write(pictures / "train/cat/grey.png", (32, 32), "L")
    write(pictures / "train/cat/see.png", (32, 32), "RGBA")
    assert np.array_equal(read_picture(pictures / "train/cat/grey.png"), np.stack([grey] * 3, 2))
    assert read_picture(pictures / "train/cat/see.png").shape == (32, 32, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.open(pictures / "train/dog/0.png").save(pictures / "train/dog/turned.jpg", exif=exif)
    assert read_picture(pictures / "train/dog/turned.jpg").shape == (40, 30, 3)


@pytest.mark.parametrize("name, dtype", [("deep.png", "<u2"), ("deep.tif", ">u2"), ("deep.tif", "<i4")])
def test_of_sixteen_bits_the_upper_eight_count(tmp_path, name, dtype):
    deep = np.random.default_rng(0).integers(0, 1 << 16, (30, 40)).astype(dtype)
    Image.fromarray(deep).save(tmp_path / name)
    assert np.array_equal(read_picture(tmp_path / name), np.stack([(deep >> 8).astype(np.uint8)] * 3, 2))


def test_pictures_of_floats_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(DataError, match="real.tif: .*floats.* save it with 8 or 16 bits"):
        read_picture(tmp_path / "real.tif")


@pytest.mark.parametrize("name", ["deep.png", "see.png", "palette.png", "turned.jpg", "grey.png", "alpha.png"])
def test_pictures_are_read_as_the_device_reads_them(tmp_path, name):
    chance, path, exif = np.random.default_rng(0), tmp_path / name, Image.Exif()
    exif[0x0112] = 6
    deep, colours = chance.integers(0, 1 << 16, (30, 40)).astype("<u2"), chance.integers(0, 256, (30, 40, 4), np.uint8)
    made = {
        "deep.png": Image.fromarray(deep),
        "see.png": Image.fromarray(colours),
        "palette.png": Image.fromarray(colours[..., :3]).quantize(7),
        "grey.png": Image.fromarray(colours[..., 0]),
        "turned.jpg": Image.fromarray(colours[..., :3]),
        "alpha.png": Image.fromarray(colours[..., :2], "LA"),
    }
    made[name].save(path, **({"exif": exif} if name == "turned.jpg" else {}))
    assert np.array_equal(read_picture(path), as_picture(read_on_device(path)))


def break_folder(root, kind):
    if kind == "broken":
        (root / "val/dog/9.png").write_bytes(b"no picture")
    elif kind == "cut":
        raw = (root / "train/cat/1.png").read_bytes()
        (root / "train/cat/1.png").write_bytes(raw[: len(raw) // 2])
    elif kind == "empty":
        for p in (root / "val/dog").iterdir():
            p.unlink()
    elif kind == "extra":
        write(root / "val/bird/1.png")
    elif kind == "one":
        for p in list((root / "val/dog").iterdir())[1:]:
            p.unlink()
    elif kind == "no val":
        (root / "val").rename(root / "validation")
    elif kind == "no classes":
        for p in (root / "train").iterdir():
            p.rename(root / p.name)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("broken", "val/dog/9.png: not a picture"),
        ("cut", "train/cat/1.png: not a picture"),
        ("empty", "val/dog: .*found none"),
        ("extra", "bird"),
        ("one", "two pictures a class"),
        ("no val", "val: there is no such folder"),
        ("no classes", "at least two classes"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(pictures, kind, words):
    break_folder(pictures, kind)
    with pytest.raises(DataError, match=words):
        load(f"folder:{pictures}", None, None)


def test_damaged_files_are_named_all_at_once(pictures):
    names = ("train/cat/0.png", "train/dog/2.png", "val/dog/1.png")
    for name in names:
        (pictures / name).write_bytes(b"<html>")
    with pytest.raises(DataError, match="got 3 files that are none") as caught:
        load(f"folder:{pictures}", None, None)
    assert all(f"{pictures / name}: not a picture" in str(caught.value) for name in names)


def test_what_a_mac_leaves_beside_pictures_is_no_picture(pictures):
    expected = load(f"folder:{pictures}", None, None)
    for part in ("train/cat", "val/dog", "train/__MACOSX"):
        (pictures / part).mkdir(exist_ok=True)
        (pictures / part / "._0.png").write_bytes(b"\0\5\x16\7")
        (pictures / part / ".DS_Store").write_bytes(b"\0")
    dataset = load(f"folder:{pictures}", None, None)
    assert dataset.labels == expected.labels and np.array_equal(dataset.train_x, expected.train_x)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.ppm", "a.npy"])
def test_every_kind_of_file_that_a_device_reads_is_trained_with(pictures, name):
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    path = pictures / "train/cat" / name
    np.save(path, pixels) if name.endswith("npy") else Image.fromarray(pixels).save(path)
    dataset = load(f"folder:{pictures}", None, None)
    assert len(dataset.train_y) == 7 and np.array_equal(dataset.train_x[3], as_picture(read_on_device(path)))
