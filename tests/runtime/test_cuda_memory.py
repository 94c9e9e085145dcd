"""GPU memory through a driver made of malloc and memcpy: what can be shown of it where there is no GPU."""

import ctypes
import gc

import numpy as np
import pytest

from runtime import BundleError, Engine, open_bundle
from runtime.execution import library
from runtime.machine import cuda
from tests.support.fake_driver import array

tvm_ffi = pytest.importorskip("tvm_ffi")


def live(fake) -> int:
    return ctypes.CDLL(str(fake)).fake_live()


def test_no_driver_is_explained():
    with pytest.raises(BundleError, match="libabsent.so.1 cannot be opened.*NVIDIA GPU.*source"):
        cuda.Driver("libabsent.so.1")


def test_features_and_name(driver):
    assert driver.capability() == 87 and cuda.model() == "Fake GPU"
    assert {"sm_80", "sm_87"} <= cuda.features() and "sm_89" not in cuda.features()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
@pytest.mark.parametrize("count", [1, 63, 4096])
def test_up_and_down(driver, fake, dtype, count):
    info = np.iinfo(dtype)
    values = np.random.default_rng(count).integers(info.min, info.max, count, dtype, endpoint=True)
    before = live(fake)
    buffer = cuda.DeviceBuffer(count, dtype)
    assert not buffer.read().any() and live(fake) == before + 1
    buffer.write(values)
    np.testing.assert_array_equal(buffer.read(), values)
    tensor = tvm_ffi.from_dlpack(buffer.tensor(count))
    assert tuple(tensor.shape) == (count,) and str(tensor.dtype) == np.dtype(dtype).name
    assert str(tensor.device) == "cuda:0" and tensor.data_ptr() % 64 == 0
    del buffer
    gc.collect()
    assert live(fake) == before + 1  # the tensor keeps it
    del tensor
    assert live(fake) == before


def test_driver_errors_are_explained(driver, fake):
    ctypes.CDLL(str(fake)).fake_fail(2)
    with pytest.raises(BundleError, match=r"expected cuMemAlloc_v2 .* error 2 \(out of memory\).*nvidia-smi"):
        cuda.DeviceBuffer(10, np.uint8)
    with pytest.raises(BundleError, match="expected cuInit .* error 2"):
        cuda.Driver(str(fake))
    ctypes.CDLL(str(fake)).fake_fail(999)
    with pytest.raises(BundleError, match=r"error 999 \(no text\)"):
        cuda.Driver(str(fake))


def test_the_callers_context_stays(driver, fake):
    """Another library's context, of another GPU say, is the thread's again after every call, one that fails too."""
    library = ctypes.CDLL(str(fake))
    library.fake_context.restype = ctypes.c_void_p
    library.fake_set_context(ctypes.c_void_p(0xF0E))
    buffer = cuda.DeviceBuffer(10, np.int32)
    buffer.write(np.arange(10, dtype=np.int32))
    assert buffer.read()[9] == 9 and library.fake_context() == 0xF0E
    library.fake_fail(2)
    with pytest.raises(BundleError):
        driver.allocate(10)
    del buffer
    gc.collect()
    assert library.fake_context() == 0xF0E and library.fake_depth() == 0
    library.fake_set_context(None)


def test_variants_run_over_device_memory(driver, fake, small_bundle, monkeypatch):
    """A function over the pointers it is given stands for a CUDA library: everything arrives, and the logits return."""
    bundle, seen = open_bundle(small_bundle), []

    def main(*tensors):
        assert all(str(t.device) == "cuda:0" for t in tensors)
        arrays = [array(t) for t in tensors]
        seen.append([a.copy() for a in arrays])
        arrays[4][:] = np.arange(10) * int(arrays[0].sum())

    monkeypatch.setitem(library._MEMORY, bundle.manifest.target.family, cuda.DeviceBuffer)
    monkeypatch.setattr(library, "open_library", lambda path: lambda name: main)
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
    monkeypatch.setattr(library, "open_library", lambda path: lambda name: main)
    with Engine(small_bundle) as engine:
        yield engine, calls


def test_launch_takes_addresses_and_a_stream(launched):
    """Picture and logits are the caller's, the rest is the engine's; the stream is set for that call alone."""
    engine, calls = launched
    name, other = list(engine.variants)[:2]
    engine.infer_batch([np.zeros((16, 16, 3), np.uint8)], variant=name)
    engine.launch(name, 1 << 20, 2 << 20, 0x57AE)
    engine.launch(other, 3 << 20, 4 << 20, 0)
    (own, shapes, default), (given, same, stream), (third, _, last) = calls
    assert (default, stream, last) == (0, 0x57AE, 0) and same == shapes
    assert given == [1 << 20, *own[1:4], 2 << 20] and third[0] == 3 << 20 and third[4] == 4 << 20
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
    for pictures, logits in ((0, 64), (64, 0), (1, 64), (64, 96), (-64, 64)):
        with pytest.raises(ValueError, match="expected the address of memory on the GPU, a multiple of 64"):
            engine.launch(name, pictures, logits, 0)
    with pytest.raises(BundleError, match="expected a variant among"):
        engine.launch("none", 64, 64, 0)
    assert not calls
    engine.close()
    with pytest.raises(ValueError, match="expected an open engine"):
        engine.launch(name, 64, 64, 0)


def test_only_a_bundle_for_cuda_can_launch(small_bundle):
    with Engine(small_bundle) as engine, pytest.raises(ValueError, match="expected a bundle for CUDA"):
        engine.launch(next(iter(engine.variants)), 64, 64, 0)
