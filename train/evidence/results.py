"""The results of a run: what every arm gets right on every view, as results.json keeps it."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime.files import write_json

RESULTS_FILE = "results.json"
SHARE = "share/"  # with a variant's name: the key of its share of the pictures
ROUNDING = 1e-6  # pictures that an expected count may be off by

Arm = tuple[str, str]  # (way of answering, variant); of a single variant (method that found its bits, its name)
Point = tuple[float, float]  # mean cost and accuracy of an arm


class ResultsError(ValueError):
    """The results of a run cannot be used; the message says what was expected and what to do."""


@dataclass(frozen=True)
class ChosenBits:
    """Which variants answered the pictures of a view, and the mean bits of a multiply-add in them.

    shares: variant -> share (0..1) of the pictures for which its answer counts.
    """

    w_bits: float
    a_bits: float
    shares: dict[str, float]

    @property
    def mean(self) -> float:
        """The mean width of weights and activations alike."""
        return (self.w_bits + self.a_bits) / 2


@dataclass(frozen=True)
class Result:
    """What one arm gets right on one view: the test pictures under one degradation family and severity.

    heldout: whether the family was never trained with; correct: a count, or its expectation where an arm draws variants
    at random; cost: mean of all that ran, relative to 8 bits; stderr: standard error of the accuracy (0..1); seed: of
    the run; chosen: of the arm that the run exports.
    """

    arm: str
    variant: str
    family: str
    severity: int
    heldout: bool
    pictures: int
    correct: float
    cost: float
    seed: int
    stderr: float
    chosen: ChosenBits | None = field(default=None, hash=False)

    @property
    def key(self) -> Arm:
        """The arm and its variant, which name a way of answering together."""
        return self.arm, self.variant

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0..1."""
        return self.correct / self.pictures

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object."""
        plain = asdict(self)
        del plain["chosen"]
        if self.chosen is None:
            return plain
        shares = {f"{SHARE}{name}": share for name, share in self.chosen.shares.items()}
        return {**plain, "w_bits": self.chosen.w_bits, "a_bits": self.chosen.a_bits, **shares}

    @classmethod
    def from_dict(cls, data: Any) -> "Result":
        """Reads the JSON object. Raises ResultsError for anything else."""
        if not isinstance(data, dict) or not all(k in data and _fits(data[k], kind) for k, kind in _KINDS.items()):
            raise ResultsError(f"expected records of {', '.join(_KINDS)}, got {str(data)[:120]}")
        if data["pictures"] < 1 or not 0 <= data["correct"] <= data["pictures"] + ROUNDING:
            raise ResultsError(f"expected records of 0 to `pictures` right answers, got {str(data)[:120]}")
        return cls(**{name: data[name] for name in _KINDS}, chosen=_read_chosen(data))


# name in JSON -> type, in the order of the file
_KINDS: dict[str, type] = {
    "arm": str,
    "variant": str,
    "family": str,
    "severity": int,
    "heldout": bool,
    "pictures": int,
    "correct": float,
    "cost": float,
    "seed": int,
    "stderr": float,
}


def write_results(folder: Path, results: Sequence[Result]) -> None:
    """Writes results.json into a run folder."""
    write_json(folder / RESULTS_FILE, [result.to_dict() for result in results])


def read_results(folder: Path) -> list[Result]:
    """Reads results.json of a run folder. Raises ResultsError where it is missing or not as expected."""
    path = folder / RESULTS_FILE
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"{path}: expected, not found; a finished `python -m train.run` leaves it") from None
    except ValueError as error:
        raise ResultsError(f"{path}: expected JSON ({error}); finish the run with --resume") from error
    if not isinstance(records, list):
        raise ResultsError(f"{path}: expected a JSON list, got {str(records)[:60]}; finish the run with --resume")
    try:
        return [Result.from_dict(record) for record in records]
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}; finish the run with --resume") from error


def accuracy_by_family(results: Sequence[Result], arm: Arm) -> dict[str, float]:
    """Returns degradation family -> accuracy (0..1) of an arm, the mean over severities."""
    accuracies: dict[str, list[float]] = {}
    for result in results:
        if result.key == arm:
            accuracies.setdefault(result.family, []).append(result.accuracy)
    return {family: float(np.mean(values)) for family, values in accuracies.items()}


def mean_cost(results: Sequence[Result], arm: Arm) -> float:
    """Returns the mean cost of an arm relative to 8 bits; families weigh alike, as in means of accuracy."""
    costs: dict[str, list[float]] = {}
    for result in results:
        if result.key == arm:
            costs.setdefault(result.family, []).append(result.cost)
    return float(np.mean([np.mean(values) for values in costs.values()]))


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _read_chosen(data: dict[str, Any]) -> ChosenBits | None:
    shares = {key.removeprefix(SHARE): value for key, value in data.items() if key.startswith(SHARE)}
    if not shares:
        return None
    widths = [data.get("w_bits"), data.get("a_bits")]
    if not all(_fits(value, float) for value in (*widths, *shares.values())):
        raise ResultsError(f"expected numbers as w_bits, a_bits and shares, got {str(data)[:120]}")
    return ChosenBits(data["w_bits"], data["a_bits"], shares)
