"""How far a run has come: its phases in order, and the typed record of it that every checkpoint holds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from train.bits.configs import Configs

# The names seed each phase's random numbers and stand in the journal.
FULL_PRECISION = "full"
SEARCH = "search"
JOINT = "joint"
PRIVATE = "private"
PHASES = (FULL_PRECISION, SEARCH, JOINT, PRIVATE)  # of a run, in order


@dataclass(frozen=True)
class Position:
    """Where in a phase training stands, and its losses since the last line of the journal.

    epoch: how many epochs are done; step: how many steps of the next one; sums: of each of the phase's losses over the
    last `counted` steps.
    """

    epoch: int
    step: int
    sums: tuple[float, ...]
    counted: int

    @classmethod
    def start(cls, losses: int) -> "Position":
        """Returns the beginning of a phase that has so many losses."""
        return cls(0, 0, (0.0,) * losses, 0)

    def after_step(self, losses: Sequence[float]) -> "Position":
        """Returns the position one step on, with that step's losses added."""
        sums = tuple(total + loss for total, loss in zip(self.sums, losses, strict=True))
        return replace(self, step=self.step + 1, sums=sums, counted=self.counted + 1)

    def after_epoch(self) -> "Position":
        """Returns the position at the beginning of the next epoch."""
        return replace(self, epoch=self.epoch + 1, step=0)

    def after_line(self) -> "Position":
        """Returns the same position with sums that begin anew, as after each line of the journal."""
        return replace(self, sums=(0.0,) * len(self.sums), counted=0)


@dataclass(frozen=True)
class CheckpointState:
    """Everything that a checkpoint holds beside tensors.

    phase: the last one begun; position: where in it the checkpoint was taken, None where it has ended. settings: those
    that decide the result. journal: how many bytes of the journal are known. configs: None before any were found.
    """

    phase: str
    position: Position | None
    settings: dict[str, Any]
    journal: int
    configs: Configs | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the state as JSON holds it."""
        return {
            "phase": self.phase,
            "position": None if self.position is None else asdict(self.position),
            "settings": self.settings,
            "journal": self.journal,
            "configs": None if self.configs is None else self.configs.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "CheckpointState":
        """Returns the state that `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        phase = content["phase"]
        settings = content["settings"]
        journal = content["journal"]
        if phase not in PHASES:
            raise ValueError(f"expected one of the phases {', '.join(PHASES)}, got phase {phase!r}")
        if not isinstance(settings, dict):
            raise ValueError(f"expected an object of settings, got settings {str(settings)[:80]!r}")
        if not _is_count(journal):
            raise ValueError(f"expected a number of bytes, got journal {journal!r}")
        if content["configs"] is None and (phase in (JOINT, PRIVATE)):
            raise ValueError(f"expected configurations in phase {phase}, got configs None")
        position = None if content["position"] is None else _position(content["position"])
        configs = None if content["configs"] is None else Configs.from_dict(content["configs"], "its configurations")
        return cls(phase, position, settings, journal, configs)


def _position(content: dict[str, Any]) -> Position:
    """The position that `asdict` gave; raises KeyError, TypeError or ValueError for anything else."""
    counts = {name: content[name] for name in ("epoch", "step", "counted")}
    for name, count in counts.items():
        if not _is_count(count):
            raise ValueError(f"expected a count, got {name} {count!r}")
    return Position(sums=tuple(float(total) for total in content["sums"]), **counts)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
