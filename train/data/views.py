"""Degraded views of whole data sets: made by worker processes, cached on disk, the same for any number of workers.

A view is every picture of a data set once, each degraded by a family and a severity. A cache file holds several views;
the JSON file beside it, written last, says what they are and holds a checksum of every chunk. The name of both is a
hash of all that decides the pictures: originals, families, severities, seed, versions.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import albumentations
import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.files import remove_leftovers, replacing, write_json
from train.data import degradations
from train.data.dataset import Dataset
from train.data.names import FAMILIES

CHUNK = 512  # pictures per task and per checksum
FEW = 4 * CHUNK  # below this many pictures, starting worker processes takes longer than the work
MIXED_SEED = 11  # of the test pictures on which training and benchmarks/exact.py both count right answers

Task = tuple[np.ndarray, list[str], np.ndarray, np.ndarray, int, int]  # see `_degrade_chunk`


def training_views(
    dataset: Dataset, families: Sequence[str], seed: int, cache: Path, workers: int | None = None
) -> np.memmap:
    """Returns the training pictures once per family, uint8 [F, N, H, W, 3], read-only.

    Each picture is at one of the five severities, in balanced shares; `severities` says which severity it got. Raises
    ValueError for families that are unknown or repeated.
    """
    x = dataset.train_x
    names = _check_families(families)
    family = np.repeat(np.arange(len(names), dtype=np.uint8)[:, None], len(x), 1)
    recipe = _Recipe(x, names, family, severities(len(x), names, seed), seed)
    return _cached_views(recipe, Path(cache), workers, "training views")


def severities(n: int, families: Sequence[str], seed: int) -> np.ndarray:
    """Returns the severity of each picture in `training_views`, uint8 [F, n]: 1..5 equally often, 0 for clean."""
    severity = np.zeros((len(families), n), np.uint8)
    for row, name in zip(severity, families, strict=True):
        if name != "clean":
            row[:] = np.arange(n) % len(degradations.SEVERITIES) + 1
            np.random.default_rng((seed, zlib.crc32(name.encode()))).shuffle(row)
    return severity


def evaluation_views(
    x: np.ndarray, families: Sequence[str], seed: int, cache: Path, workers: int | None = None
) -> dict[tuple[str, int], np.ndarray]:
    """Returns every picture in every family at every severity: (family, severity) -> uint8 [N, H, W, 3], read-only.

    x: uint8 [N, H, W, 3]. "clean" is there once, as severity 0. Raises ValueError for other pictures, and for families
    that are unknown or repeated.
    """
    names = _check_families(families)
    keys = [(name, s) for name in names for s in ((0,) if name == "clean" else degradations.SEVERITIES)]
    family = np.array([[names.index(name)] * len(x) for name, _ in keys], np.uint8)
    severity = np.array([[s] * len(x) for _, s in keys], np.uint8)
    views = _cached_views(_Recipe(x, names, family, severity, seed), Path(cache), workers, "evaluation views")
    return dict(zip(keys, views, strict=True))


def mixed_views(
    x: np.ndarray, families: Sequence[str], seed: int, cache: Path, workers: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns every picture once, with a family and a severity at random.

    x: uint8 [N, H, W, 3]. Returned: pictures uint8 [N, H, W, 3], index into `families` uint8 [N], severity uint8 [N],
    0 for clean. Raises ValueError for other pictures, and for families that are unknown or repeated.
    """
    names = _check_families(families)
    rng = np.random.default_rng((seed, len(names)))
    family = rng.integers(0, len(names), len(x), np.uint8)
    severity = rng.integers(1, len(degradations.SEVERITIES) + 1, len(x), np.uint8)
    severity[np.array([name == "clean" for name in names])[family]] = 0
    recipe = _Recipe(x, names, family[None], severity[None], seed)
    return _cached_views(recipe, Path(cache), workers, "mixed views")[0], family, severity


def _check_families(families: Iterable[str]) -> list[str]:
    """Returns the families as a list. Raises ValueError where one is unknown or repeated, or there is none."""
    names = list(families)
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(f"expected different families out of {', '.join(FAMILIES)}; got {names}")
    return names


