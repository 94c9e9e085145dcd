"""A bundle is complete or not there at all, wherever it is made and whoever else builds."""

import json
import shutil

import pytest

from compile.bundle.writer import write_bundle
from runtime import open_bundle


def test_a_bundle_is_made_where_a_link_leads(small_bundle, tmp_path):
    """A new one, and one that replaces another; what a killed build left is no part of it."""
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    for _ in range(2):
        (tmp_path / ".real.partial").mkdir()
        (tmp_path / ".real.partial" / "left.bin").write_bytes(b"half")
        assert write_bundle(link, lambda folder: copied(small_bundle, folder)) == link
        assert link.is_symlink() and sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]
        assert open_bundle(real).manifest == open_bundle(small_bundle).manifest


def test_two_builds_into_one_place(small_bundle, tmp_path):
    def twice(folder):
        with pytest.raises(BlockingIOError, match="another build is at work"):
            write_bundle(tmp_path / "b", lambda folder: pytest.fail("it began"))
        return copied(small_bundle, folder)

    assert open_bundle(write_bundle(tmp_path / "b", twice)).manifest == open_bundle(small_bundle).manifest


def copied(bundle, folder):
    """Everything but the manifest, which is returned."""
    shutil.copytree(bundle, folder, dirs_exist_ok=True)
    (folder / "manifest.json").unlink()
    return json.loads((bundle / "manifest.json").read_text())
