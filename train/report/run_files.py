"""Reads what a finished run has left in its folder for its report, and says what is wrong with a file."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compile.source.run_folder import RUN_FILE, RunRecord, read_run
from runtime.files import replacing
from train.bits import configs
from train.choice.scores import ARMS
from train.evidence.evidence import View
from train.evidence.results import RESULTS_FILE, Arm, Result, read_results
from train.kinds.kinds import Kinds
from train.settings.bits import COSTS

SAMPLES = "plots/samples.npz"


def read_finished_run(folder: Path) -> tuple[RunRecord, list[Result]]:
    """Reads run.json and results.json. Raises ValueError where one is missing or not as a report needs it."""
    run = read_run(folder)
    results = read_results(folder)
    _check_views(folder / RESULTS_FILE, results)
    layers = [set(variant.facts.bits) for variant in run.variants]
    if not layers[0] or any(names != layers[0] for names in layers):
        raise ValueError(f"{folder / RUN_FILE}: expected bits of the same layers in all variants; export the run again")
    cost = unit_of_cost(run)
    if cost not in COSTS:
        raise ValueError(
            f"{folder / RUN_FILE}: expected settings with a cost of {', '.join(COSTS)}, got "
            f"{str(cost)[:80]!r}; export the run again"
        )
    return run, results


def unit_of_cost(run: RunRecord) -> str:
    """Returns what the run's costs count, a key of COSTS."""
    cost = run.settings.get("cost", "bitops")
    return cost if isinstance(cost, str) else repr(cost)


def read_configs(folder: Path) -> configs.Configs | None:
    """Reads the bit configurations of a run; None where it left none. Raises ValueError for a damaged file."""
    path = folder / configs.CONFIGS_FILE
    if not path.is_file():
        return None
    try:
        return configs.read(path)
    except configs.ConfigsError as error:
        raise ValueError(f"{path}: expected configurations ({error}); finish the run with --resume") from error


def read_kinds(folder: Path) -> Kinds | None:
    """Reads how a run tells kinds of quality apart; None where it does not. Raises ValueError for a damaged file."""
    bit_configs = read_configs(folder)
    return None if bit_configs is None or not bit_configs.kinds else Kinds.from_dict(bit_configs.kinds)


def write_samples(folder: Path, pictures: dict[View, np.ndarray]) -> None:
    """Keeps one picture uint8 [H, W, 3] of each view in the run folder, for reports that are written again."""
    path = folder / SAMPLES
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"{family}-{severity}": picture for (family, severity), picture in pictures.items()}
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def read_samples(folder: Path) -> dict[View, np.ndarray]:
    """Reads one picture uint8 [H, W, 3] of each view; none where they were not kept. Raises ValueError."""
    path = folder / SAMPLES
    if not path.is_file():
        return {}
    expected = f"{path}: expected one picture of each quality"
    try:
        with np.load(path, allow_pickle=False) as file:
            pictures = {_view_of(name): file[name] for name in file.files}
    except (ValueError, IndexError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{expected}, the file is damaged ({error}); bring it back, or delete it") from error
    for view, picture in pictures.items():
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"{expected}, uint8 [H, W, 3], got another as {view}; bring the file back, or delete it")
    return pictures


def _view_of(name: str) -> View:
    family, severity = name.rsplit("-", 1)
    return family, int(severity)


def _check_views(path: Path, results: Sequence[Result]) -> None:
    """Raises ValueError unless there are single variants, and every arm was measured on the same views."""
    views: dict[Arm, set[View]] = {}
    for result in results:
        views.setdefault(result.key, set()).add((result.family, result.severity))
    if all(arm in ARMS for arm, _ in views):
        raise ValueError(f"{path}: expected records of single variants; measure the run anew")
    first = next(iter(views.values()))
    for arm, measured in views.items():
        if measured != first:
            odd = sorted(measured ^ first)[0]
            raise ValueError(
                f"{path}: expected every arm measured in the same families and severities, {odd} is not of "
                f"{' '.join(arm)} and others alike; measure the run anew"
            )
