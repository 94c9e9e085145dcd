"""Writes files whole or not at all, and keeps a folder to one process at a time."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name with the same suffix, which replaces `path` after the block, complete and on disk.

    When the block raises, the temporary file is removed and an older file stays. A symbolic link stays one: the file
    that it leads to is replaced.
    """
    path = Path(os.path.realpath(path))
    stem = path.stem[:50]  # so that the temporary name fits where `path` is already as long as a name may be
    temporary = path.with_name(f"{stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Locks a folder until the block or the process ends; raises BlockingIOError while another process has it.

    Where the file system has no locks for folders (NFS for one), nobody is kept out.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # this file system has no locks
        pass


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON, indented by one space and ended by a line feed, whole or not at all."""
    write_bytes(path, json.dumps(content, indent=1).encode() + b"\n")
