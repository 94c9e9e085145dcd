"""Settings of the pictures: which data set, which degradations, and whether training mirrors them."""

import os
from dataclasses import dataclass
from pathlib import Path

from runtime.terminal import did_you_mean
from train.data.names import DATA_SIDE, DATASETS, FAMILIES, FOLDER, HELD_OUT
from train.settings.options import SettingsError, check_rules, flag, option, require_two

SIDES = range(8, 129, 4)  # pixels: networks halve their maps twice


@dataclass(frozen=True)
class DataSettings:
    """Which pictures the run learns from, and how they are degraded."""

    dataset: str = option(
        "digits", "Pictures to train on: digits, cifar10, or folder:PATH for your own in class folders.", everyday=True
    )
    data: Path | None = option(None, "Folder that holds (or gets) cifar-10-batches-py.", everyday=True)
    size: int = option(
        DATA_SIDE,
        "Side in pixels that pictures of folder:PATH are stretched to, a multiple of 4 from 8 to 128.",
        everyday=True,
    )
    flip: str = option(
        "auto",
        "Whether training mirrors pictures left to right: yes, no, or auto, which is yes for cifar10 and no for "
        "digits and folder:PATH, since a mirror turns some things, such as signs and letters, into others.",
        everyday=True,
        among=("auto", "yes", "no"),
    )
    families: str = option(
        "all",
        f"Degradation families to train with, by name and comma, of {', '.join(FAMILIES)}; all: every one that is "
        "not held out.",
    )
    hold_out: str = option(
        ",".join(HELD_OUT),
        "Degradation families that the run is only tested with, by name and comma; none for no such.",
    )
    limit: int = option(0, "How many pictures of each part of the data set to use, 0 for all.", least=0)

    def __post_init__(self) -> None:
        check_rules(self)
        _check_dataset(self.dataset)
        _check_size(self.dataset, self.size)
        _check_data_folder(self.data)
        require_two("limit", self.limit)
        self.training_families  # noqa: B018  (raises where the two lists make no sense)

    @property
    def mirrored(self) -> bool:
        """Whether training mirrors half of its pictures."""
        return self.flip == "yes" or (self.flip == "auto" and self.dataset == "cifar10")

    @property
    def held_out(self) -> tuple[str, ...]:
        """The families that are only tested with, in the order given."""
        return () if self.hold_out in ("", "none") else _families("hold_out", self.hold_out)

    @property
    def training_families(self) -> tuple[str, ...]:
        """The families to train with, in the order of FAMILIES. Raises SettingsError for none, or one held out."""
        open_families = tuple(f for f in FAMILIES if f not in self.held_out)
        asked = open_families if self.families == "all" else _families("families", self.families)
        both = [f for f in asked if f in self.held_out]
        if both:
            raise SettingsError(f"--families: {', '.join(both)} held out as well; name other --hold-out, or none")
        if not asked:
            raise SettingsError("--families: expected at least one that is not held out")
        return tuple(f for f in FAMILIES if f in asked)


def _check_dataset(dataset: str) -> None:
    if dataset not in DATASETS and not dataset.startswith(FOLDER):
        is_folder = os.path.isdir(dataset)
        advice = f"; for your own pictures write folder:{dataset}" if is_folder else did_you_mean(dataset, DATASETS)
        raise SettingsError(f"--dataset: expected {', '.join(DATASETS)} or folder:PATH, got {dataset!r}{advice}")
    place = dataset.removeprefix(FOLDER)
    if dataset.startswith(FOLDER) and not (place and Path(place).is_dir()):
        raise SettingsError(f"--dataset {dataset}: there is no such folder; it must hold train/ and val/")


def _check_size(dataset: str, size: int) -> None:
    if size != DATA_SIDE and not dataset.startswith(FOLDER):
        raise SettingsError(f"--size: expected {DATA_SIDE} for {dataset}, got {size}; only folder:PATH has another")
    if size not in SIDES:
        raise SettingsError(
            f"--size: expected a multiple of {SIDES.step} from {SIDES.start} to {SIDES[-1]}, got {size}"
        )


def _check_data_folder(data: Path | None) -> None:
    if data is not None and not (data if data.exists() else data.parent).is_dir():
        raise SettingsError(
            f"--data {data}: there is no such folder; give the one with cifar-10-batches-py, or one to be made for it "
            "in a folder that there is"
        )


def _families(name: str, text: str) -> tuple[str, ...]:
    names = tuple(n.strip() for n in text.split(","))
    unknown = [n for n in names if n not in FAMILIES]
    if unknown or len(set(names)) != len(names):
        near = did_you_mean(unknown[0], FAMILIES) if unknown else ""
        raise SettingsError(f"{flag(name)}: expected different families of {', '.join(FAMILIES)}, got {text!r}{near}")
    return names
