"""Bundles on disk: what opens, what is refused and how, and weights that come back from their packed form."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compile.bundle.packing import pack
from runtime import BundleError, open_bundle
from runtime.abi import ALIGN, aligned_buffer
from runtime.bundle import opened as bundles
from runtime.bundle.manifest import signed
from runtime.bundle.opened import newest_bundle
from runtime.bundle.segments import Segment
from runtime.bundle.weights import read_weights, unpack
from runtime.machine import cpu, cuda


@pytest.fixture
def copy(small_bundle, tmp_path):
    return shutil.copytree(small_bundle, tmp_path / "copy")


def rewrite(folder, **changes):
    """Changes fields of the manifest; a key a__b is field b of field a."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        at = manifest
        for part in path:
            at = at[part]
        at[last] = value
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))


def listed(folder, name) -> dict:
    """The entry of a file as it is now."""
    data = (folder / name).read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def refusal(folder, **options) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, **options)
    assert str(folder) in str(caught.value)
    return str(caught.value)


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


@pytest.mark.parametrize("version, words", [(5, "update bitgrade"), (99, "update bitgrade"), (3, "build the bundle")])
def test_another_format(copy, version, words):
    rewrite(copy, format=version)
    message = refusal(copy)
    assert f"expected format 4, got format {version}" in message and words in message


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
    levels = json.loads((copy / "manifest.json").read_text())["target"]["levels"]
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
    manifest = json.loads((copy / "manifest.json").read_text())
    rewrite(copy, golden=path)
    refusal(copy)
    rewrite(copy, golden="golden.npz", files={**manifest["files"], path: manifest["files"]["golden.npz"]})
    refusal(copy)


def test_links_stay_inside(copy, tmp_path):
    (copy / "golden.npz").rename(tmp_path / "elsewhere.npz")
    (copy / "golden.npz").symlink_to(tmp_path / "elsewhere.npz")
    assert "expected a file inside the bundle" in refusal(copy)


@pytest.mark.parametrize("own", ["0.5", -1, float("nan"), float("inf"), True, [0.5], {}])
def test_an_own_budget_that_is_none(copy, own):
    rewrite(copy, budget=own)
    assert "budget" in refusal(copy)
    rewrite(copy, budget=0.5)
    assert open_bundle(copy).manifest.budget == 0.5
    rewrite(copy, selector={})  # and no table of budgets
    assert "expected a table of budgets" in refusal(copy)


def test_an_input_too_small_for_the_selector(copy):
    rewrite(copy, input__shape=[7, 16, 3])
    open_bundle(copy)
    rewrite(copy, selector={})
    assert "expected an input of 8 pixels a side or more" in refusal(copy)


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
        rewrite(copy, files={name: listed(copy, name) for name in ("golden.npz", "weights.bin", "tables.bin")})
        with pytest.raises(BundleError, match="expected golden"):
            open_bundle(copy).golden()


@given(bits=st.integers(2, 8), count=st.integers(0, 70), data=st.data())
def test_unpack_is_the_inverse_of_pack(bits, count, data):
    half = 1 << (bits - 1)
    codes = np.array(data.draw(st.lists(st.integers(-half, half - 1), min_size=count, max_size=count)), np.int8)
    packed = pack(codes, bits)
    assert packed.size == -(-count * bits // 8)
    got = unpack(packed, count, bits)
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_unpack_by_the_definition(bits):
    """Every code of a width, at every position within bytes, read bit by bit from one large number."""
    stream = np.random.default_rng(bits).integers(0, 256, bits * 13, np.uint8)
    count, number = stream.size * 8 // bits, int.from_bytes(stream.tobytes(), "little")
    raw = [(number >> i * bits) & (1 << bits) - 1 for i in range(count)]
    expected = [v - (1 << bits) if v >> (bits - 1) else v for v in raw]
    np.testing.assert_array_equal(unpack(stream, count, bits), np.array(expected, np.int8))


@pytest.mark.parametrize("count, bits, size", [(5, 3, 1), (5, 3, 3), (5, 1, 1), (5, 9, 6), (-1, 4, 0)])
def test_unpack_refuses(count, bits, size):
    with pytest.raises(ValueError, match="expected"):
        unpack(np.zeros(size, np.uint8), count, bits)


@given(count=st.integers(0, 300), dtype=st.sampled_from([np.uint8, np.int8, np.int32]))
def test_buffers_are_aligned(count, dtype):
    held = [aligned_buffer(count, dtype) for _ in range(3)]
    for buffer in held:
        assert buffer.shape == (count,) and buffer.dtype == dtype and not buffer.any()
        assert buffer.flags.writeable and (count == 0 or buffer.ctypes.data % ALIGN == 0)


def test_read_weights_puts_segments_in_place(tmp_path):
    first, second = np.arange(-8, 8, dtype=np.int8), np.array([1, -2, 0, -1, 1], np.int8)
    (tmp_path / "w").write_bytes(pack(first, 4).tobytes().ljust(64, b"\xff") + pack(second, 2).tobytes())
    segments = (Segment(64, 5, 2, 0), Segment(0, 16, 4, 64))
    got = read_weights(tmp_path / "w", segments, 100)
    assert got.ctypes.data % ALIGN == 0
    np.testing.assert_array_equal(got, np.concatenate([second, np.zeros(59, np.int8), first, np.zeros(20, np.int8)]))
    for bad in (Segment(64, 9, 2, 0), Segment(0, 16, 4, 90)):
        with pytest.raises(ValueError, match="expected"):
            read_weights(tmp_path / "w", (bad,), 100)


def test_newest_bundle(small_bundle, tmp_path):
    root = tmp_path / "bundles"
    with pytest.raises(BundleError, match="expected a bundle there, found none"):
        newest_bundle(root)
    for age, name in enumerate(("b", "c", "a", ".partial")):
        shutil.copytree(small_bundle, root / name)
        os.utime(root / name / "manifest.json", (1e9 + age, 1e9 + age))
    assert newest_bundle(root) == root / "a"


def test_processor_features():
    assert cpu.x86_features("flags\t\t: fpu avx2 fma\nx: y\nflags : avx2 sse\n") == {"avx2"}
    assert cpu.x86_features("") == frozenset()
    assert cpu.arm_features(1 << 1 | 1 << 20, 1 << 13) == {"asimd", "asimddp", "i8mm"}
    assert cpu.arm_features(0, 0) == frozenset()
    assert set(bundles._PROCESSORS) == {"x86", "arm", "cuda"}
    if cpu.machine() == "x86_64":
        assert {"sse2", "fpu"} <= cpu.features()
    assert cpu.model()
