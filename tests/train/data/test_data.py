"""Data sets: digits and folders are read right; CIFAR-10 is checked, fetched whole, and never runs code."""

import functools
import hashlib
import http.server
import io
import pickle
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from runtime.pictures.arrays import as_picture, resize
from runtime.pictures.files import read_picture as on_device
from train.data import datasets as data
from train.data.datasets import CIFAR_FILES, CIFAR_FOLDER, DataError, load


def check(d):
    for x, y in ((d.train_x, d.train_y), (d.val_x, d.val_y), (d.test_x, d.test_y)):
        assert x.dtype == np.uint8 and x.shape == (len(y), *d.shape) and y.dtype == np.int64
        assert set(y) == set(range(len(d.labels)))


def test_digits(tmp_path):
    from sklearn.datasets import load_digits

    d = load("digits", None, tmp_path)
    check(d)
    assert d.shape == (32, 32, 3) and d.labels == tuple("0123456789")
    sizes = [len(d.train_y), len(d.val_y), len(d.test_y)]
    assert sum(sizes) == 1797 and min(sizes) > 350
    counts = np.stack([np.bincount(y) for y in (d.val_y, d.test_y)])
    assert counts.min() >= 34 and counts.max() <= 38  # stratified: 174 to 183 of each digit, a fifth
    every = np.concatenate([d.train_x, d.val_x, d.test_x])
    assert (every[..., 0] == every[..., 2]).all()
    wanted = {
        resize(np.rint(np.repeat(p[:, :, None], 3, 2) * 255 / 16).astype(np.uint8), (32, 32)).tobytes()
        for p in load_digits().images
    }
    assert {p.tobytes() for p in every} == wanted
    assert np.array_equal(load("digits", None, tmp_path).train_x, d.train_x)


