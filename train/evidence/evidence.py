"""Everything a run is judged by: what each variant answers on validation and test pictures, and what each arm chose."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from runtime.files import replacing
from train.evidence.outcomes import Outcomes

OUTCOMES_FILE = "outcomes.npz"
OUTCOMES_FORMAT = 1
DAMAGED = (BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, OSError, TypeError, ValueError)  # of an npz

View = tuple[str, int]  # degradation family and severity of a view: the test pictures under both


@dataclass(frozen=True)
class VariantFacts:
    """What reports need to know of a trained variant.

    method: what found its bits; cost: relative to 8 bits everywhere, in the run's unit; w_bits, a_bits: mean widths of
    a multiply-add; kinds: the kinds of picture quality it was trained for, empty for all; base: the variant that a
    private one was made from and has the bits of, else empty.
    """

    name: str
    method: str
    cost: float
    w_bits: float
    a_bits: float
    kinds: tuple[int, ...] = ()
    base: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object, in which the kinds are "groups"."""
        known = asdict(self)
        kinds = known.pop("kinds")
        base = known.pop("base")
        return {**known, "groups": kinds, "base": base}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VariantFacts":
        """Reads the JSON object. Raises KeyError or TypeError for anything else."""
        known = {key: value for key, value in data.items() if key != "groups"}
        return cls(**known, kinds=tuple(data["groups"]))


@dataclass(frozen=True, eq=False)
class Answers:
    """Which variant's answer counts for each of M pictures, int64 [M], and what all that ran for it cost, [M]."""

    variant: np.ndarray
    cost: np.ndarray


@dataclass(frozen=True, eq=False)
class BudgetCurve:
    """Accuracy (0..1) and mean cost of the exported choice on each view, float64 [B, J], for B rising budgets."""

    accuracy: np.ndarray
    cost: np.ndarray

    def __len__(self) -> int:
        """How many budgets there are (B)."""
        return len(self.accuracy)

    @classmethod
    def empty(cls, views: int) -> "BudgetCurve":
        """Returns the curve of a run whose choice is not made yet."""
        return cls(np.empty((0, views)), np.empty((0, views)))


@dataclass(frozen=True, eq=False)
class Evidence:
    """Answers of V variants to J views of the same N test pictures, view after view, and to M validation pictures.

    views: family and severity of each view; held_out: families never trained with; trained: the others; labels: int64
    [N]; test: outcomes of J * N pictures; full_precision: bool [J * N], whether the float network is right; validation:
    outcomes of M pictures; families, severities: int64 [M], index into `trained`, and how strong; kinds: int64 [M], the
    kind of quality each counts as; arms: name -> its answers on the test pictures; curve: of the exported choice.
    """

    variants: tuple[VariantFacts, ...]
    views: tuple[View, ...]
    held_out: tuple[str, ...]
    trained: tuple[str, ...]
    labels: np.ndarray
    test: Outcomes
    full_precision: np.ndarray
    validation: Outcomes
    families: np.ndarray
    severities: np.ndarray
    kinds: np.ndarray
    arms: dict[str, Answers]
    curve: BudgetCurve

    @property
    def pictures(self) -> int:
        """How many test pictures there are in each view (N)."""
        return len(self.labels)

    @property
    def costs(self) -> np.ndarray:
        """The cost of each variant relative to 8 bits, float64 [V]."""
        return np.array([v.cost for v in self.variants], np.float64)

    @property
    def statics(self) -> list[int]:
        """Indices of the variants that are no private ones, by rising cost: the static alternatives."""
        return sorted((k for k, v in enumerate(self.variants) if not v.base), key=lambda k: self.variants[k].cost)

    @property
    def shared(self) -> np.ndarray:
        """Which variants are for pictures of every kind, bool [V]; all of them where none says so."""
        shared = np.array([not v.kinds for v in self.variants])
        return shared if shared.any() else ~shared

    @property
    def subjects(self) -> np.ndarray:
        """The number of the picture that each validation picture is a view of, int64 [M]."""
        return np.arange(len(self.validation)) % (len(self.validation) // len(self.trained))

    def private_of(self, base: int) -> list[int]:
        """Returns the indices of the private variants that were made from this one."""
        return [k for k, v in enumerate(self.variants) if v.base == self.variants[base].name]

    def by_view(self, values: np.ndarray) -> np.ndarray:
        """Reshapes values [J * N, ...] of test pictures to [J, N, ...]."""
        return values.reshape(len(self.views), self.pictures, *values.shape[1:])

    def write(self, folder: Path) -> Path:
        """Writes outcomes.npz into a run folder and returns its path."""
        path = Path(folder) / OUTCOMES_FILE
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **_to_arrays(self))
        return path

    @classmethod
    def read(cls, folder: Path) -> "Evidence":
        """Reads outcomes.npz of a run folder. Raises ValueError where it is missing or damaged."""
        path = Path(folder) / OUTCOMES_FILE
        try:
            with np.load(path, allow_pickle=False) as file:
                return _from_arrays(dict(file))
        except DAMAGED as error:
            raise ValueError(
                f"{path}: expected outcomes of format {OUTCOMES_FORMAT} ({error!r}); train the run anew"
            ) from error


