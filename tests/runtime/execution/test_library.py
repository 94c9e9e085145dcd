"""Libraries are opened anew from where they lie now, and work in the memory of their family."""

import shutil

import numpy as np
import pytest

from runtime import BundleError, Engine, open_bundle
from runtime.execution import library
from runtime.machine import cuda
from targets.reference import interpreter
from tests.conftest import BITS
from tests.runtime.changes import read_manifest, write_manifest
from tests.support.fake_driver import array, live
from tests.support.graphs import pictures, resnet_like

tvm_ffi = pytest.importorskip("tvm_ffi")


@pytest.fixture(scope="module")
def graphs():
    return {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}


def test_a_bundle_built_anew_in_its_place_is_what_runs(small_bundle, tmp_path, graphs):
    """The dynamic linker knows libraries by name; an engine must not be handed the old one."""
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    x = pictures(graphs["w8a8"], 4, 1)
    with Engine(folder, variant="w8a8") as old:
        before = [old.infer(p).logits for p in x]
        shutil.rmtree(folder)
        shutil.copytree(small_bundle, folder)
        manifest = read_manifest(folder)
        files, (w8a8, w4a4, _) = dict(manifest["files"]), manifest["variants"]  # w8a8.so: the other network
        for name, source in (("w8a8.so", "w4a4.so"), ("w4a4.so", "w8a8.so")):
            shutil.copy(small_bundle / "lib" / source, folder / "lib" / name)
            manifest["files"][f"lib/{name}"] = files[f"lib/{source}"]
        w8a8["library"], w4a4["library"] = w4a4["library"], w8a8["library"]
        manifest["variants"] = [w8a8, w4a4]
        write_manifest(folder, manifest)
        with Engine(folder, variant="w4a4") as new:
            np.testing.assert_array_equal(
                np.stack([new.infer(p).logits for p in x]), interpreter.run(graphs["w4a4"], x)
            )
        np.testing.assert_array_equal(np.stack([old.infer(p).logits for p in x]), np.stack(before))


def test_a_library_that_is_none_is_refused(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = read_manifest(folder)
    manifest["variants"][0]["library"] = "tables.bin"
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match="tables.bin: expected a library, cannot load it"):
        Engine(folder)


def test_a_bundle_of_source_only_says_how_to_compile_it(small_bundle, tmp_path, driver):
    """A CUDA bundle may lack its libraries; what is compiled on the device counts once the manifest lists it."""
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = read_manifest(folder)
    entry = manifest["files"].pop("lib/w4a4.so")
    manifest["target"] |= {"family": "cuda", "levels": [{"name": "cuda", "requires": []}]}
    for variant in manifest["variants"]:
        variant["builds"] = [{**variant["builds"][0], "level": "cuda"}]
    manifest["look"]["builds"] = [{**manifest["look"]["builds"][0], "level": "cuda"}]
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match="expected the library lib/w4a4.so.*sh lib/rebuild.sh"):
        Engine(folder)
    manifest["files"]["lib/w4a4.so"] = entry
    write_manifest(folder, manifest)
    bundle = open_bundle(folder)
    assert bundle.library(bundle.variant("w4a4")) == (folder / "lib" / "w4a4.so").read_bytes()


def test_variants_run_over_device_memory(driver, fake, small_bundle, monkeypatch):
    """A function over the pointers it is given stands for a CUDA library: everything arrives, and the logits return."""
    bundle, seen = open_bundle(small_bundle), []

    def main(*tensors):
        assert all(str(t.device) == "cuda:0" for t in tensors)
        arrays = [array(t) for t in tensors]
        seen.append([a.copy() for a in arrays])
        arrays[4][:] = np.arange(10) * int(arrays[0].sum())

    monkeypatch.setitem(library._MEMORY, bundle.manifest.target.family, cuda.DeviceBuffer)
    monkeypatch.setattr(library, "open_library", lambda path, data: lambda name: main)
    before = live(fake)
    loaded = library.Loaded(bundle, bundle.variants)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for variant in bundle.variants:
        np.testing.assert_array_equal(loaded.run(variant.name, picture), np.arange(10) * int(picture.sum()))
        x, weights, table, workspace, _ = seen[-1]
        np.testing.assert_array_equal(x, picture.reshape(-1))
        build = bundle.build(variant, loaded.level)
        np.testing.assert_array_equal(weights, bundle.weights(build))
        np.testing.assert_array_equal(table, bundle.table(build))
        assert workspace.size == build.workspace
    assert live(fake) == before + 3 + 2 + 3  # picture, logits, workspace; weights of two kinds; three tables
    del loaded
    assert live(fake) == before


@pytest.fixture
def launched(driver, small_bundle, monkeypatch):
    """(engine over the stand-in's memory, what each call of a function got: addresses and the stream)."""
    calls = []

    def main(*tensors):
        stream = tvm_ffi.get_raw_stream(tvm_ffi.device("cuda", 0))
        calls.append(([t.data_ptr() for t in tensors], [(tuple(t.shape), str(t.dtype)) for t in tensors], stream))

    family = open_bundle(small_bundle).manifest.target.family
    monkeypatch.setitem(library._MEMORY, family, cuda.DeviceBuffer)
    monkeypatch.setattr(library, "open_library", lambda path, data: lambda name: main)
    with Engine(small_bundle) as engine:
        yield engine, calls


def test_launch_takes_addresses_and_a_stream(launched):
    """Picture and logits are the caller's, the rest is the engine's; the stream is set for that call alone."""
    engine, calls = launched
    name, other = list(engine.variants)[:2]
    engine.infer_batch([np.zeros((16, 16, 3), np.uint8)], variant=name)
    engine.launch(name, 1 << 20, 2 << 20, 0x57AE)
    engine.launch(other, 3 << 20, 4 << 20, 0)
    (own, shapes, default), (addresses, same, stream), (third, _, last) = calls
    assert (default, stream, last) == (0, 0x57AE, 0) and same == shapes
    assert addresses == [1 << 20, *own[1:4], 2 << 20] and third[0] == 3 << 20 and third[4] == 4 << 20
    assert shapes[0] == ((768,), "uint8") and shapes[4] == ((10,), "int32")


def test_infer_launches_on_the_stream_of_its_copies(launched):
    """Whatever stream the caller has set: copies wait for the default stream only, a result could come too early."""
    engine, calls = launched
    gpu = tvm_ffi.device("cuda", 0)
    with tvm_ffi.use_raw_stream(gpu, 0x57AE):
        engine.infer(np.zeros((16, 16, 3), np.uint8), variant=next(iter(engine.variants)))
        assert tvm_ffi.get_raw_stream(gpu) == 0x57AE
    assert [stream for _, _, stream in calls] == [0]


def test_launch_refuses_what_cannot_be(launched, small_bundle):
    engine, calls = launched
    name = next(iter(engine.variants))
    for picture_at, logits_at in ((0, 64), (64, 0), (1, 64), (64, 96), (-64, 64)):
        with pytest.raises(ValueError, match="expected the address of memory on the GPU, a multiple of 64"):
            engine.launch(name, picture_at, logits_at, 0)
    with pytest.raises(BundleError, match="expected a variant among"):
        engine.launch("none", 64, 64, 0)
    assert not calls
    engine.close()
    with pytest.raises(ValueError, match="expected an open engine"):
        engine.launch(name, 64, 64, 0)


def test_only_a_bundle_for_cuda_can_launch(small_bundle):
    with Engine(small_bundle) as engine, pytest.raises(ValueError, match="expected a bundle for CUDA"):
        engine.launch(next(iter(engine.variants)), 64, 64, 0)
