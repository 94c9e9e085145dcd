"""The journal of a run: metrics.jsonl, and the same numbers for TensorBoard."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from runtime.files import naming

JOURNAL_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class JournalError(ValueError):
    """The journal to go on with is not the one that the checkpoint knows; the message says what to do."""


@dataclass(frozen=True)
class JournalLine:
    """One line of the journal: where in the run it was written, and what was measured there.

    step: counted over the whole phase. epoch: from 1, None outside epochs. layer: the one measured, where it is one
    alone. numbers: name -> value; the floats among them become curves.
    """

    phase: str
    step: int
    numbers: dict[str, float]
    epoch: int | None = None
    layer: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the line as one flat JSON object."""
        places = {"phase": self.phase, "epoch": self.epoch, "step": self.step, "layer": self.layer}
        return {**{name: value for name, value in places.items() if value is not None}, **self.numbers}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "JournalLine":
        """Returns the line that `to_dict` gave. Raises KeyError or TypeError for anything else."""
        numbers = {name: value for name, value in content.items() if name not in ("phase", "epoch", "step", "layer")}
        return cls(content["phase"], content["step"], numbers, content.get("epoch"), content.get("layer"))


class Journal:
    """A file of journal lines; one that goes on after a kill first drops what the checkpoint does not know of.

    size: bytes of metrics.jsonl that are kept, 0 to begin anew; `dropped` says how many were behind them. Raises
    JournalError where these are not there.
    """

    def __init__(self, folder: Path, size: int = 0):
        self.path = folder / JOURNAL_FILE
        folder.mkdir(parents=True, exist_ok=True)
        lines = _read_lines(self.path, size)
        board = folder / TENSORBOARD_FOLDER
        shutil.rmtree(board, ignore_errors=True)
        with open(self.path, "ab") as file:
            self.dropped = file.tell() - size
            file.truncate(size)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (open until `close`)
        self.board = SummaryWriter(str(board))
        for line in lines:
            self._draw(line)

    def write_to_disk(self) -> int:
        """Waits until all lines are on the disk, and returns the size of the file in bytes."""
        with naming(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
        return self.path.stat().st_size

    def write(self, line: JournalLine) -> None:
        """Appends a line, and draws its numbers."""
        with naming(self.path):
            self.file.write(json.dumps(line.to_dict()) + "\n")
            self.file.flush()
        self._draw(line)

    def close(self) -> None:
        """Closes both files; the journal is of no more use then."""
        self.file.close()
        self.board.close()

    def _draw(self, line: JournalLine) -> None:
        for name, value in line.numbers.items():
            if isinstance(value, float):
                self.board.add_scalar(f"{line.phase}/{name}", value, line.step)


def _read_lines(path: Path, size: int) -> list[JournalLine]:
    """The lines in the first `size` bytes of a journal, which must be there."""
    content = path.read_bytes() if size and path.exists() else b""
    expected = f"--resume: expected the {size} bytes of {path} that the checkpoint knows, got"
    if len(content) < size:
        raise JournalError(f"{expected} {len(content)}; bring the file back, or start without --resume")
    try:
        return [JournalLine.from_dict(json.loads(line)) for line in content[:size].splitlines()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise JournalError(
            f"{expected} a line that is none of a journal ({error!r}); bring the file back, or start without --resume"
        ) from error
