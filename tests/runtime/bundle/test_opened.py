"""Bundles on disk: what opens, what is refused and how, and weights that come back from their packed form."""

import hashlib
import os
import shutil

import numpy as np
import pytest

from runtime import BundleError, open_bundle
from runtime.bundle.opened import newest_bundle
from runtime.machine import cpu, cuda
from tests.runtime.changes import read_manifest, refusal, rewrite


@pytest.fixture
def copy(small_bundle, tmp_path):
    return shutil.copytree(small_bundle, tmp_path / "copy")


def listed(folder, name) -> dict:
    """The entry of a file as it is now."""
    data = (folder / name).read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_opens(small_bundle):
    bundle = open_bundle(str(small_bundle))
    assert [v.name for v in bundle.variants] == ["w8a8", "w4a4", "again"]
    assert bundle.manifest.shape == (16, 16, 3) and len(bundle.manifest.labels) == 10
    assert bundle.variant("again").builds == bundle.variant("w8a8").builds
    assert [b.level for b in bundle.variant("w8a8").builds] == [v.name for v in bundle.manifest.target.levels]
    assert bundle.variant("w4a4").bytes < bundle.variant("w8a8").bytes


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda p: None, "this path is missing"),
        (lambda p: p.mkdir(), "this is a folder without it"),
        (lambda p: p.write_text("hello"), "this is a file"),
    ],
)
def test_not_a_bundle(tmp_path, make, words):
    make(tmp_path / "x")
    message = refusal(tmp_path / "x")
    assert words in message and "python -m compile.build" in message


@pytest.mark.parametrize("version, words", [(6, "update bitgrade"), (99, "update bitgrade"), (4, "build the bundle")])
def test_another_format(copy, version, words):
    rewrite(copy, format=version)
    message = refusal(copy)
    assert f"expected format 5, got format {version}" in message and words in message


def test_every_missing_file_and_every_changed_byte(small_bundle, copy):
    files = open_bundle(small_bundle).manifest.files
    assert {"weights.bin", "tables.bin", "golden.npz", "lib/w8a8.so", "lib/w4a4.so", "onnx/w8a8.onnx"} <= set(files)
    for name in files:
        data = (copy / name).read_bytes()
        (copy / name).unlink()
        assert f"{name}: expected this file, it is missing" in refusal(copy)
        (copy / name).write_bytes(data + b"x")
        assert f"{name}: expected {len(data)} bytes, got {len(data) + 1}" in refusal(copy)
        (copy / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
        assert f"{name}: its bytes changed" in refusal(copy) and "copy the whole bundle folder" in refusal(copy)
        open_bundle(copy, verify=False)
        (copy / name).write_bytes(data)
    open_bundle(copy)


def test_another_machine(copy):
    rewrite(copy, target__machine="riscv64")
    assert f"expected a machine of riscv64, this one is {cpu.machine()}" in refusal(copy)
    open_bundle(copy, here=False)


def test_missing_features(copy):
    levels = read_manifest(copy)["target"]["levels"]
    for level, lacking in zip(levels, (["fpu64", "asimdquantum"], ["fpu128"], ["fpu256"]), strict=False):
        level["requires"] += lacking
    rewrite(copy, target__levels=levels)
    message = refusal(copy)
    assert "lacks " in message and "asimdquantum, fpu64" in message and "compile.build" in message
    for level in levels:
        assert f"{level['name']} needs {', '.join(level['requires'])}" in message
    open_bundle(copy, here=False)
    with pytest.raises(BundleError, match="fpu64"):
        open_bundle(copy, here=False).level()


def test_unknown_family(copy):
    rewrite(copy, target__family="tpu")
    assert "expected a family among x86, arm, cuda, got tpu" in refusal(copy)


def test_no_driver(copy, monkeypatch):
    monkeypatch.setattr(cuda, "DRIVER", "libno_such_driver.so.1")
    cuda.driver.cache_clear()
    rewrite(copy, target__family="cuda")
    message = refusal(copy)
    assert "libno_such_driver.so.1 cannot be opened" in message and "lib/*.cu" in message


@pytest.mark.parametrize("path", ["../weights.bin", "/etc/passwd", "lib/../../x", "a\\b", "lib//x", "./x", ""])
def test_paths_stay_inside(copy, path):
    manifest = read_manifest(copy)
    rewrite(copy, golden=path)
    refusal(copy)
    rewrite(copy, golden="golden.npz", files={**manifest["files"], path: manifest["files"]["golden.npz"]})
    refusal(copy)


def test_links_stay_inside(copy, tmp_path):
    (copy / "golden.npz").rename(tmp_path / "elsewhere.npz")
    (copy / "golden.npz").symlink_to(tmp_path / "elsewhere.npz")
    assert "expected a file inside the bundle" in refusal(copy)


@pytest.mark.parametrize("count", [1, 9, 11])
def test_a_label_for_each_logit(copy, count):
    rewrite(copy, labels=[f"class {i}" for i in range(count)])
    assert f"w8a8 int32 [5, {count}], got int32 [5, 10]" in refusal(copy)


def test_damaged_golden_data(copy):
    good = dict(np.load(copy / "golden.npz"))
    damages = [b"PK nonsense", b"", (copy / "golden.npz").read_bytes()[:-40]]
    for name, array in (
        ("images", good["images"][0]),
        ("logits_w4a4", good["logits_w4a4"][:2]),
        ("logits_w8a8", good["logits_w8a8"].astype(np.float32)),
        ("images", np.array([None])),
    ):
        np.savez(copy / "x.npz", **{**good, name: array})
        damages.append((copy / "x.npz").read_bytes())
    np.savez(copy / "x.npz", images=good["images"])
    for data in [*damages, (copy / "x.npz").read_bytes()]:
        (copy / "golden.npz").write_bytes(data)
        rewrite(copy, files={**read_manifest(copy)["files"], "golden.npz": listed(copy, "golden.npz")})
        with pytest.raises(BundleError, match="expected golden"):
            open_bundle(copy).golden()


def test_newest_bundle(small_bundle, tmp_path):
    root = tmp_path / "bundles"
    with pytest.raises(BundleError, match="expected a bundle there, found none"):
        newest_bundle(root)
    for age, name in enumerate(("b", "c", "a", ".partial")):
        shutil.copytree(small_bundle, root / name)
        os.utime(root / name / "manifest.json", (1e9 + age, 1e9 + age))
    assert newest_bundle(root) == root / "a"
