"""Weights come back from their packed form as they were, and lie where their segments say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compile.bundle.packing import pack
from runtime.abi import ALIGN
from runtime.bundle.segments import Segment
from runtime.bundle.weights import unpack, unpack_weights


@given(bits=st.integers(2, 8), count=st.integers(0, 70), data=st.data())
def test_unpack_is_the_inverse_of_pack(bits, count, data):
    half = 1 << (bits - 1)
    codes = np.array(data.draw(st.lists(st.integers(-half, half - 1), min_size=count, max_size=count)), np.int8)
    packed = pack(codes, bits)
    assert packed.size == -(-count * bits // 8)
    got = unpack(packed, count, bits)
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_unpack_by_the_definition(bits):
    """Every code of a width, at every position within bytes, read bit by bit from one large number."""
    stream = np.random.default_rng(bits).integers(0, 256, bits * 13, np.uint8)
    count, number = stream.size * 8 // bits, int.from_bytes(stream.tobytes(), "little")
    raw = [(number >> i * bits) & (1 << bits) - 1 for i in range(count)]
    expected = [v - (1 << bits) if v >> (bits - 1) else v for v in raw]
    np.testing.assert_array_equal(unpack(stream, count, bits), np.array(expected, np.int8))


@pytest.mark.parametrize("count, bits, size", [(5, 3, 1), (5, 3, 3), (5, 1, 1), (5, 9, 6), (-1, 4, 0)])
def test_unpack_refuses(count, bits, size):
    with pytest.raises(ValueError, match="expected"):
        unpack(np.zeros(size, np.uint8), count, bits)


def test_unpack_weights_puts_segments_in_place():
    first, second = np.arange(-8, 8, dtype=np.int8), np.array([1, -2, 0, -1, 1], np.int8)
    data = pack(first, 4).tobytes().ljust(64, b"\xff") + pack(second, 2).tobytes()
    segments = (Segment(64, 5, 2, 0), Segment(0, 16, 4, 64))
    got = unpack_weights(data, segments, 100)
    assert got.ctypes.data % ALIGN == 0
    np.testing.assert_array_equal(got, np.concatenate([second, np.zeros(59, np.int8), first, np.zeros(20, np.int8)]))
    for bad in (Segment(64, 9, 2, 0), Segment(0, 16, 4, 90)):
        with pytest.raises(ValueError, match="expected"):
            unpack_weights(data, (bad,), 100)
