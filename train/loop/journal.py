"""The journal of a run: metrics.jsonl, and the same numbers for TensorBoard."""

import json
import os
import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

NAME = "metrics.jsonl"


class JournalError(ValueError):
    """The journal to go on with is not the one that the checkpoint knows; the message says what to do."""


class Journal:
    """Appends records; one that goes on after a kill first drops what the checkpoint does not know of."""

    def __init__(self, folder: Path, size: int = 0):
        """size: bytes of metrics.jsonl that stand, 0 to begin anew. Raises JournalError where these are not there."""
        self.path, board = folder / NAME, folder / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        records = _standing(self.path, size)
        shutil.rmtree(board, ignore_errors=True)
        with open(self.path, "ab") as file:
            file.truncate(size)
        self.file, self.board = open(self.path, "a", encoding="utf-8"), SummaryWriter(str(board))
        for record in records:
            self._draw(record)

    @property
    def size(self) -> int:
        """Bytes written, all of them on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.path.stat().st_size

    def write(self, record: dict) -> None:
        """A flat record with "phase" and "step" (counted over the phase); its other numbers become curves."""
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        self._draw(record)

    def _draw(self, record: dict) -> None:
        for name, value in record.items():
            if isinstance(value, float):
                self.board.add_scalar(f"{record['phase']}/{name}", value, record["step"])

    def close(self) -> None:
        self.file.close()
        self.board.close()


def _standing(path: Path, size: int) -> list[dict]:
    """The records in the first bytes of a journal, which must be there."""
    there = path.read_bytes() if size and path.exists() else b""
    told = f"--resume: expected the {size} bytes of {path} that the checkpoint knows, got"
    if len(there) < size:
        raise JournalError(f"{told} {len(there)}; bring the file back, or start without --resume")
    try:
        return [json.loads(line) for line in there[:size].splitlines()]
    except ValueError as error:
        raise JournalError(
            f"{told} a line that is no record ({error}); bring the file back, or start without --resume"
        ) from error
