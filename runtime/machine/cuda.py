"""Reaches an NVIDIA GPU's memory through the driver's library, by ctypes: neither CUDA toolkit nor torch is needed."""

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from runtime.abi import ALIGN, SLACK
from runtime.fields import BundleError

DRIVER = "libcuda.so.1"
_DEVICE = 0
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: compute capability
_KDL_CUDA = 2  # DLPack's number for a CUDA device
_DL_CODES = {"i": 0, "u": 1}  # DLPack's numbers for signed and unsigned integers


class Driver:
    """NVIDIA's driver, with device 0's primary context: the one that compiled libraries use too.

    Raises BundleError where the library cannot be opened or there is no GPU; so does every method where a call fails.
    """

    def __init__(self, library: str) -> None:
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise BundleError(
                f"expected NVIDIA's driver, but {library} cannot be opened ({error}); run it where "
                "there is an NVIDIA GPU. The bundle brings its source (lib/*.cu) and the commands that "
                "compile it there (lib/rebuild.sh)"
            ) from error
        self._call("cuInit", 0)
        self._device = ctypes.c_int()
        self._context = ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), _DEVICE)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    def capability(self) -> int:
        """Returns the compute capability as 10 * major + minor, for example 87."""
        return 10 * self._attribute(_MAJOR) + self._attribute(_MINOR)

    def name(self) -> str:
        """Returns the GPU's name for people."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode(errors="replace")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Makes the context the calling thread's during the block; then the thread's own (torch's, say) comes back."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def allocate(self, size: int) -> int:
        """Returns the address of `size` new bytes on the device, a multiple of 256."""
        pointer = ctypes.c_uint64()
        with self.entered():
            self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value

    def free(self, pointer: int) -> None:
        """Frees what `allocate` returned."""
        with self.entered():
            self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def upload(self, pointer: int, array: np.ndarray) -> None:
        """Copies a contiguous array [...] to the device; returns when the array may be changed again."""
        source = ctypes.c_void_p(array.ctypes.data)
        with self.entered():
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(pointer), source, ctypes.c_size_t(array.nbytes))

    def download(self, pointer: int, array: np.ndarray) -> None:
        """Waits for the kernels launched before on the default stream, then copies into a contiguous array [...]."""
        destination = ctypes.c_void_p(array.ctypes.data)
        with self.entered():
            self._call("cuMemcpyDtoH_v2", destination, ctypes.c_uint64(pointer), ctypes.c_size_t(array.nbytes))

    def _attribute(self, attribute: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return value.value

    def _call(self, name: str, *arguments: object) -> None:
        """Calls a function of the driver; raises BundleError unless it returns 0."""
        code = getattr(self._lib, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorString(code, ctypes.byref(text))
            meaning = text.value.decode(errors="replace") if text.value else "no text"
            raise BundleError(
                f"expected {name} of NVIDIA's driver to succeed, got error {code} ({meaning}); "
                "check the GPU with nvidia-smi"
            )


@cache
def driver() -> Driver:
    """Returns this process's driver, opened at the first call. Raises BundleError as Driver does."""
    return Driver(DRIVER)


def features() -> frozenset[str]:
    """Returns "sm_NN" for every compute capability up to that of GPU 0, which can run the code of all of them."""
    return frozenset(f"sm_{n}" for n in range(10, driver().capability() + 1))


def model() -> str:
    """Returns the GPU's name for people."""
    return driver().name()


class _DLTensor(ctypes.Structure):
    """DLTensor of DLPack's C header."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    ]


class _DLManagedTensor(ctypes.Structure):
    """DLManagedTensor of DLPack's C header; its fields name the type itself, so they are set below."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_CAPSULE = b"dltensor"  # DLPack's name for a tensor that nobody has taken yet


@_Deleter
def _release(managed: Any) -> None:
    """Drops the reference that `__dlpack__` took; the tensor's consumer calls it."""
    ctypes.pythonapi.Py_DecRef(ctypes.cast(managed.contents.context, ctypes.py_object))


class DeviceTensor:
    """`count` values at an address of the GPU, as DLPack offers them; the consumer keeps `owner` alive."""

    def __init__(self, owner: object, pointer: int, count: int, dtype: np.dtype) -> None:
        self._owner = owner
        self._shape = (ctypes.c_int64 * 1)(count)
        code = _DL_CODES[dtype.kind]
        lanes = 1
        tensor = _DLTensor(pointer, _KDL_CUDA, _DEVICE, 1, code, 8 * dtype.itemsize, lanes, self._shape, None, 0)
        self._managed = _DLManagedTensor(tensor, id(self), _release)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _KDL_CUDA, _DEVICE

    def __dlpack__(self, **_: object) -> object:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # until the consumer calls _release
        return _new_capsule(ctypes.addressof(self._managed), _CAPSULE, None)


def wrap_address(pointer: int, count: int, dtype: "np.typing.DTypeLike") -> DeviceTensor:
    """Returns a tensor over memory that its owner keeps alive: `count` values of dtype at an address of the GPU.

    Raises ValueError for an address that kernels cannot use.
    """
    if pointer <= 0 or pointer % ALIGN:
        raise ValueError(
            f"expected the address of memory on the GPU, a multiple of {ALIGN}, got {pointer}; "
            "memory of cudaMalloc and of torch.empty is"
        )
    return DeviceTensor(None, pointer, count, np.dtype(dtype))


class DeviceBuffer:
    """[count] values of dtype on the GPU, zero at first, with a copy in host memory; freed with the last reference."""

    def __init__(self, count: int, dtype: "np.typing.DTypeLike") -> None:
        self._driver = driver()
        self._host = np.zeros(count, dtype)
        self._pointer = self._driver.allocate(self._host.nbytes + SLACK)
        weakref.finalize(self, self._driver.free, self._pointer)
        self._driver.upload(self._pointer, self._host)

    def tensor(self, count: int | None = None) -> DeviceTensor:
        """Returns a tensor over the first `count` values, [count], None for all."""
        return DeviceTensor(self, self._pointer, self._host.size if count is None else count, self._host.dtype)

    def write(self, values: np.ndarray) -> None:
        """Copies values [count] to the GPU."""
        np.copyto(self._host, values)
        self._driver.upload(self._pointer, self._host)

    def read(self) -> np.ndarray:
        """Returns a copy of the values [count], once every kernel launched before has ended."""
        self._driver.download(self._pointer, self._host)
        values: np.ndarray = self._host.copy()
        return values
