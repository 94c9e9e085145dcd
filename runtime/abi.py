"""How compiled code is called: the buffers it takes, where they must lie, and the words that its threads share.

A variant's `main` takes five flat buffers, in the order of BUFFERS, and writes the logits. `share` takes the same five
and the control block, and `serve` the control block alone (targets/library/threads.py emits both).
"""

import numpy as np

# name -> dtype of main's buffers, in the order in which it takes them
BUFFERS = {"picture": "uint8", "weights": "int8", "table": "int32", "workspace": "uint8", "logits": "int32"}
ALIGN = 64  # bytes: kernels load aligned vectors, so a buffer at any other address ends the process
SLACK = 64  # bytes past the end of a buffer that vector loads may reach

# Words of the control block, int64 each; every word that threads write has a line of the cache for itself.
OPEN = 0  # position of the first chunk of the inference under way or last done; -1 while that changes
FUNCTION, ARGUMENTS = 8, 9  # what helpers call for it, by TVMFFIFunctionCall
CLAIMED, DONE = 16, 24  # positions
SLEEPERS, SEMAPHORE = 32, 40  # helpers that wait for the semaphore (a sem_t, at most 4 words)
STOP = 48  # 1: helpers end
THREADS, CHUNKS = 56, 57  # how many threads there are; at most so many chunks a kernel, a multiple of that
SPIN = 58  # nanoseconds that helpers look out for work before they sleep
CONTROL = 64  # words of the whole block


def aligned(size: int) -> int:
    """The smallest multiple of ALIGN that is at least `size`, both in bytes."""
    return -(-size // ALIGN) * ALIGN


def aligned_buffer(count: int, dtype: np.typing.DTypeLike) -> np.ndarray:
    """Returns zeros [count] of dtype, writable, at a multiple of ALIGN bytes, with SLACK readable bytes behind."""
    size = count * np.dtype(dtype).itemsize
    room = np.zeros(size + ALIGN + SLACK, np.uint8)
    begin = -room.ctypes.data % ALIGN
    return room[begin : begin + size].view(dtype)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """Returns the values of an array [n] where compiled code may read them; see `aligned_buffer`."""
    copy = aligned_buffer(array.size, array.dtype)
    copy[:] = array
    return copy
