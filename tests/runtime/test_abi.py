"""Buffers for compiled code lie where its vector loads need them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.abi import ALIGN, aligned_buffer


@given(count=st.integers(0, 300), dtype=st.sampled_from([np.uint8, np.int8, np.int32]))
def test_buffers_are_aligned(count, dtype):
    held = [aligned_buffer(count, dtype) for _ in range(3)]
    for buffer in held:
        assert buffer.shape == (count,) and buffer.dtype == dtype and not buffer.any()
        assert buffer.flags.writeable and (count == 0 or buffer.ctypes.data % ALIGN == 0)
