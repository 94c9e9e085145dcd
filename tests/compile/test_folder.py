"""A bundle is complete or not there at all, wherever it is made and whoever else builds."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest

from compile.bundle.folder import new_bundle
from compile.bundle.libraries import Libraries
from runtime import open_bundle
from targets import find


def test_a_bundle_is_made_where_a_link_leads(small_bundle, tmp_path):
    """A new one, and one that replaces another; what a killed build left is no part of it."""
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    for _ in range(2):
        (tmp_path / ".real.partial").mkdir()
        (tmp_path / ".real.partial" / "left.bin").write_bytes(b"half")
        with new_bundle(link) as folder:
            shutil.copytree(small_bundle, folder, dirs_exist_ok=True)
        assert link.is_symlink() and sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]
        assert not (real / "left.bin").exists()
        assert open_bundle(real).manifest == open_bundle(small_bundle).manifest


def test_two_builds_into_one_place(small_bundle, tmp_path):
    with new_bundle(tmp_path / "b") as folder:
        with pytest.raises(BlockingIOError, match="another build is at work"):
            with new_bundle(tmp_path / "b"):
                pytest.fail("it began")
        shutil.copytree(small_bundle, folder, dirs_exist_ok=True)
    assert open_bundle(tmp_path / "b").manifest == open_bundle(small_bundle).manifest


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        with new_bundle(tmp_path / "b") as folder:
            (folder / "half.bin").write_bytes(b"half")
            raise error
    assert not list(tmp_path.iterdir())


def test_a_file_that_the_manifest_does_not_list_is_not_lost(small_bundle, tmp_path):
    shutil.copytree(small_bundle, tmp_path / "b")
    listed = json.loads((tmp_path / "b" / "manifest.json").read_text())["files"]
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="nothing else in it"):
        with new_bundle(tmp_path / "b"):
            pytest.fail("it began")
    assert "notes.txt" not in listed and (tmp_path / "b" / "notes.txt").read_text() == "mine"


def test_a_build_killed_between_two_renames_loses_nothing(small_bundle, tmp_path, monkeypatch):
    """The old bundle is back at the next build, before anything is made, and stays where that fails."""
    place = tmp_path / "b"
    shutil.copytree(small_bundle, place)
    rename, renamed = os.rename, []

    def rename_once(source, target):
        if renamed:
            raise KeyboardInterrupt("killed")
        renamed.append(rename(source, target))

    monkeypatch.setattr(os, "rename", rename_once)
    with pytest.raises(KeyboardInterrupt), new_bundle(place) as folder:
        shutil.copytree(small_bundle, folder, dirs_exist_ok=True)
    monkeypatch.setattr(os, "rename", rename)
    assert not place.exists() and open_bundle(tmp_path / ".b.old")
    with pytest.raises(ValueError), new_bundle(place):
        assert open_bundle(place).manifest == open_bundle(small_bundle).manifest
        raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == ["b"] and open_bundle(place)


def test_what_is_no_bundle_is_not_brought_back(small_bundle, tmp_path):
    (tmp_path / ".b.old").mkdir()
    (tmp_path / ".b.old" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError), new_bundle(tmp_path / "b"):
        raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == [".b.old"]


def test_everything_is_on_disk_before_the_old_bundle_goes(small_bundle, tmp_path, monkeypatch):
    shutil.copytree(small_bundle, tmp_path / "b")
    synced = []
    monkeypatch.setattr("compile.bundle.folder.sync", lambda path: synced.append((path, (tmp_path / "b").exists())))
    with new_bundle(tmp_path / "b") as folder:
        shutil.copytree(small_bundle, folder, dirs_exist_ok=True)
        files = set(folder.rglob("*")) | {folder}
    assert {path for path, _ in synced} == files | {tmp_path} and all(old_is_there for _, old_is_there in synced)


def test_libraries_of_the_same_bytes_are_one_file(tmp_path, monkeypatch):
    """Their code may differ in what leaves no trace, as a declared length does."""
    target = find("x86:avx2")
    libraries = Libraries(target, tmp_path)
    contents = {"a": b"code", "b": b"other", "c": b"code"}

    def build(modules, target, library, workdir, source_only):
        library.write_bytes(contents[library.stem])
        library.with_suffix(".cu").write_bytes(b"source")
        return {"command": library.name}

    monkeypatch.setattr(libraries, "_family", SimpleNamespace(build=build))
    monkeypatch.setattr("compile.bundle.libraries.StructuralKey", lambda module: module)
    modules = {name: [SimpleNamespace(module=name)] for name in contents}
    assert [libraries.add(name, modules[name]) for name in "abcca"] == [f"lib/{n}.so" for n in "abaaa"]
    assert sorted(p.name for p in (tmp_path / "lib").iterdir()) == ["a.cu", "a.so", "b.cu", "b.so"]
    assert list(libraries.facts) == ["lib/a.so", "lib/b.so"]
