"""What the processes of `python -m benchmarks.cuda` tell each other in JSON files: counts of checks, and times."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.files import write_json


@dataclass(frozen=True)
class CheckRecord:
    """How many pictures of a network (`case`) have a wrong logit; part: how they were run."""

    case: str
    part: str
    pictures: int
    differing: int

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "CheckRecord":
        """Returns the record of an entry of a JSON file; raises TypeError or KeyError for a damaged one."""
        return cls(entry["case"], entry["part"], entry["pictures"], entry["differing"])


@dataclass(frozen=True)
class TimeRecord:
    """The time of one call of an engine on a GPU.

    ms: milliseconds for `batch` pictures. exact: whether every check of the network found every logit right, None where
    nobody looked. peak_share: the time that the GPU needs at its own peak over that taken, None where it is unknown.
    """

    network: str
    engine: str
    bits: str
    batch: int
    gpu: str
    ms: float
    exact: bool | None = None
    peak_share: float | None = None

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "TimeRecord":
        """Returns the record of an entry of a JSON file; raises TypeError or KeyError for a damaged one."""
        return cls(**{name: entry[name] for name in cls.__dataclass_fields__})


Record = CheckRecord | TimeRecord
KINDS: dict[str, type[CheckRecord] | type[TimeRecord]] = {"checks": CheckRecord, "times": TimeRecord}


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Writes records as a JSON list."""
    write_json(path, [asdict(record) for record in records])


def read_records(path: Path, part: str) -> tuple[Record, ...]:
    """Returns the records that a process of a part has left; raises ValueError for a damaged file."""
    try:
        return tuple(KINDS[part].from_dict(entry) for entry in json.loads(path.read_text()))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: expected a list of {part}, got other content ({error!r}); delete it") from error