@dataclass(frozen=True, eq=False)
class _Recipe:
    """Everything that decides the pictures of J views.

    pictures: uint8 [N, H, W, 3]; families: names; family: uint8 [J, N], index into them; severity: uint8 [J, N].
    """

    pictures: np.ndarray
    families: list[str]
    family: np.ndarray
    severity: np.ndarray
    seed: int

    def __post_init__(self) -> None:
        x = self.pictures
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or not len(x):
            raise ValueError(f"expected pictures uint8 [N, H, W, 3], N >= 1; got {x.dtype} {list(x.shape)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """[J, N, H, W, 3]."""
        return (len(self.family), *self.pictures.shape)

    def describe(self) -> dict[str, Any]:
        """Returns the recipe as the JSON file beside the views holds it."""
        return {
            "pictures": hashlib.sha256(np.ascontiguousarray(self.pictures).data).hexdigest(),
            "shape": list(self.shape),
            "families": self.families,
            "plan": hashlib.sha256(self.family.tobytes() + self.severity.tobytes()).hexdigest(),
            "seed": self.seed,
            "versions": [degradations.VERSION, albumentations.__version__, cv2.__version__, np.__version__],
        }

    def task(self, view: int, begin: int, end: int) -> Task:
        """Returns the task of a worker that makes some pictures of one view."""
        some = slice(begin, end)
        family, severity = self.family[view, some], self.severity[view, some]
        return self.pictures[some], self.families, family, severity, self.seed, begin


def _cached_views(recipe: _Recipe, cache: Path, workers: int | None, title: str) -> np.memmap:
    """Returns the views of a recipe, uint8 [J, N, H, W, 3], from the cache, where they are made if need be."""
    description = recipe.describe()
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:20]
    path = cache / f"views-{key}.npy"
    problem = _find_problem(path, description)
    if problem:
        if path.exists():
            Console(markup=False, stderr=True).print(f"{path}: {problem}; making it anew")
        cache.mkdir(parents=True, exist_ok=True)
        _write_views(path, recipe, description, workers, title)
    return np.load(path, mmap_mode="r")


def _find_problem(path: Path, description: dict[str, Any]) -> str | None:
    """Returns why a cache file cannot be used; None where it is there, complete, and its checksums are right."""
    try:
        beside = json.loads(path.with_suffix(".json").read_text())
        views = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return "incomplete"
    except Exception as error:  # a damaged header or text can make its parser raise anything
        return f"unreadable ({error})"
    if not isinstance(beside, dict) or beside.get("made_of") != description:
        return "its description differs"
    if views.dtype != np.uint8 or list(views.shape) != description["shape"]:
        return f"holds {views.dtype} {list(views.shape)}"
    checksums = [zlib.crc32(views[view, begin:end]) for view, begin, end in _chunks(*views.shape[:2])]
    return None if beside.get("crc32") == checksums else "its checksum is wrong"


def _chunks(views: int, pictures: int) -> list[tuple[int, int, int]]:
    """Returns (view, first picture, one past the last picture) of every chunk, in the order of the file."""
    return [(j, begin, min(begin + CHUNK, pictures)) for j in range(views) for begin in range(0, pictures, CHUNK)]


def _write_views(path: Path, recipe: _Recipe, description: dict[str, Any], workers: int | None, title: str) -> None:
    """Writes both files, the pictures first: the description vouches for them."""
    _make_room(path)
    header = {"descr": "|u1", "fortran_order": False, "shape": recipe.shape}
    with replacing(path) as new, open(new, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        checksums = _write_chunks(file, recipe, workers, title)
    write_json(path.with_suffix(".json"), {"made_of": description, "crc32": checksums})


def _make_room(path: Path) -> None:
    """Removes whatever is in the place of a file, and what killed processes left beside it."""
    remove_leftovers(path.parent)
    for place in (path, path.with_suffix(".json")):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)


def _write_chunks(file: BinaryIO, recipe: _Recipe, workers: int | None, title: str) -> list[int]:
    """Writes all views and returns the crc32 of each chunk."""
    chunks = _chunks(*recipe.family.shape)
    tasks = [recipe.task(*chunk) for chunk in chunks]
    checksums = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    with progress, _open_map(recipe.family.size, workers) as ordered_map:
        bar = progress.add_task(title, total=recipe.family.size)
        for (_, begin, end), views in zip(chunks, ordered_map(_degrade_chunk, tasks), strict=True):
            file.write(views.data)  # not through a map: where the disk is full that kills the process
            checksums.append(zlib.crc32(views.data))
            progress.advance(bar, end - begin)
    return checksums


@contextmanager
def _open_map(pictures: int, workers: int | None) -> Iterator[Callable[..., Iterable[np.ndarray]]]:
    """Gives an ordered `map` over worker processes, or Python's own where so few pictures would not repay them."""
    workers = _count_cores() if workers is None else workers
    if workers < 2 or pictures < FEW:
        yield map
        return
    # A fork of a process that holds torch's threads may hang; a fork server is started before there are any.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(workers, multiprocessing.get_context(method), cv2.setNumThreads, (1,)) as pool:
        yield pool.map


def _count_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _degrade_chunk(task: Task) -> np.ndarray:
    """Does one task of a worker: pictures, names of families, families, severities, seed, place of the first picture.

    A picture's seed is its place in the data set, so chunks and workers do not matter.
    """
    x, names, family, severity, seed, first = task
    views = np.empty_like(x)
    for k in range(len(x)):
        views[k] = degradations.degrade(x[k], names[family[k]], int(severity[k]), (seed << 32) + first + k)
    return views
