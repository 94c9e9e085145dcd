"""Keeps freed memory in the process: a training step frees and asks for the same hundreds of megabytes again."""

import ctypes

# Parameters of mallopt in glibc's malloc.h. glibc's own thresholds hand most of a step's memory back to the kernel,
# which then clears every page anew: a sixth of the time of a fake-quantized step.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
NEVER_TRIM = (1 << 31) - 1  # bytes
LARGEST_BLOCKS = (1 << 30, 1 << 25)  # bytes of a block that is kept; glibc before 2.35 refuses the first


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory for the process's lifetime; returns False where it is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    keeps_heap = bool(mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
    return keeps_heap and any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_BLOCKS)
