"""Buffers with pages before and behind them that end the process which touches them."""

import ctypes
import mmap

import numpy as np

from runtime.abi import ALIGN, SLACK


def guarded_buffer(count: int, dtype: "np.typing.DTypeLike") -> np.ndarray:
    """As runtime.abi.aligned_buffer: zeros [count], aligned; its SLACK bytes are the last that may be touched."""
    size = count * np.dtype(dtype).itemsize
    pages = -(-(size + SLACK) // mmap.PAGESIZE) + 2
    array = np.frombuffer(mmap.mmap(-1, pages * mmap.PAGESIZE), np.uint8)
    base, protect = array.ctypes.data, ctypes.CDLL(None, use_errno=True).mprotect
    for page in (0, pages - 1):
        if protect(ctypes.c_void_p(base + page * mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE), 0):
            raise MemoryError("no page could be protected")
    begin = (pages - 1) * mmap.PAGESIZE - SLACK - size & -ALIGN
    return array[begin : begin + size].view(dtype)
