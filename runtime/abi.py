"""Defines how compiled code is called: its buffers, their alignment, and the words that its threads share.

A variant's `main` takes five flat buffers, in the order of BUFFERS, and writes the logits. `share` takes the same five
and the control block, and `serve` the control block alone (targets/library/threads.py emits both).
"""

import numpy as np

# name -> dtype of the buffers of `main`, in the order of its parameters
BUFFERS = {"picture": "uint8", "weights": "int8", "table": "int32", "workspace": "uint8", "logits": "int32"}
# The same of the functions of a bundle's look, its library `look` (targets/cpu/look):
CHOOSE = {"picture": "uint8", "table": "int32", "workspace": "uint8", "answer": "int64"}  # variant, then its features
RANK = {"logits": "int32", "answer": "int64"}  # index of the first largest logit, its distance to the second largest
PLAN = {"size": "int32", "filters": "int32"}  # [height, width] of a picture to be resized
RESIZE = {"source": "uint8", "size": "int32", "filters": "int32", "row": "int32", "picture": "uint8"}
PRICE_WORDS = 16  # that a table of CHOOSE begins with; the first two are the price, int64, lower half first
ALIGN = 64  # bytes: kernels load aligned vectors, so a buffer at any other address ends the process
SLACK = 64  # bytes past the end of a buffer that vector loads may reach

# Words of the control block, int64 each. Every word that threads write has a cache line (8 words) of its own.
OPEN = 0  # position of the first chunk of the inference that is under way or was the last; -1 while that changes
FUNCTION, ARGUMENTS = 8, 9  # what helpers call for it, by TVMFFIFunctionCall
CLAIMED, DONE = 16, 24  # positions
SLEEPERS, SEMAPHORE = 32, 40  # helpers that wait for the semaphore (a sem_t, at most 4 words)
STOP = 48  # 1: helpers end
THREADS, CHUNKS = 56, 57  # number of threads; most chunks of a kernel, a multiple of the number of threads
SPIN = 58  # nanoseconds for which helpers look for work before they sleep
CONTROL = 64  # words of the whole block


def aligned(size: int) -> int:
    """Returns the smallest multiple of ALIGN that is at least `size`, both in bytes."""
    return -(-size // ALIGN) * ALIGN


def aligned_buffer(count: int, dtype: "np.typing.DTypeLike") -> np.ndarray:
    """Returns zeros [count] of dtype, writable, at a multiple of ALIGN bytes, with SLACK readable bytes behind."""
    size = count * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGN + SLACK, np.uint8)
    begin = -memory.ctypes.data % ALIGN
    return memory[begin : begin + size].view(dtype)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """Returns the values of an array [n] where compiled code may read them; see `aligned_buffer`."""
    copy = aligned_buffer(array.size, array.dtype)
    copy[:] = array
    return copy


def price_words(lam: float) -> np.ndarray:
    """Returns int32 [2]: what a table of CHOOSE begins with at the price `lam`, accuracy per unit of cost."""
    return np.array([round(lam * (1 << 16))], "<i8").view("<i4").astype(np.int32)


def filter_words(old: int, new: int) -> int:
    """Returns the words of the filter of one new place, of a side of `old` pixels resized to `new`."""
    return 2 + 2 * -(-max(old, new) // new) + 1