def cifar_files(per_file=20):
    """Files as CIFAR-10's, pickled in its way, with few pictures: name -> bytes."""
    rng, files = np.random.default_rng(0), {}
    for name in CIFAR_FILES:
        batch = {
            "batch_label": name,
            "labels": [int(v) for v in rng.integers(0, 10, per_file)],
            "data": rng.integers(0, 256, (per_file, 3072), np.uint8),
            "filenames": ["x.png"] * per_file,
        }
        files[name] = pickle.dumps(batch, protocol=3)
    return files


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with small files, and the md5s and part sizes that go with them."""
    files = cifar_files()
    monkeypatch.setattr(data, "CIFAR_FILES", {k: hashlib.md5(v).hexdigest() for k, v in files.items()})
    monkeypatch.setattr(data, "CIFAR_VAL", 30)
    monkeypatch.setattr(data, "CIFAR_URL", "http://127.0.0.1:9/none")  # nothing listens there
    folder = tmp_path / "root" / CIFAR_FOLDER
    folder.mkdir(parents=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def test_cifar_parts_and_axes(cifar):
    for root in (cifar, cifar.parent):
        d = load("cifar10", root, root)
        assert (len(d.train_x), len(d.val_x), len(d.test_x)) == (70, 30, 20)
    first = pickle.loads((cifar / "data_batch_1").read_bytes())
    assert np.array_equal(d.train_x[0].transpose(2, 0, 1).reshape(-1), first["data"][0])
    assert np.array_equal(d.train_y[:20], first["labels"])
    last = pickle.loads((cifar / "data_batch_5").read_bytes())
    assert np.array_equal(d.val_x[-1].transpose(2, 0, 1).reshape(-1), last["data"][-1])
    assert np.array_equal(d.test_y, pickle.loads((cifar / "test_batch").read_bytes())["labels"])


def test_a_changed_byte_is_noticed(cifar):
    raw = bytearray((cifar / "data_batch_3").read_bytes())
    raw[1000] ^= 1
    (cifar / "data_batch_3").write_bytes(raw)
    with pytest.raises(DataError, match="data_batch_3: expected md5 .* got .* fetch"):
        load("cifar10", cifar, cifar)


def test_a_missing_batch_is_named_not_fetched(cifar):
    (cifar / "data_batch_2").unlink()
    with pytest.raises(DataError, match="data_batch_2 missing"):
        load("cifar10", cifar.parent, cifar.parent)


def test_without_network_the_error_says_what_to_do(tmp_path, cifar):
    with pytest.raises(DataError, match="no CIFAR-10 in .*cannot be fetched.*unpack .* --data"):
        load("cifar10", tmp_path / "nowhere", tmp_path)
    assert not list((tmp_path / "nowhere").glob("*.tmp"))


def test_a_file_in_the_folder_s_place_does_not_hide_the_error(tmp_path, cifar):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="no CIFAR-10 in .*cannot be fetched"):
        load("cifar10", tmp_path / "file", tmp_path)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_that_runs_code_is_refused(cifar, monkeypatch, capsys):
    raw = pickle.dumps({"data": Evil(), "labels": []}, protocol=2)
    (cifar / "data_batch_1").write_bytes(raw)
    monkeypatch.setitem(data.CIFAR_FILES, "data_batch_1", hashlib.md5(raw).hexdigest())
    with pytest.raises(DataError, match="print"):
        load("cifar10", cifar, cifar)
    assert "code ran" not in capsys.readouterr().out


@pytest.fixture
def served(tmp_path, monkeypatch, cifar):
    """The archive behind a local web server."""
    site = tmp_path / "site"
    site.mkdir()
    with tarfile.open(site / "cifar.tar.gz", "w:gz") as tar:
        for path in sorted(cifar.iterdir()):
            tar.add(path, f"{CIFAR_FOLDER}/{path.name}")
        evil = tarfile.TarInfo("../outside")
        evil.size = 2
        tar.addfile(evil, io.BytesIO(b"no"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(data, "CIFAR_URL", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
    monkeypatch.setattr(data, "CIFAR_MD5", hashlib.md5((site / "cifar.tar.gz").read_bytes()).hexdigest())
    yield site
    server.shutdown()
    server.server_close()


def test_absent_cifar_is_fetched(served, cifar, tmp_path):
    d = load("cifar10", None, tmp_path / "cache")
    assert np.array_equal(d.train_x, load("cifar10", cifar, cifar).train_x)
    assert sorted(p.name for p in (tmp_path / "cache" / CIFAR_FOLDER).iterdir()) == sorted(CIFAR_FILES)
    assert not list((tmp_path / "cache").glob("*.tmp")) and not (tmp_path / "outside").exists()


def test_a_damaged_download_leaves_nothing(served, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CIFAR_MD5", "0" * 32)
    with pytest.raises(DataError, match="expected md5 0000"):
        load("cifar10", None, tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


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
    d = load(f"folder:{pictures}", None, None)
    check(d)
    assert d.name == "pets" and d.labels == ("cat", "dog") and d.shape == (32, 32, 3)
    assert [len(v) for v in (d.train_y, d.val_y, d.test_y)] == [6, 4, 4]
    assert np.array_equal(d.train_x[0], resize(np.asarray(Image.open(pictures / "train/cat/0.png")), (32, 32)))
    assert not {x.tobytes() for x in d.val_x} & {x.tobytes() for x in d.test_x}
    assert load(f"folder:{pictures}", None, None, size=48).shape == (48, 48, 3)
    assert d.describe() == (
        "data: 6 training, 4 validation and 4 test pictures of 2 classes, 32x32; all pictures were "
        "resized to 32x32, and half of val/ became the test set, for there is no folder "
        f"{pictures / 'test'}"
    )


def test_a_test_folder_is_used_when_there(pictures):
    expected = write(pictures / "test/cat/a.bmp", (32, 32))
    write(pictures / "test/dog/b.webp")
    d = load(f"folder:{pictures}", None, None)
    assert d.describe().endswith(
        "8 validation and 2 test pictures of 2 classes, 32x32; all pictures were resized to 32x32"
    )
    assert len(d.val_y) == 8 and d.test_y.tolist() == [0, 1] and np.array_equal(d.test_x[0], expected)


def test_grey_transparent_and_turned_pictures(pictures):
    grey = write(pictures / "train/cat/grey.png", (32, 32), "L")
    write(pictures / "train/cat/see.png", (32, 32), "RGBA")
    assert np.array_equal(data.read_picture(pictures / "train/cat/grey.png"), np.stack([grey] * 3, 2))
    assert data.read_picture(pictures / "train/cat/see.png").shape == (32, 32, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.open(pictures / "train/dog/0.png").save(pictures / "train/dog/turned.jpg", exif=exif)
    assert data.read_picture(pictures / "train/dog/turned.jpg").shape == (40, 30, 3)


@pytest.mark.parametrize("name, dtype", [("deep.png", "<u2"), ("deep.tif", ">u2"), ("deep.tif", "<i4")])
def test_of_sixteen_bits_the_upper_eight_count(tmp_path, name, dtype):
    deep = np.random.default_rng(0).integers(0, 1 << 16, (30, 40)).astype(dtype)
    Image.fromarray(deep).save(tmp_path / name)
    assert np.array_equal(data.read_picture(tmp_path / name), np.stack([(deep >> 8).astype(np.uint8)] * 3, 2))


def test_pictures_of_floats_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(DataError, match="real.tif: .*floats.* save it with 8 or 16 bits"):
        data.read_picture(tmp_path / "real.tif")


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
    assert np.array_equal(data.read_picture(path), as_picture(on_device(path)))


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
        ("no val", "val: no such folder"),
        ("no classes", "at least two classes"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(pictures, kind, words):
    break_folder(pictures, kind)
    with pytest.raises(DataError, match=words):
        load(f"folder:{pictures}", None, None)


@pytest.mark.parametrize(
    "name, size, words",
    [
        ("mnist", None, "unknown data set 'mnist'"),
        ("digits", 64, "size 64"),
        ("folder:/nowhere", None, "/nowhere/train: no such folder"),
        ("folder:x", 4, "size 4"),
    ],
)
def test_unknown_names_and_sizes(name, size, words):
    with pytest.raises(DataError, match=words):
        load(name, None, None, size)
