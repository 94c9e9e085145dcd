"""All that a run's worth is judged by: what every variant makes of validation and test pictures, and who took which."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from runtime.files import replacing
from train.evidence.outcomes import Outcomes

FORMAT = 1
NAME = "outcomes.npz"
DAMAGED = (BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, OSError, TypeError, ValueError)  # of an npz

Place = tuple[str, int]  # (family, severity)


@dataclass(frozen=True)
class Measured:
    """A trained variant. method: what found its bits; cost: of 8 bits everywhere, as the run counts it.

    w_bits, a_bits: widths that a multiply-add meets on average; groups: quality groups it was trained for, empty for
    all pictures alike; base: the variant that a private one was made from and has the bits of, else empty.
    """

    name: str
    method: str
    cost: float
    w_bits: float
    a_bits: float
    groups: tuple[int, ...] = ()
    base: str = ""


@dataclass(frozen=True, eq=False)
class Taken:
    """What an arm did with M test pictures. variant: int64 [M], whose answer counts; cost: float64 [M], of all run."""

    variant: np.ndarray
    cost: np.ndarray


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of V variants, on J views of the same N test pictures, view after view, and on M validation pictures.

    test: outcomes on J * N pictures; full: bool [J * N], whether the float network is right; labels: int64 [N];
    places: family and severity of each view; held_out: families never trained with. seen: outcomes on M validation
    pictures; families, severities: int64 [M], which of `trained` and how strong; kinds: int64 [M], the kind of quality
    each counts as: its family, or a group found without labels. arms: name -> what was taken on test.
    curve: accuracy and mean cost of the exported choice on each view, float64 [B, J] each, for B budgets, rising.
    """

    variants: tuple[Measured, ...]
    places: tuple[Place, ...]
    held_out: tuple[str, ...]
    trained: tuple[str, ...]
    labels: np.ndarray
    test: Outcomes
    full: np.ndarray
    seen: Outcomes
    families: np.ndarray
    severities: np.ndarray
    kinds: np.ndarray
    arms: dict[str, Taken]
    curve: tuple[np.ndarray, np.ndarray]

    @property
    def pictures(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def costs(self) -> np.ndarray:
        return np.array([v.cost for v in self.variants], np.float64)

    @property
    def ladder(self) -> list[int]:
        """Variants that are no private ones: the static alternatives, by rising cost."""
        return sorted((k for k, v in enumerate(self.variants) if not v.base), key=lambda k: self.variants[k].cost)

    @property
    def shared(self) -> np.ndarray:
        """bool [V]: variants for pictures of every kind; all where no variant is."""
        shared = np.array([not v.groups for v in self.variants])
        return shared if shared.any() else ~shared

    @property
    def subjects(self) -> np.ndarray:
        """int64 [M]: which validation picture each is a view of."""
        return np.arange(len(self.seen)) % (len(self.seen) // len(self.trained))

    def private(self, base: int) -> list[int]:
        """Variants made from this one for single kinds of quality."""
        return [k for k, v in enumerate(self.variants) if v.base == self.variants[base].name]

    def by_view(self, values: np.ndarray) -> np.ndarray:
        """[J, N, ...] of [J * N, ...]."""
        return values.reshape(len(self.places), self.pictures, *values.shape[1:])

    def write(self, folder: Path) -> Path:
        """outcomes.npz."""
        about = {
            "format": FORMAT,
            "variants": [asdict(v) for v in self.variants],
            "places": self.places,
            "held_out": self.held_out,
            "trained": self.trained,
            "arms": list(self.arms),
        }
        arrays = {
            f"{name}_{key}": value
            for name, outcomes in (("test", self.test), ("seen", self.seen))
            for key, value in _packed(outcomes).items()
        }
        arrays |= {
            "about": np.array(json.dumps(about)),
            "labels": self.labels,
            "full": np.packbits(self.full),
            "families": self.families,
            "severities": self.severities,
            "kinds": self.kinds,
            "curve": np.stack(self.curve),
        }
        if self.arms:
            arrays["arm_variant"] = np.stack([a.variant for a in self.arms.values()]).astype(np.int16)
            arrays["arm_cost"] = np.stack([a.cost for a in self.arms.values()])
        path = Path(folder) / NAME
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **arrays)
        return path

    @classmethod
    def read(cls, folder: Path) -> "Evidence":
        """Of a run's folder. Raises ValueError for a file that is none."""
        path = Path(folder) / NAME
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls._of(dict(file))
        except DAMAGED as error:
            raise ValueError(f"{path}: expected outcomes of format {FORMAT} ({error!r}); train the run anew") from error

    @classmethod
    def _of(cls, file: dict[str, np.ndarray]) -> "Evidence":
        about = json.loads(str(file["about"]))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}")
        test, seen = (_unpacked(file, name) for name in ("test", "seen"))
        return cls(
            variants=tuple(Measured(**{**v, "groups": tuple(v["groups"])}) for v in about["variants"]),
            places=tuple((family, severity) for family, severity in about["places"]),
            held_out=tuple(about["held_out"]),
            trained=tuple(about["trained"]),
            labels=file["labels"],
            test=test,
            full=np.unpackbits(file["full"], count=len(test)).astype(bool),
            seen=seen,
            families=file["families"],
            severities=file["severities"],
            kinds=file["kinds"],
            arms={
                name: Taken(file["arm_variant"][k].astype(np.int64), file["arm_cost"][k])
                for k, name in enumerate(about["arms"])
            },
            curve=tuple(file["curve"]),
        )


def _packed(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """Bits for right and wrong, and 32 bits for margins: logits are below 2**30, their differences below 2**31."""
    return {
        "features": outcomes.features,
        "correct": np.packbits(outcomes.correct),
        "margin": outcomes.margin.astype(np.int32),
    }


def _unpacked(file: dict[str, np.ndarray], name: str) -> Outcomes:
    margin = file[f"{name}_margin"].astype(np.int64)
    correct = np.unpackbits(file[f"{name}_correct"], count=margin.size).astype(bool).reshape(margin.shape)
    return Outcomes(file[f"{name}_features"], correct, margin)
