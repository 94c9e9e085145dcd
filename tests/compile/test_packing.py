"""Packing of weight codes: every width, every code, and the runtime's reader gives back what the compiler wrote."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compile.bundle.packing import pack, packed_size
from runtime.bundle.weights import unpack


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_and_odd_counts(bits):
    codes = np.arange(-(1 << bits - 1), 1 << bits - 1).astype(np.int8)
    for count in (1, 2, 3, 5, 7, len(codes) * 3 - 1):
        some = np.resize(codes, count)
        packed = pack(some, bits)
        assert packed.dtype == np.uint8 and packed.size == packed_size(count, bits) == -(-count * bits // 8)
        np.testing.assert_array_equal(unpack(packed, count, bits), some)


@given(st.integers(2, 8), st.data())
def test_round_trip(bits, data):
    half = 1 << (bits - 1)
    codes = np.array(data.draw(st.lists(st.integers(-half, half - 1), max_size=200)), np.int8)
    np.testing.assert_array_equal(unpack(pack(codes, bits), codes.size, bits), codes)


def test_layout_is_the_documented_one():
    assert pack(np.array([1, -1, 0, -2], np.int8), 2).tolist() == [0b10001101]
    assert pack(np.array([1, -2], np.int8), 4).tolist() == [0xE1]
    assert pack(np.array([-1, 0, 3], np.int8), 3).tolist() == [0b11000111, 0b0]


@pytest.mark.parametrize("bits", range(2, 8))
def test_codes_that_do_not_fit_are_refused(bits):
    for code in (1 << (bits - 1), -(1 << (bits - 1)) - 1):
        with pytest.raises(ValueError, match=f"codes of {bits} bits"):
            pack(np.array([0, code], np.int8), bits)
