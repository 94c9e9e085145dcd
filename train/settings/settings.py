"""All settings of a training run: six frozen sections that decide its result, and the place where it runs."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from runtime.terminal import did_you_mean
from train.data.names import FOLDER
from train.settings.bits import BitsSettings
from train.settings.data import DataSettings
from train.settings.options import SettingsError, default_of, flag
from train.settings.training import JudgingSettings, NetworkSettings, PlaceSettings, PrivateSettings, TrainingSettings

# name -> section, in the order of the help and of configuration files
SECTIONS = {
    "data": DataSettings,
    "network": NetworkSettings,
    "bits": BitsSettings,
    "training": TrainingSettings,
    "private": PrivateSettings,
    "judging": JudgingSettings,
    "place": PlaceSettings,
}
# option -> section; every option has one name of its own, since it is a flag
SECTION_OF = {f.name: name for name, section in SECTIONS.items() for f in fields(section)}
# What another run or file brings along, so that these options would decide nothing beside it.
DECIDED_BY = {
    "start": ("weights", "configs", "method", "bits", "epochs", "fp_epochs", "search_epochs"),
    "configs": ("method", "bits", "search_epochs"),
}
SHORT = 12  # digits of a digest that tell files apart


@dataclass(frozen=True)
class Settings:
    """Everything that decides how a run comes out, in sections, and where it lies. Raises SettingsError."""

    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    bits: BitsSettings = field(default_factory=BitsSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    private: PrivateSettings = field(default_factory=PrivateSettings)
    judging: JudgingSettings = field(default_factory=JudgingSettings)
    place: PlaceSettings = field(default_factory=PlaceSettings)

    def __post_init__(self) -> None:
        for decider, names in DECIDED_BY.items():
            beside = [flag(name) for name in names if self.value(name) != default_of(section_of(name), name)]
            if self.value(decider) and beside:
                raise SettingsError(
                    f"{flag(decider)} {self.value(decider)}: brings along what {', '.join(beside)} would decide; leave "
                    "one out"
                )
        start = self.training.start
        if start is not None and start.resolve() == self.folder.resolve():
            raise SettingsError(
                f"--start {start}: expected another run than the one that is written; name another --out"
            )
        if self.bits.method == "dqmq" and self.bits.samples > self.training.batch:
            raise SettingsError(
                f"--samples: expected at most the pictures of a step, --batch {self.training.batch}, got "
                f"{self.bits.samples}"
            )

    @classmethod
    def of(cls, **values: Any) -> "Settings":
        """Returns the settings with these options, by name, all others at their defaults. Raises SettingsError."""
        unknown = [name for name in values if name not in SECTION_OF]
        if unknown:
            near = did_you_mean(unknown[0], SECTION_OF)
            raise SettingsError(f"expected options of train.run (see --help-all), got {', '.join(unknown)}{near}")
        parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for name, value in values.items():
            parts[SECTION_OF[name]][name] = value
        return cls(**{name: SECTIONS[name](**options) for name, options in parts.items()})

    def changed(self, **values: Any) -> "Settings":
        """Returns these settings with some options changed, by their names."""
        return Settings.of(**{**self.values(), **values})

    def value(self, name: str) -> Any:
        """Returns the value of an option by its name."""
        return getattr(getattr(self, SECTION_OF[name]), name)

    def values(self) -> dict[str, Any]:
        """Returns all options, name -> value, in the order of the help."""
        return {name: self.value(name) for name in SECTION_OF}

    @property
    def folder(self) -> Path:
        """The folder that the run is written into."""
        name = Path(self.data.dataset.removeprefix(FOLDER)).name
        return self.place.out or Path("runs") / f"{name}-{self.network.arch}-{self.bits.method}"

    @property
    def costs(self) -> dict[str, Any]:
        """What makes the costs of configurations comparable, as configs.json keeps it."""
        return {
            "arch": self.network.arch,
            "cost": self.bits.cost,
            "target": self.bits.target if self.bits.cost == "latency" else None,
            "budget": self.bits.budget,
            "widths": list(self.bits.candidates),
        }

    def record(self) -> dict[str, Any]:
        """Returns what decides the result, for JSON; of files their names and digests, wherever they lie."""
        beside = ["data", *(f.name for f in fields(PlaceSettings))]
        beside += [name for decider, names in DECIDED_BY.items() if self.value(decider) for name in names]
        deciding = {name: value for name, value in self.values().items() if name not in beside}
        return {**deciding, "flip": "yes" if self.data.mirrored else "no", **self._files}

    @cached_property
    def _files(self) -> dict[str, str]:
        """Names and digests of the files that were named; read once, since they may be gone when a run ends."""
        paths = {"weights": self.network.weights, "teacher": self.network.teacher}
        named = {
            name: f"{path.name} {sha256(path.read_bytes()).hexdigest()[:SHORT]}"
            for name, path in paths.items()
            if path is not None
        }
        start = self.training.start
        return named if start is None else {**named, "start": start.name}


def section_of(name: str) -> type:
    """Returns the section that an option belongs to."""
    return SECTIONS[SECTION_OF[name]]
