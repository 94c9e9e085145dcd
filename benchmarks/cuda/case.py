"""A network prepared for a GPU: its folder and what lies there; needs numpy alone."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FloatLayer:
    """One layer of a network in floating point, for a peer to run; members that its kind lacks keep their defaults.

    op: "Conv", "Add", "AvgPool", "MaxPool" or "Shortcut". output, inputs: names of tensors. padding: top, left, bottom,
    right. before: channels of zeros in front. relu: whether one follows.
    """

    op: str
    output: str
    inputs: tuple[str, ...]
    channels: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    before: int = 0
    in_channels: int = 0
    relu: bool = False

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "FloatLayer":
        """Returns the layer of its JSON object, in which lists stand for tuples."""
        members: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        return cls(**members)


@dataclass(frozen=True)
class Case:
    """One folder: a network in one configuration, compiled for one batch.

    requires: "sm_NN", the oldest GPU that its code runs on. workspace: bytes. macs: multiply-adds of tensor-core
    kernels by the bits of a code inside the instruction, "8" or "4". command: of nvcc. arrays: names of files beside
    the folder.
    """

    folder: Path
    network: str
    bits: str
    batch: int
    target: str
    requires: tuple[str, ...]
    workspace: int
    macs: dict[str, int]
    command: str
    layers: tuple[FloatLayer, ...] = ()
    arrays: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Case":
        """Returns the case of a folder; raises OSError, and ValueError where case.json is no JSON."""
        members = json.loads((folder / "case.json").read_text())
        layers = tuple(map(FloatLayer.from_dict, members.pop("layers")))
        return cls(folder, **{**members, "requires": tuple(members["requires"]), "layers": layers})

    def write(self) -> None:
        """Writes case.json."""
        members = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / "case.json").write_text(json.dumps(members, indent=1) + "\n")

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def work(self) -> int:
        """Multiply-adds of tensor-core kernels."""
        return sum(self.macs.values())

    def array(self, name: str) -> np.ndarray:
        """Returns weights int8 [n], table int32 [n], pictures uint8 [N, H, W, C] or logits int32 [N, classes].

        It is read from the file as it is used.
        """
        return np.load(self.folder.parent / self.arrays[name], mmap_mode="r", allow_pickle=False)

    def require(self, capability: tuple[int, int]) -> None:
        """Raises ValueError for a GPU, by its compute capability, that is older than all code in here."""
        actual = 10 * capability[0] + capability[1]
        (least,) = (int(name.removeprefix("sm_")) for name in self.requires)
        if actual < least:
            raise ValueError(
                f"expected a GPU of compute capability {least / 10} or later, got {actual / 10}; prepare "
                f"networks for it with `python -m benchmarks.cuda.cases ... --archs {actual}`"
            )


@dataclass(frozen=True)
class PeakCase:
    """A folder with code that only multiplies registers; bits: of a code inside the instruction, "8" or "4"."""

    folder: Path
    bits: str
    macs: int
    outputs: int
    command: str

    @classmethod
    def read(cls, folder: Path) -> "PeakCase":
        """Returns the case of a folder; raises OSError, and ValueError where case.json is no JSON."""
        members = json.loads((folder / "case.json").read_text())
        return cls(folder, members["bits"], members["macs"], members["outputs"], members["command"])

    def write(self) -> None:
        """Writes case.json."""
        members = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / "case.json").write_text(json.dumps({"network": "peak", **members}) + "\n")


def find_networks(root: Path, pattern: str = "*") -> list[Path]:
    """Returns the cases and bundles under a folder whose names match; raises ValueError where there is none."""
    candidates = (p for p in sorted(root.glob("*")) if fnmatch(p.name, pattern) and not p.name.startswith("peak-"))
    networks = [p for p in candidates if (p / "case.json").exists() or (p / "manifest.json").exists()]
    if not networks:
        raise ValueError(
            f"{root}: expected prepared networks named {pattern}, found none; make some with "
            "`python -m benchmarks.cuda.cases`, or with --build where TVM and nvcc are"
        )
    return networks


def read_cases(networks: Iterable[Path]) -> list[Case]:
    """Returns those folders that are no bundles."""
    return [Case.read(p) for p in networks if (p / "case.json").exists()]
