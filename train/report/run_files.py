"""Reads what a finished run has left in its folder, and says what is wrong with a file that is not so."""

import json
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from train.bits import configs
from train.choice.arms import BY_RULE
from train.kinds.kinds import Kinds
from train.settings.bits import COSTS

SAMPLES = "plots/samples.npz"
ROUNDING = 1e-6  # pictures, in an arm's expected count
RECORD = {
    "heldout": lambda x: type(x) is bool,
    "severity": lambda x: type(x) is int,
    "pictures": lambda x: type(x) is int and x >= 1,
    **dict.fromkeys(("arm", "variant", "family"), lambda x: isinstance(x, str)),
    **dict.fromkeys(("correct", "cost"), lambda x: type(x) in (int, float) and math.isfinite(x)),
}


def read_run(folder: Path) -> tuple[dict, list[dict]]:
    """run.json and the records of results.json. Raises ValueError where one is missing or not as expected."""
    run, records = _read(folder / "run.json", dict), _read(folder / "results.json", list)
    _check_records(folder / "results.json", records)
    _check_variants(folder / "run.json", run)
    settings = run.get("settings", {})
    cost = settings.get("cost", "bitops") if isinstance(settings, dict) else settings
    if not isinstance(cost, str) or cost not in COSTS:
        raise ValueError(
            f"{folder / 'run.json'}: expected settings with a cost of {', '.join(COSTS)}, got "
            f"{str(cost)[:80]!r}; export it anew"
        )
    return run, records


def metrics(folder: Path) -> list[dict]:
    """The records of training; none where there is no metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    try:
        return [dict(json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a record a line ({error}); bring the file back, or delete it") from error


def searched(folder: Path) -> tuple[list[dict], list[dict]] | None:
    """The Pareto list and the variants of a search; None without one."""
    path = folder / configs.CONFIGS_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return (found["pareto"], found["variants"]) if found["pareto"] else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected configurations ({error!r}); finish the run with --resume") from error


def groups(folder: Path) -> Kinds | None:
    """How a run tells quality groups apart; None where it has none."""
    path = folder / configs.CONFIGS_FILE
    found = configs.read(path).kinds if path.is_file() else None
    return Kinds.from_dict(found) if found else None


def samples(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """(family, severity) -> uint8 [H, W, 3] of one picture; none where they were not kept."""
    path = folder / SAMPLES
    if not path.is_file():
        return {}
    told = f"{path}: expected one picture of each quality"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {(name.rsplit("-", 1)[0], int(name.rsplit("-", 1)[1])): file[name] for name in file.files}
    except (ValueError, IndexError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{told}, the file is damaged ({error}); bring it back, or delete it") from error
    wrong = [k for k, p in found.items() if p.dtype != np.uint8 or p.ndim != 3 or p.shape[2] != 3 or not p.size]
    if wrong:
        raise ValueError(f"{told}, uint8 [H, W, 3], got another as {wrong[0]}; bring the file back, or delete it")
    return found


def _read(path: Path, kind: type):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: expected, not found; a finished `python -m train.run` leaves it") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error}); finish the run with --resume") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path}: expected a JSON {kind.__name__}, got a {type(content).__name__}")
    return content


def _check_records(path: Path, records: list) -> None:
    places: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for r in records:
        if (
            not isinstance(r, dict)
            or not all(k in r and right(r[k]) for k, right in RECORD.items())
            or not 0 <= r["correct"] <= r["pictures"] + ROUNDING
        ):
            raise ValueError(f"{path}: expected records of {sorted(RECORD)}, got {str(r)[:120]}")
        places.setdefault((r["arm"], r["variant"]), set()).add((r["family"], r["severity"]))
    if all(arm in BY_RULE for arm, _ in places):
        raise ValueError(f"{path}: expected records of single variants; measure the run anew")
    expected = next(iter(places.values()))
    other = next((arm for arm, there in places.items() if there != expected), None)
    if other is not None:
        odd = sorted(places[other] ^ expected)[0]
        raise ValueError(
            f"{path}: expected every arm measured in the same families and severities, {odd} is not of "
            f"{' '.join(other)} and others alike; measure the run anew"
        )


def _check_variants(path: Path, run: dict) -> None:
    missing = {"name", "arch", "dataset", "method", "variants"} - set(run)
    variants = run.get("variants")
    if missing or not variants:
        raise ValueError(f"{path}: expected {sorted(missing) or 'at least one variant'}; export it anew")
    if not isinstance(variants, list) or not all(
        isinstance(v, dict) and {"name", "cost", "bits"} <= v.keys() for v in variants
    ):
        raise ValueError(f"{path}: expected variants with name, cost and bits; export it anew")
    try:
        layers = [set(configs.checked_bits(v["name"], v["bits"])) for v in variants]
    except ValueError as error:
        raise ValueError(f"{path}: {error}; export it anew") from error
    if not layers[0] or any(found != layers[0] for found in layers):
        raise ValueError(f"{path}: expected bits of the same layers in all variants; export it anew")
