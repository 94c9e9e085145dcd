"""Data sets of uint8 RGB pictures: digits (in scikit-learn, offline), cifar10, and any folder of pictures."""

import hashlib
import io
import os
import pickle
import tarfile
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.files import write_bytes
from runtime.pictures.arrays import as_picture, of_pillow, resize
from train.data.names import DATA_SIDE

CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_FILES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_VAL = 5000  # the last of the training pictures
DIGITS_VAL = DIGITS_TEST = 0.2  # shares of the 1,797 digits
SPLIT_SEED = 0
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class DataError(ValueError):
    """The data set is absent or not what it should be; the message says what was expected where, and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures uint8 [N, H, W, 3] and labels int64 [N], indices into `labels`, in three disjoint parts."""

    name: str
    labels: tuple[str, ...]
    train_x: np.ndarray
    train_y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    note: str = ""  # what became of the pictures as they came

    def describe(self) -> str:
        """A line for who trains with it."""
        height, width = self.shape[:2]
        told = f"data: {len(self.train_y)} training, {len(self.val_y)} validation and {len(self.test_y)} test pictures"
        return f"{told} of {len(self.labels)} classes, {height}x{width}" + (f"; {self.note}" if self.note else "")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of every picture."""
        return self.train_x.shape[1:]


def load(name: str, root: Path | None, cache: Path, size: int | None = None) -> Dataset:
    """The data set of that name: "digits", "cifar10" or "folder:PATH".

    root: where cifar10 is, or may be put (`cache` when None). cache: a folder for what is fetched.
    size: side of the pictures in pixels, 32 when None; only folders can have another. Raises DataError.
    """
    if size is not None and (size < 8 or (size != DATA_SIDE and not name.startswith("folder:"))):
        raise DataError(f"size {size}: expected {DATA_SIDE} for {name}, or at least 8 for folder:PATH")
    if name == "digits":
        return digits()
    if name == "cifar10":
        return cifar10(Path(root) if root is not None else Path(cache))
    if name.startswith("folder:"):
        return folder(Path(name.removeprefix("folder:")), size or DATA_SIDE)
    raise DataError(f"unknown data set {name!r}; expected digits, cifar10 or folder:PATH")


def digits() -> Dataset:
    """The 1,797 digits of scikit-learn, 8x8 in 17 greys, enlarged to 32x32 RGB, in three stratified parts."""
    from sklearn.datasets import load_digits  # here, because it takes seconds and only this data set needs it

    data = load_digits()
    codes = np.rint(data.images * (255 / 16)).astype(np.uint8)
    x = np.stack([resize(as_picture(picture), (DATA_SIDE, DATA_SIDE)) for picture in codes])
    y = data.target.astype(np.int64)
    test, rest = _stratified(y, np.arange(len(y)), DIGITS_TEST)
    val, train = _stratified(y, rest, DIGITS_VAL * len(y) / len(rest))
    return Dataset("digits", tuple("0123456789"), x[train], y[train], x[val], y[val], x[test], y[test])


def _stratified(y: np.ndarray, among: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a share of every class, at least one, and the indices of the rest; both in order."""
    rng, taken = np.random.default_rng(SPLIT_SEED), []
    for label in np.unique(y[among]):
        members = among[y[among] == label]
        taken.append(rng.permutation(members)[: max(1, round(share * len(members)))])
    taken = np.sort(np.concatenate(taken))
    return taken, np.setdiff1d(among, taken)


def cifar10(root: Path) -> Dataset:
    """CIFAR-10 in its standard files, md5 checked, from root/ or root/cifar-10-batches-py/; fetched when absent."""
    found = _cifar_folder(root)
    if found is None:
        _fetch_cifar(root)
        found = root / CIFAR_FOLDER
    parts = [_cifar_batch(found / name, md5) for name, md5 in CIFAR_FILES.items()]
    x, y = np.concatenate([p[0] for p in parts[:-1]]), np.concatenate([p[1] for p in parts[:-1]])
    return Dataset("cifar10", CIFAR_LABELS, x[:-CIFAR_VAL], y[:-CIFAR_VAL], x[-CIFAR_VAL:], y[-CIFAR_VAL:], *parts[-1])


def _cifar_folder(root: Path) -> Path | None:
    """The folder with the batches, None when there is none; an incomplete one is an error, not a reason to fetch."""
    for candidate in (root, root / CIFAR_FOLDER):
        missing = [name for name in CIFAR_FILES if not (candidate / name).is_file()]
        if not missing:
            return candidate
        if len(missing) < len(CIFAR_FILES):
            raise DataError(f"{candidate}: {', '.join(missing)} missing; delete the folder to have it fetched anew")
    return None


def _cifar_batch(path: Path, md5: str) -> tuple[np.ndarray, np.ndarray]:
    raw = path.read_bytes()
    came = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if came != md5:
        raise DataError(f"{path}: expected md5 {md5}, got {came}; damaged: delete its folder and fetch it anew")
    batch = _Batch(io.BytesIO(raw), encoding="latin1").load()
    x = batch["data"].reshape(-1, 3, DATA_SIDE, DATA_SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x), np.array(batch["labels"], np.int64)