def _to_arrays(evidence: Evidence) -> dict[str, Any]:
    """Content of the file; validation outcomes are its "seen", the float network's answers its "full"."""
    about = {
        "format": OUTCOMES_FORMAT,
        "variants": [v.to_dict() for v in evidence.variants],
        "places": evidence.views,
        "held_out": evidence.held_out,
        "trained": evidence.trained,
        "arms": list(evidence.arms),
    }
    arrays: dict[str, Any] = {
        **_packed("test", evidence.test),
        **_packed("seen", evidence.validation),
        "about": np.array(json.dumps(about)),
        "labels": evidence.labels,
        "full": np.packbits(evidence.full_precision),
        "families": evidence.families,
        "severities": evidence.severities,
        "kinds": evidence.kinds,
        "curve": np.stack([evidence.curve.accuracy, evidence.curve.cost]),
    }
    if evidence.arms:
        arrays["arm_variant"] = np.stack([a.variant for a in evidence.arms.values()]).astype(np.int16)
        arrays["arm_cost"] = np.stack([a.cost for a in evidence.arms.values()])
    return arrays


def _from_arrays(file: dict[str, np.ndarray]) -> Evidence:
    about = json.loads(str(file["about"]))
    if about["format"] != OUTCOMES_FORMAT:
        raise ValueError(f"format {about['format']}")
    test = _unpacked("test", file)
    accuracy, cost = file["curve"]
    return Evidence(
        variants=tuple(VariantFacts.from_dict(v) for v in about["variants"]),
        views=tuple((family, severity) for family, severity in about["places"]),
        held_out=tuple(about["held_out"]),
        trained=tuple(about["trained"]),
        labels=file["labels"],
        test=test,
        full_precision=np.unpackbits(file["full"], count=len(test)).astype(bool),
        validation=_unpacked("seen", file),
        families=file["families"],
        severities=file["severities"],
        kinds=file["kinds"],
        arms={
            name: Answers(file["arm_variant"][k].astype(np.int64), file["arm_cost"][k])
            for k, name in enumerate(about["arms"])
        },
        curve=BudgetCurve(accuracy, cost),
    )


def _packed(name: str, outcomes: Outcomes) -> dict[str, np.ndarray]:
    """Bits for right and wrong, and 32 bits for margins: logits are below 2**30, their differences below 2**31."""
    return {
        f"{name}_features": outcomes.features,
        f"{name}_correct": np.packbits(outcomes.correct),
        f"{name}_margin": outcomes.margin.astype(np.int32),
    }


def _unpacked(name: str, file: dict[str, np.ndarray]) -> Outcomes:
    margin = file[f"{name}_margin"].astype(np.int64)
    correct = np.unpackbits(file[f"{name}_correct"], count=margin.size).astype(bool).reshape(margin.shape)
    return Outcomes(file[f"{name}_features"], correct, margin)
