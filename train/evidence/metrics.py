"""The metrics of training, a record a line, as metrics.jsonl keeps them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class MetricsRecord:
    """What was measured at a step of a phase of training; step: counted over the phase."""

    phase: str
    step: int
    values: dict[str, float]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MetricsRecord":
        """Reads the JSON object. Raises AttributeError, KeyError, TypeError or ValueError for anything else."""
        values = {k: v for k, v in data.items() if isinstance(v, (int, float)) and k not in ("step", "epoch")}
        return cls(str(data["phase"]), int(data["step"]), values)


def read_metrics(folder: Path) -> list[MetricsRecord]:
    """Reads the records of training; none where there is no metrics.jsonl. Raises ValueError for a damaged file."""
    path = folder / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    try:
        return [MetricsRecord.from_dict(json.loads(line)) for line in lines]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a record a line ({error!r}); bring the file back, or delete it") from error
