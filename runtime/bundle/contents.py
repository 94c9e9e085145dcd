"""Reads the files of a bundle: each from inside its folder, whole, and only as the bytes that the manifest lists."""

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.bundle.manifest import FileInfo
from runtime.fields import COPY, BundleError

_PIECE = 1 << 20  # bytes that are read at a time of files that nobody uses here


class Contents:
    """The files of a bundle's folder, whose bytes are checked against the manifest's digests before they are used.

    Bytes that `check` has kept are handed out without looking at the folder again, so what was checked is what is used
    even while somebody copies another bundle over this one. After `forget` they are read, and checked, anew.
    """

    def __init__(self, folder: Path, files: Mapping[str, FileInfo]) -> None:
        self._folder = folder
        self._files = files
        self._kept: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """Returns the bytes of a listed file. Raises BundleError where they are not those that the manifest lists."""
        if name not in self._kept:
            return self._read(name)
        return self._kept[name]

    def check(self, keep: Collection[str]) -> None:
        """Reads every listed file; keeps the bytes of those named `keep`. Raises BundleError as `read` does."""
        for name in self._files:
            if name in keep:
                self._kept[name] = self._read(name)
            else:
                self._hash(name)

    def check_sizes(self) -> None:
        """Looks only whether every listed file is there with its size. Raises BundleError where one is not."""
        for name in self._files:
            with self._open(name):
                pass

    def forget(self) -> None:
        """Gives back the memory of all that is kept."""
        self._kept.clear()

    def _read(self, name: str) -> bytes:
        with self._open(name) as file:
            data = file.read(self._files[name].bytes)
        self._require_digest(name, hashlib.sha256(data).hexdigest())
        return data

    def _hash(self, name: str) -> None:
        digest = hashlib.sha256()
        with self._open(name) as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        self._require_digest(name, digest.hexdigest())

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        path = self._folder / name
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(os.path.realpath(self._folder)):
            raise BundleError(f"{name}: expected a file inside the bundle, got a link to {real}; {COPY}")
        expected = self._files[name].bytes
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected:
                    raise BundleError(f"{name}: expected {expected} bytes, got {size}; {COPY}")
                yield file
        except FileNotFoundError as error:
            raise BundleError(f"{name}: expected this file, it is missing; {COPY}") from error
        except OSError as error:
            raise BundleError(f"{name}: expected a file, cannot read it ({error.strerror}); {COPY}") from error

    def _require_digest(self, name: str, sha256: str) -> None:
        expected = self._files[name].sha256
        if sha256 != expected:
            raise BundleError(
                f"{name}: its bytes changed, expected sha256 {expected[:16]}..., got {sha256[:16]}...; {COPY}"
            )


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Opens a file of bytes to be read. Raises OSError where there is none; for a pipe too, and without waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is a folder, a pipe or a device", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)
