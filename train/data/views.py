"""Degraded views of whole data sets: made by worker processes, cached on disk, the same for any number of workers.

A cache file holds the pictures; the JSON file beside it, written last, says what they are and holds a checksum of
every chunk. The name of both is a hash of all that matters: pictures, families, severities, seed, versions.
"""

import hashlib
import json
import multiprocessing
import os
import zlib
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import albumentations
import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.files import replacing, write_json
from train.data import degradations
from train.data.datasets import Dataset
from train.data.names import FAMILIES

CHUNK = 512  # pictures per task and per checksum
FEW = 4 * CHUNK  # below this many pictures, starting worker processes takes longer than the work


def training_views(dataset: Dataset, families, seed: int, cache: Path, workers: int | None = None) -> np.memmap:
    """The training pictures once per family, each at one of the five severities in balanced shares.

    Returns uint8 [F, N, H, W, 3], read-only. `severities` says which severity a picture got.
    """
    x = dataset.train_x
    names = _known(families)
    family = np.repeat(np.arange(len(names), dtype=np.uint8)[:, None], len(x), 1)
    return _views(x, names, family, severities(len(x), names, seed), seed, Path(cache), workers, "training views")


def severities(n: int, families, seed: int) -> np.ndarray:
    """uint8 [F, n]: the severity of each picture in `training_views`; 1..5 equally often, 0 for clean."""
    out = np.zeros((len(families), n), np.uint8)
    for row, name in zip(out, families, strict=True):
        if name != "clean":
            row[:] = np.arange(n) % len(degradations.SEVERITIES) + 1
            np.random.default_rng((seed, zlib.crc32(name.encode()))).shuffle(row)
    return out


def evaluation_views(
    x: np.ndarray, families, seed: int, cache: Path, workers: int | None = None
) -> dict[tuple[str, int], np.ndarray]:
    """Every picture in every family at every severity: (family, severity) -> uint8 [N, H, W, 3], read-only.

    x: uint8 [N, H, W, 3]. "clean" is there once, as severity 0.
    """
    names = _known(families)
    keys = [(f, s) for f in names for s in ((0,) if f == "clean" else degradations.SEVERITIES)]
    family = np.array([[names.index(f)] * len(x) for f, _ in keys], np.uint8)
    severity = np.array([[s] * len(x) for _, s in keys], np.uint8)
    views = _views(x, names, family, severity, seed, Path(cache), workers, "evaluation views")
    return dict(zip(keys, views, strict=True))


MIXED_SEED = 11  # of the test pictures on which training and benchmarks/exact.py both count right answers


