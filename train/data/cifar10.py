"""Reads CIFAR-10 (Krizhevsky 2009) from its published files, each checked by md5, and downloads them when absent."""

import hashlib
import io
import os
import pickle
import tarfile
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.files import write_bytes
from train.data.dataset import DataError, Dataset
from train.data.names import DATA_SIDE

CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_FILES = {  # name -> md5; the last is the test set
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_VAL = 5000  # how many of the training pictures, the last ones, are the validation part
BLOCK_BYTES = 1 << 18  # of a download
TIMEOUT_SECONDS = 30


def read_cifar10(root: Path) -> Dataset:
    """Returns CIFAR-10 from root/ or root/cifar-10-batches-py/, into which it is downloaded when absent.

    Raises DataError where files are missing or damaged, or cannot be downloaded.
    """
    folder = _find_batches(root)
    if folder is None:
        _download_batches(root)
        folder = root / CIFAR_FOLDER
    *batches, (test_x, test_y) = [_read_batch(folder / name, md5) for name, md5 in CIFAR_FILES.items()]
    x = np.concatenate([pictures for pictures, _ in batches])
    y = np.concatenate([labels for _, labels in batches])
    train = slice(None, -CIFAR_VAL)
    val = slice(-CIFAR_VAL, None)
    return Dataset("cifar10", CIFAR_LABELS, x[train], y[train], x[val], y[val], test_x, test_y)


def _find_batches(root: Path) -> Path | None:
    """Returns the folder that holds all batches, None where there is none.

    Raises DataError for an incomplete folder: downloading into it could hide what is wrong with it.
    """
    for candidate in (root, root / CIFAR_FOLDER):
        missing = [name for name in CIFAR_FILES if not (candidate / name).is_file()]
        if not missing:
            return candidate
        if len(missing) < len(CIFAR_FILES):
            raise DataError(f"{candidate}: {', '.join(missing)} missing; delete the folder to have it fetched anew")
    return None


def _read_batch(path: Path, md5: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures uint8 [N, 32, 32, 3] and labels int64 [N]. Raises DataError for a file that was changed."""
    raw = path.read_bytes()
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise DataError(f"{path}: expected md5 {md5}, got {digest}; damaged: delete its folder and fetch it anew")
    batch = _ArraysUnpickler(io.BytesIO(raw), encoding="latin1").load()
    x = batch["data"].reshape(-1, 3, DATA_SIDE, DATA_SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x), np.array(batch["labels"], np.int64)


class _ArraysUnpickler(pickle.Unpickler):
    """Reads pickled numpy arrays and refuses everything else, which could run code."""

    def find_class(self, module: str, name: str):
        # The files name numpy.core, newer numpy has numpy._core: its own arrays say where the function is now.
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name == "ndarray":
            return np.ndarray
        if module == "numpy" and name == "dtype":
            return np.dtype
        raise DataError(f"a CIFAR-10 batch asks for {module}.{name}: not one of its arrays; fetch the data set anew")


def _download_batches(root: Path) -> None:
    """Downloads the archive and unpacks root/cifar-10-batches-py; partial files have temporary names."""
    archive = root / f"cifar-10-python.tar.gz.{os.getpid()}.tmp"
    try:
        root.mkdir(parents=True, exist_ok=True)
        digest = _download(CIFAR_URL, archive)
        if digest != CIFAR_MD5:
            raise DataError(f"{CIFAR_URL}: expected md5 {CIFAR_MD5}, got {digest}; try again, or fetch it yourself")
        (root / CIFAR_FOLDER).mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
            for name in CIFAR_FILES:
                _unpack(tar, f"{CIFAR_FOLDER}/{name}", root / CIFAR_FOLDER / name)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"no CIFAR-10 in {root} and it cannot be fetched ({error}); expected data_batch_1..5 and test_batch in "
            f"{root / CIFAR_FOLDER}: unpack {CIFAR_URL} there, or name its folder with --data"
        ) from error
    finally:
        with suppress(OSError):  # the error that matters is on its way already
            archive.unlink()


def _unpack(tar: tarfile.TarFile, member: str, path: Path) -> None:
    """Writes one file of the archive; only its bytes are taken, so the archive decides no place on disk."""
    file = tar.extractfile(member)
    if file is None:
        raise DataError(f"{CIFAR_URL}: expected {member} to be a file; fetch the data set yourself")
    write_bytes(path, file.read())


def _download(url: str, path: Path) -> str:
    """Downloads a file and returns its md5."""
    md5 = hashlib.md5(usedforsecurity=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, open(path, "wb") as file:
        with Progress(*columns, console=Console(markup=False, stderr=True)) as progress:
            bar = progress.add_task(url, total=int(response.headers.get("Content-Length") or 0) or None)
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                md5.update(block)
                progress.advance(bar, len(block))
    return md5.hexdigest()
