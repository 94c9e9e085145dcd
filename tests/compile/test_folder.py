"""A bundle is complete or not there at all, wherever it is made and whoever else builds."""

import json
import shutil

import pytest

from compile.bundle.folder import new_bundle
from runtime import open_bundle


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
