"""GPU memory through a driver made of malloc and memcpy: what can be shown of it where there is no GPU."""

import ctypes
import gc

import numpy as np
import pytest

from runtime import BundleError
from runtime.machine import cuda
from tests.support.fake_driver import live

tvm_ffi = pytest.importorskip("tvm_ffi")


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