class _Batch(pickle.Unpickler):
    """Reads the pickled batches, and nothing that could run code."""

    def find_class(self, module, name):
        # The files name numpy.core, newer numpy has numpy._core: its own arrays say where the function is now.
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise DataError(f"a CIFAR-10 batch asks for {module}.{name}: not one of its arrays; fetch the data set anew")


def _fetch_cifar(root: Path) -> None:
    """Downloads and unpacks into root/cifar-10-batches-py; partial files have temporary names."""
    archive = root / f"cifar-10-python.tar.gz.{os.getpid()}.tmp"
    try:
        root.mkdir(parents=True, exist_ok=True)
        came = _download(CIFAR_URL, archive)
        if came != CIFAR_MD5:
            raise DataError(f"{CIFAR_URL}: expected md5 {CIFAR_MD5}, got {came}; try again, or fetch it yourself")
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
        with suppress(OSError):  # whatever went wrong is told already
            archive.unlink()


def _unpack(tar: tarfile.TarFile, member: str, path: Path) -> None:
    write_bytes(path, tar.extractfile(member).read())


def _download(url: str, path: Path) -> str:
    """Fetches a file, returns its md5."""
    md5 = hashlib.md5(usedforsecurity=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with urllib.request.urlopen(url, timeout=30) as answer, open(path, "wb") as file:
        with Progress(*columns, console=Console(markup=False, stderr=True)) as progress:
            bar = progress.add_task(url, total=int(answer.headers.get("Content-Length") or 0) or None)
            while block := answer.read(1 << 18):
                file.write(block)
                md5.update(block)
                progress.advance(bar, len(block))
    return md5.hexdigest()


def folder(path: Path, size: int) -> Dataset:
    """PATH/train/CLASS/* and PATH/val/CLASS/*, and PATH/test/CLASS/* or every second picture of val instead."""
    labels = tuple(sorted(p.name for p in _subfolder(path, "train").iterdir() if p.is_dir() and p.name[0] != "."))
    if len(labels) < 2:
        raise DataError(f"{path / 'train'}: expected a sub-folder for each of at least two classes, got {list(labels)}")
    train, val = _read_part(path / "train", labels, size), _read_part(_subfolder(path, "val"), labels, size)
    note = f"all pictures were resized to {size}x{size}"
    if (path / "test").is_dir():
        test = _read_part(path / "test", labels, size)
    else:
        # Pictures are in order of class: every second of each class, the first to val.
        places = np.arange(len(val[1])) - np.searchsorted(val[1], val[1])
        if np.bincount(val[1]).min() < 2:
            raise DataError(f"{path / 'val'}: expected two pictures a class, or a folder {path / 'test'}")
        val, test = [tuple(a[places % 2 == k] for a in val) for k in (0, 1)]
        note += f", and half of val/ became the test set, for there is no folder {path / 'test'}"
    return Dataset(path.name, labels, *train, *val, *test, note)


def _subfolder(path: Path, name: str) -> Path:
    if not (path / name).is_dir():
        raise DataError(f"{path / name}: no such folder; expected {path}/train/CLASS/*.png and {path}/val/CLASS/*.png")
    return path / name


def _read_part(path: Path, labels: tuple[str, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = [], []
    extra = sorted(p.name for p in path.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in labels)
    if extra:
        raise DataError(f"{path}: classes {extra} are not in train/, which has {list(labels)}")
    for index, label in enumerate(labels):
        files = sorted(p for p in (path / label).glob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{path / label}: expected pictures ({', '.join(SUFFIXES)}), found none")
        x += [resize(read_picture(file), (size, size)) for file in files]
        y += [index] * len(files)
    return np.stack(x), np.array(y, np.int64)


def read_picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] RGB, turned upright as the camera noted, the upper 8 bits of 16; DataError names a file that is
    no picture."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return as_picture(of_pillow(ImageOps.exif_transpose(image)))
    except Exception as error:  # each of Pillow's many readers raises kinds of its own at damaged files
        raise DataError(f"{path}: not a picture that can be read ({error}); repair or remove it") from error


def thin(dataset: Dataset, limit: int) -> Dataset:
    """At most `limit` pictures of each part, spread over it; all for 0."""
    parts = {}
    for part in ("train", "val", "test"):
        x, y = getattr(dataset, f"{part}_x"), getattr(dataset, f"{part}_y")
        chosen = spread(len(y), limit)
        parts |= {f"{part}_x": x[chosen], f"{part}_y": y[chosen]}
    return replace(dataset, **parts)


def spread(count: int, limit: int) -> np.ndarray:
    """At most `limit` indices below `count`, evenly spread; all for 0."""
    return np.arange(count) if not 0 < limit < count else np.linspace(0, count - 1, limit).astype(np.int64)
