"""Files that are written whole or not at all, and folders that one process at a time writes into."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields the name to write under, of the same ending; after the block that file is `path`, complete and on disk.

    Where the block raises, nothing is left and an older file stays. A link stays one: what it leads to is replaced.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f"{path.stem[:50]}.{os.getpid()}.tmp{path.suffix}")  # of a name that may be the longest
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Until the block or the process ends, another that asks for the same folder gets a BlockingIOError.

    Nobody is kept out where the file system has no locks for folders, as NFS.
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
    except OSError:  # no locks there
        pass


def write_bytes(path: str | Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, content) -> None:
    """Indented by one, a line feed at the end."""
    write_bytes(path, json.dumps(content, indent=1).encode() + b"\n")
