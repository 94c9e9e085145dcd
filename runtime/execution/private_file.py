"""Gives checked bytes a path for the dynamic linker: a file in memory on Linux, else one in a folder of our own."""

import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from runtime.fields import BundleError

Opened = TypeVar("Opened")
_SEPARATORS = 64  # of a path in /proc/self/fd, each spelled in one of two ways


def open_private(data: bytes, opened: Callable[[str], Opened]) -> Opened:
    """Returns what `opened` returns for the path of a private file with these bytes, which then goes.

    The path is one that this process has not used before: under a name that it has seen, the dynamic linker would
    return the library that it loaded then. Raises what `opened` raises, and BundleError where neither memory nor any
    folder can hold the file.
    """
    refusals = []
    for make in (_in_memory, _in_folder):
        try:
            with make(data) as path:
                try:
                    return opened(path)
                except OSError as error:  # a machine may forbid code in memory, another in its temporary folder
                    refusals.append(error)
        except OSError as error:
            refusals.append(error)
    reasons = "; ".join(str(error) for error in refusals)
    raise BundleError(
        "expected files in memory (memfd_create) or a writable folder for temporary files, whose code may be run, got "
        f"neither ({reasons}); set TMPDIR to a folder that is mounted without noexec"
    ) from refusals[-1]


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    if sys.platform != "linux":
        raise OSError(0, "no files in memory on this system")
    descriptor = os.memfd_create("bitgrade.so", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield f"/proc/self/fd{_unused_separator()}{descriptor}"


def _unused_separator() -> str:
    """Returns a separator of path names that no earlier one is likely to equal: numbers of descriptors come again."""
    bits = secrets.randbits(_SEPARATORS)
    return "".join("/./" if bits >> k & 1 else "/" for k in range(_SEPARATORS))


@contextmanager
def _in_folder(data: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bitgrade.so")
        path.write_bytes(data)
        yield str(path)