def mixed_views(
    x: np.ndarray, families, seed: int, cache: Path, workers: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every picture once, with a family and a severity at random.

    Returns pictures uint8 [N, H, W, 3], index into `families` uint8 [N], severity uint8 [N] (0 for clean).
    """
    names = _known(families)
    rng = np.random.default_rng((seed, len(names)))
    family = rng.integers(0, len(names), len(x), np.uint8)
    severity = rng.integers(1, len(degradations.SEVERITIES) + 1, len(x), np.uint8)
    severity[np.array([name == "clean" for name in names])[family]] = 0
    views = _views(x, names, family[None], severity[None], seed, Path(cache), workers, "mixed views")
    return views[0], family, severity


def _known(families) -> list[str]:
    names = list(families)
    unknown = [f for f in names if f not in FAMILIES]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(f"expected different families out of {', '.join(FAMILIES)}; got {names}")
    return names


def _views(x, names, family, severity, seed, cache, workers, what) -> np.memmap:
    """family, severity uint8 [J, N] -> uint8 [J, N, H, W, 3], from the cache or made now."""
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or not len(x):
        raise ValueError(f"expected pictures uint8 [N, H, W, 3], N >= 1; got {x.dtype} {list(x.shape)}")
    made_of = {
        "pictures": hashlib.sha256(np.ascontiguousarray(x)).hexdigest(),
        "shape": [len(family), *x.shape],
        "families": names,
        "plan": hashlib.sha256(family.tobytes() + severity.tobytes()).hexdigest(),
        "seed": seed,
        "versions": [degradations.VERSION, albumentations.__version__, cv2.__version__, np.__version__],
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:20]
    path = cache / f"views-{key}.npy"
    problem = _problem(path, made_of)
    if problem:
        if path.exists():
            Console(markup=False, stderr=True).print(f"{path}: {problem}; making it anew")
        cache.mkdir(parents=True, exist_ok=True)
        _make(path, made_of, x, names, family, severity, seed, workers, what)
    return np.load(path, mmap_mode="r")


def _problem(path: Path, made_of: dict) -> str | None:
    """Why the cache file cannot be used, or None: it is there, complete, and its checksums are right."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        views = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return "incomplete"
    except (ValueError, OSError, EOFError) as error:
        return f"unreadable ({error})"
    if not isinstance(about, dict) or about.get("made_of") != made_of:
        return "its description differs"
    if views.dtype != np.uint8 or list(views.shape) != made_of["shape"]:
        return f"holds {views.dtype} {list(views.shape)}"
    sums = [zlib.crc32(views[j, a:b]) for j, a, b in _chunks(*views.shape[:2])]
    return None if about.get("crc32") == sums else "its checksum is wrong"


def _chunks(jobs: int, n: int) -> list[tuple[int, int, int]]:
    return [(j, a, min(a + CHUNK, n)) for j in range(jobs) for a in range(0, n, CHUNK)]


def _make(path, made_of, x, names, family, severity, seed, workers, what) -> None:
    """Writes both files, the pictures first: the description vouches for them."""
    _sweep(path)
    about = {"descr": "|u1", "fortran_order": False, "shape": tuple(made_of["shape"])}
    with replacing(path) as new, open(new, "wb") as file:
        np.lib.format.write_array_header_1_0(file, about)
        sums = _fill(file, x, names, family, severity, seed, workers, what)
    write_json(path.with_suffix(".json"), {"made_of": made_of, "crc32": sums})


def _sweep(path: Path) -> None:
    """Removes what a killed process left of this file: temporary files named after a process that is gone."""
    for left in path.parent.glob(f"{path.stem}.*.tmp.*"):
        maker = left.name.split(".")[1]
        if Path("/proc").is_dir() and not Path("/proc", maker).exists():
            left.unlink(missing_ok=True)


def _fill(file, x, names, family, severity, seed, workers, what) -> list[int]:
    """Writes all views, returns the crc32 of each chunk."""
    chunks, sums = _chunks(*family.shape), []
    tasks = [(x[a:b], names, family[j, a:b], severity[j, a:b], seed, a) for j, a, b in chunks]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, _mapping(family.size, workers) as mapping:
        bar = progress.add_task(what, total=family.size)
        for (_, a, b), views in zip(chunks, mapping(_degrade_chunk, tasks), strict=True):
            file.write(views.data)  # not through a map: where the disk is full that kills the process
            sums.append(zlib.crc32(views))
            progress.advance(bar, b - a)
    return sums


@contextmanager
def _mapping(pictures: int, workers: int | None):
    """An ordered `map` over worker processes, or the plain one where they would not pay."""
    workers = _cores() if workers is None else workers
    if workers < 2 or pictures < FEW:
        yield map
        return
    # A fork of a process that holds torch's threads may hang; a fork server is started before there are any.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(workers, multiprocessing.get_context(method), cv2.setNumThreads, (1,)) as pool:
        yield pool.map


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _degrade_chunk(task) -> np.ndarray:
    """One task of a worker. A picture's seed is its place in the data set, so chunks and workers do not matter."""
    x, names, family, severity, seed, first = task
    views = np.empty_like(x)
    for k in range(len(x)):
        views[k] = degradations.degrade(x[k], names[family[k]], int(severity[k]), (seed << 32) + first + k)
    return views
