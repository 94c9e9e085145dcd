"""Libraries are loaded from private copies: in memory, else in a temporary folder, else with one clear error."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from runtime import BundleError, Engine
from runtime.execution import private_file
from runtime.execution.elf import require_whole
from runtime.execution.private_file import open_private


def no_memory(*_):
    raise OSError(1, "not permitted")


def test_bytes_are_there_and_sealed():
    paths = []

    def look(path):
        paths.append(path)
        with pytest.raises(OSError), open(path, "r+b") as file:
            file.write(b"other")
            file.flush()
        return Path(path).read_bytes()

    assert [open_private(b"library", look) for _ in range(3)] == [b"library"] * 3
    assert len(set(paths)) == 3  # though the descriptor is the same each time
    assert len({os.path.normpath(path) for path in paths}) == 1


def test_a_folder_takes_the_place_of_memory(small_bundle, monkeypatch):
    monkeypatch.setattr(os, "memfd_create", no_memory)
    paths = []
    assert open_private(b"library", lambda path: (paths.append(path), Path(path).read_bytes())[1]) == b"library"
    assert paths[0].startswith(tempfile.gettempdir()) and not os.path.exists(paths[0])
    with Engine(small_bundle) as engine:
        engine.infer(np.zeros((16, 16, 3), np.uint8))


def test_memory_takes_the_place_of_a_writable_folder(small_bundle, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryDirectory", no_memory)
    with Engine(small_bundle) as engine:
        engine.infer(np.zeros((16, 16, 3), np.uint8))


def test_neither_is_one_clear_error(small_bundle, monkeypatch):
    monkeypatch.setattr(os, "memfd_create", no_memory)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", no_memory)
    with pytest.raises(BundleError, match="expected files in memory .* or a writable folder.*; set TMPDIR"):
        Engine(small_bundle)


def test_where_code_in_memory_is_forbidden_a_folder_is_tried():
    seen = []

    def opened(path):
        seen.append(path)
        if path.startswith("/proc"):
            raise OSError(1, "failed to map segment from shared object")
        return path

    assert open_private(b"x", opened) == seen[1] and len(seen) == 2


def test_a_library_cut_anywhere_is_refused_before_it_is_loaded(small_bundle):
    data = (small_bundle / "lib" / "w8a8.so").read_bytes()
    require_whole(data)
    end = max(offset + stored for offset, stored in loaded_parts(data))
    for cut in [*range(0, 600, 7), *range(600, end, 997), end - 1]:
        with pytest.raises(ValueError, match="expected"):
            require_whole(data[:cut])


def loaded_parts(data):
    """(offset, size) of everything that is loaded, by another reader of ELF."""
    import struct

    begin, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for i in range(count):
        kind, _, offset, _, _, stored = struct.unpack_from("<IIQQQQ", data, begin + 56 * i)
        if kind == 1:
            yield offset, stored


def test_private_files_leave_no_descriptors():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        open_private(b"x", lambda path: None)
    with pytest.raises(KeyError):
        open_private(b"x", {}.__getitem__)
    assert len(os.listdir("/proc/self/fd")) == before
    assert private_file._unused_separator() != private_file._unused_separator()
