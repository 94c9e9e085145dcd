"""Files are read once and used as they were checked; whatever is no file of the bundle is refused at once."""

import os
import shutil

import numpy as np
import pytest

from runtime import BundleError, Engine, open_bundle
from tests.runtime.bundle.test_opened import listed
from tests.runtime.changes import read_manifest, refusal, rewrite, write_manifest

pytestmark = pytest.mark.slow

USED = ("weights.bin", "tables.bin", "golden.npz", "lib/w8a8.so", "lib/w4a4.so")


@pytest.fixture
def copy(small_bundle, tmp_path):
    return shutil.copytree(small_bundle, tmp_path / "copy")


@pytest.mark.parametrize("name", USED)
def test_every_used_file_must_be_listed(copy, name):
    manifest = read_manifest(copy)
    del manifest["files"][name]
    write_manifest(copy, manifest)
    assert f"expected {name} among the files" in refusal(copy)


def test_the_checked_bytes_are_the_used_ones(small_bundle, copy):
    """Also when another bundle is copied over this one in between."""
    with Engine(small_bundle) as engine:
        expected = engine.logits(np.zeros((16, 16, 3), np.uint8), "w8a8")
    from runtime.execution.library import Loaded

    bundle = open_bundle(copy)
    for name in USED:
        (copy / name).write_bytes(os.urandom(100))
    loaded = Loaded(bundle, bundle.variants)
    np.testing.assert_array_equal(loaded.run("w8a8", np.zeros((16, 16, 3), np.uint8)), expected)


def test_bytes_read_later_are_checked_then(copy):
    with Engine(copy) as engine:
        engine.bundle.golden()
        (copy / "golden.npz").write_bytes((copy / "golden.npz").read_bytes()[::-1])
        with pytest.raises(BundleError, match="golden.npz: its bytes changed"):
            engine.bundle.golden()
    unchecked = open_bundle(copy, verify=False)
    with pytest.raises(BundleError, match="golden.npz: its bytes changed"):
        unchecked.golden()


def test_an_engine_in_use_survives_files_that_shrink(copy):
    """No memory is mapped from a file of the bundle: cutting one would end the process with SIGBUS."""
    with Engine(copy) as engine:
        before = engine.infer(np.zeros((16, 16, 3), np.uint8)).logits
        for name in read_manifest(copy)["files"]:
            os.truncate(copy / name, 0)
        np.testing.assert_array_equal(engine.infer(np.ones((16, 16, 3), np.uint8) * 0).logits, before)
        with open("/proc/self/maps") as maps:
            assert str(copy) not in maps.read()


@pytest.mark.parametrize("name", [*USED, "onnx/w8a8.onnx"])
@pytest.mark.parametrize(
    "make, words",
    [
        (lambda p, _: p.symlink_to(p.name), "cannot read it (Too many levels of symbolic links)"),
        (lambda p, out: p.symlink_to(shutil.copy(out, out.parent / "away")), "expected a file inside the bundle"),
        (lambda p, _: os.mkfifo(p), "a folder, a pipe or a device"),
        (lambda p, _: p.mkdir(), "a folder, a pipe or a device"),
        (lambda p, _: p.symlink_to("/dev/zero"), "expected a file inside the bundle"),
    ],
    ids=["loop", "outside", "pipe", "folder", "device"],
)
def test_what_is_no_file_of_the_bundle_is_refused(copy, small_bundle, tmp_path, name, make, words):
    original = tmp_path / "original"
    (copy / name).rename(original)
    make(copy / name, original)
    message = refusal(copy)
    assert words in message and message.startswith(f"{copy}: {name}: expected a file")


def test_a_link_inside_is_a_file(copy):
    (copy / "weights.bin").rename(copy / "w")
    (copy / "weights.bin").symlink_to("w")
    open_bundle(copy)


def test_a_manifest_that_is_no_file_is_refused_at_once(copy, tmp_path):
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    assert "it is a folder, a pipe or a device" in refusal(copy)
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").symlink_to("manifest.json")
    assert "cannot be read" in refusal(copy)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "n" * 5000, "\x1b[31mred", "a\nb", "‮gnp"])
def test_odd_names_are_refused_in_printable_words(copy, name):
    manifest = read_manifest(copy)
    entry = listed(copy, "weights.bin")
    for change in (
        {"files": {**manifest["files"], name: entry}},
        {"golden": name},
        {"variants": [{**v, "library": name} for v in manifest["variants"]]},
        {"variants": [{**v, "bits": {name: None}} for v in manifest["variants"]]},
        {"variants": [{**v, "accuracy": {name: "much"}} for v in manifest["variants"]]},
        {"labels": [name] * 10},
    ):
        rewrite(copy, **{**manifest, **change})
        message = refusal(copy)
        assert message.isprintable() and len(message) < 2000


def test_a_name_of_many_letters_is_an_error_of_the_file_system(copy):
    rewrite(copy, files={**read_manifest(copy)["files"], "n" * 900: listed(copy, "weights.bin")})
    assert "cannot read it (File name too long)" in refusal(copy)


@pytest.mark.parametrize("bytes_", [1 << 31, 1 << 20])
def test_memory_that_nothing_fills_is_refused(copy, bytes_):
    manifest = read_manifest(copy)
    for variant in manifest["variants"]:
        for build in variant["builds"]:
            build["weights"]["bytes"] = bytes_
    write_manifest(copy, manifest)
    assert "that its segments fill" in refusal(copy)


def test_segments_that_overlap_are_refused(copy):
    manifest = read_manifest(copy)
    segments = manifest["variants"][0]["builds"][0]["weights"]["segments"]
    segments[1]["at"] = segments[0]["at"]
    write_manifest(copy, manifest)
    assert "segments one after another" in refusal(copy)


@pytest.mark.parametrize("field, change", [("workspace", -64), ("workspace", 64), ("table", -64)])
def test_sizes_that_the_code_does_not_take_are_refused_at_open(copy, field, change):
    manifest = read_manifest(copy)
    for build in manifest["variants"][1]["builds"]:
        if field == "table":
            build["table"]["bytes"] += change
        else:
            build[field] += change
    write_manifest(copy, manifest)
    with pytest.raises(BundleError, match="variant w4a4: expected code that takes the sizes"):
        Engine(copy)


def test_names_of_functions_are_tried_at_open(copy):
    manifest = read_manifest(copy)
    names = [build["parallel"] for build in manifest["variants"][0]["builds"]]
    for key, other in (("share", "serve"), ("serve", "share"), ("share", "main"), ("serve", "main")):
        for build, parallel in zip(manifest["variants"][0]["builds"], names, strict=True):
            build["parallel"] = {**parallel, key: build["function"] if other == "main" else parallel[other]}
        write_manifest(copy, manifest)
        with pytest.raises(BundleError, match="expected code that takes"):
            Engine(copy, threads=2)


def test_an_input_of_another_shape_is_refused_at_open(copy):
    rewrite(copy, input={**read_manifest(copy)["input"], "shape": [8, 32, 3]})
    assert "expected golden pictures uint8 [5, 8, 32, 3], got uint8 [5, 16, 16, 3]" in refusal(copy)
