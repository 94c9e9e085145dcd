"""CIFAR-10 is checked, downloaded whole, and never runs code."""

import functools
import hashlib
import http.server
import io
import pickle
import tarfile
import threading

import numpy as np
import pytest

from train.data import cifar10
from train.data.cifar10 import CIFAR_FILES, CIFAR_FOLDER
from train.data.dataset import DataError
from train.data.datasets import load


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
    monkeypatch.setattr(cifar10, "CIFAR_FILES", {k: hashlib.md5(v).hexdigest() for k, v in files.items()})
    monkeypatch.setattr(cifar10, "CIFAR_VAL", 30)
    monkeypatch.setattr(cifar10, "CIFAR_URL", "http://127.0.0.1:9/none")  # nothing listens there
    folder = tmp_path / "root" / CIFAR_FOLDER
    folder.mkdir(parents=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def test_cifar_parts_and_axes(cifar):
    for root in (cifar, cifar.parent):
        dataset = load("cifar10", root, root)
        assert (len(dataset.train_x), len(dataset.val_x), len(dataset.test_x)) == (70, 30, 20)
    first = pickle.loads((cifar / "data_batch_1").read_bytes())
    assert np.array_equal(dataset.train_x[0].transpose(2, 0, 1).reshape(-1), first["data"][0])
    assert np.array_equal(dataset.train_y[:20], first["labels"])
    last = pickle.loads((cifar / "data_batch_5").read_bytes())
    assert np.array_equal(dataset.val_x[-1].transpose(2, 0, 1).reshape(-1), last["data"][-1])
    assert np.array_equal(dataset.test_y, pickle.loads((cifar / "test_batch").read_bytes())["labels"])


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
    (tmp_path / "file").write_text("a file")
    with pytest.raises(DataError, match="no CIFAR-10 in .*cannot be fetched"):
        load("cifar10", tmp_path / "file", tmp_path)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_that_runs_code_is_refused(cifar, monkeypatch, capsys):
    raw = pickle.dumps({"data": Evil(), "labels": []}, protocol=2)
    (cifar / "data_batch_1").write_bytes(raw)
    monkeypatch.setitem(cifar10.CIFAR_FILES, "data_batch_1", hashlib.md5(raw).hexdigest())
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
    monkeypatch.setattr(cifar10, "CIFAR_URL", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
    monkeypatch.setattr(cifar10, "CIFAR_MD5", hashlib.md5((site / "cifar.tar.gz").read_bytes()).hexdigest())
    yield site
    server.shutdown()
    server.server_close()


def test_absent_cifar_is_fetched(served, cifar, tmp_path):
    dataset = load("cifar10", None, tmp_path / "cache")
    assert np.array_equal(dataset.train_x, load("cifar10", cifar, cifar).train_x)
    assert sorted(p.name for p in (tmp_path / "cache" / CIFAR_FOLDER).iterdir()) == sorted(CIFAR_FILES)
    assert not list((tmp_path / "cache").glob("*.tmp")) and not (tmp_path / "outside").exists()


def test_a_damaged_download_leaves_nothing(served, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "CIFAR_MD5", "0" * 32)
    with pytest.raises(DataError, match="expected md5 0000"):
        load("cifar10", None, tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
