"""Memory of an NVIDIA GPU through the driver's own library, by ctypes: neither CUDA toolkit nor torch is needed."""

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from runtime.abi import ALIGN, SLACK
from runtime.fields import BundleError

DRIVER = "libcuda.so.1"
_DEVICE = 0
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: compute capability
_KDL_CUDA = 2
_DL_CODES = {"i": 0, "u": 1}


class Driver:
    """The driver with device 0's primary context, the one that compiled libraries use too.

    Raises BundleError where the library cannot be opened or there is no GPU.
    """

    def __init__(self, library: str):
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise BundleError(
                f"expected NVIDIA's driver, but {library} cannot be opened ({error}); run it where "
                "there is an NVIDIA GPU. The bundle brings its source (lib/*.cu) and the commands that "
                "compile it there (lib/rebuild.sh)"
            ) from error
        self._call("cuInit", 0)
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), _DEVICE)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    def capability(self) -> int:
        """10 * major + minor, for example 87."""
        parts = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            parts.append(value.value)
        return 10 * parts[0] + parts[1]

    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode(errors="replace")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The context is the calling thread's; afterwards the one that it had is, another GPU's in torch, say."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device; at least 256-byte aligned."""
        pointer = ctypes.c_uint64()
        with self.entered():
            self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value

    def free(self, pointer: int) -> None:
        with self.entered():
            self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def upload(self, pointer: int, array: np.ndarray) -> None:
        """Copies a contiguous array to the device; returns when it may be reused."""
        source, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        with self.entered():
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(pointer), source, size)

    def download(self, pointer: int, array: np.ndarray) -> None:
        """Waits for the kernels launched before on the default stream, then copies into a contiguous array."""
        to, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        with self.entered():
            self._call("cuMemcpyDtoH_v2", to, ctypes.c_uint64(pointer), size)

    def _call(self, name: str, *arguments) -> None:
        code = getattr(self._lib, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorString(code, ctypes.byref(text))
            said = text.value.decode(errors="replace") if text.value else "no text"
            raise BundleError(
                f"expected {name} of NVIDIA's driver to succeed, got error {code} ({said}); "
                "check the GPU with nvidia-smi"
            )


@cache
def driver() -> Driver:
    """This process's driver; see Driver."""
    return Driver(DRIVER)


def features() -> frozenset[str]:
    """ "sm_NN" for every compute capability up to that of GPU 0, all of whose code it can run."""
    return frozenset(f"sm_{n}" for n in range(10, driver().capability() + 1))


def model() -> str:
    """The GPU's name."""
    return driver().name()


class _DLTensor(ctypes.Structure):
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
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_CAPSULE = b"dltensor"  # DLPack's name for a tensor that nobody has taken yet


@_Deleter
def _release(managed):
    ctypes.pythonapi.Py_DecRef(ctypes.cast(managed.contents.context, ctypes.py_object))


class DeviceTensor:
    """`count` values at an address of the GPU as DLPack offers them; whoever takes it keeps `owner` alive."""

    def __init__(self, owner: object, pointer: int, count: int, kind: np.dtype):
        self._owner, self._shape = owner, (ctypes.c_int64 * 1)(count)
        dtype = (_DL_CODES[kind.kind], 8 * kind.itemsize, 1)
        tensor = _DLTensor(pointer, _KDL_CUDA, _DEVICE, 1, *dtype, self._shape, None, 0)
        self._managed = _DLManagedTensor(tensor, id(self), _release)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _KDL_CUDA, _DEVICE

    def __dlpack__(self, **_):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # until the consumer calls _release
        return _new_capsule(ctypes.addressof(self._managed), _CAPSULE, None)


def foreign(pointer: int, count: int, dtype) -> DeviceTensor:
    """Somebody else's memory, who keeps it alive; raises ValueError for an address that kernels cannot use."""
    if pointer <= 0 or pointer % ALIGN:
        raise ValueError(
            f"expected the address of memory on the GPU, a multiple of {ALIGN}, got {pointer}; "
            "memory of cudaMalloc and of torch.empty is"
        )
    return DeviceTensor(None, pointer, count, np.dtype(dtype))


class DeviceBuffer:
    """[count] values of dtype on the GPU, zero at first, with a copy on this side; freed with the last reference."""

    def __init__(self, count: int, dtype):
        self._driver, self._host = driver(), np.zeros(count, dtype)
        self._pointer = self._driver.allocate(self._host.nbytes + SLACK)
        weakref.finalize(self, self._driver.free, self._pointer)
        self._driver.upload(self._pointer, self._host)

    def tensor(self, count: int) -> DeviceTensor:
        """The first `count` values."""
        return DeviceTensor(self, self._pointer, count, self._host.dtype)

    def write(self, values: np.ndarray) -> None:
        np.copyto(self._host, values)
        self._driver.upload(self._pointer, self._host)

    def read(self) -> np.ndarray:
        """A copy of the values, once every kernel launched before has ended."""
        self._driver.download(self._pointer, self._host)
        return self._host.copy()
