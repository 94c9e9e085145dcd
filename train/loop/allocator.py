"""Freed memory stays with the process: a training step frees and asks for the same hundreds of megabytes again."""

import ctypes

# Of glibc's malloc.h. Its own thresholds hand most of a step's memory back to the kernel, which then clears every page
# anew: a sixth of the time of a fake-quantized step.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = (1 << 30, 1 << 25)  # bytes of a block that is kept; versions before 2.35 refuse more than the second


def keep_freed_memory() -> bool:
    """For the whole process and its lifetime; False where the C library has no such choice (all but glibc)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)) and any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST)
