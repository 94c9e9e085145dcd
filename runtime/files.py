"""Writes files whole or not at all, and keeps a folder to one process at a time."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.([1-9]\d*)\.tmp(\.[^.]*)?$")  # how names that `replacing` gives end


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
        with naming(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Gives an OSError that names no file, as that of a full disk, the name of the one which was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def sync(path: str | Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files in a folder and those in it, left by processes that were killed."""
    for path in folder.rglob("*.tmp*"):
        match = _TEMPORARY.search(path.name)
        if match and not _is_alive(int(match[1])):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


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
