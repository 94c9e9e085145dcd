"""Golden data: what numpy writes is read, and any damage is one error, at once and without memory."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bundle.golden import GoldenError, GoldenFile


def packed(save=np.savez_compressed, **arrays) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def member(text: bytes, values: bytes = b"", version: bytes = b"\x01\x00", method=zipfile.ZIP_DEFLATED) -> bytes:
    """An .npz whose one array "x" has this header."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + values)
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["u1", "<i4", "<i8"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 3), (7,), (1, 1), (), (0, 3)])
def test_arrays_come_back(save, dtype, shape):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    for stored in (array, array.copy("F")):
        file = GoldenFile(packed(save, x=stored))
        assert file.header("x").shape == shape and file.header("x").dtype == array.dtype
        np.testing.assert_array_equal(file.read("x"), array)


HEADER = "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }"


@pytest.mark.parametrize(
    "text",
    [
        HEADER.replace("(2, 3)", "(1000000000000, 3)"),
        HEADER.replace("(2, 3)", "(99999999999999999999999999, 3)"),
        HEADER.replace("(2, 3)", "(-2, -3)"),
        HEADER.replace("<i4", "|O"),
        HEADER.replace("<i4", "<f4"),
        HEADER[:30],
        HEADER.replace("(2, 3)", "(" * 5000),
        "(" * 9000,
        "__import__('os')",
        "{'descr': '<i4'",
        "'''",
        "",
    ],
)
def test_headers_that_numpy_did_not_write_are_refused(text):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with pytest.raises(GoldenError):
            GoldenFile(member(text.encode() + b"\n", bytes(24), method=method)).header("x")
    GoldenFile(member(HEADER.encode() + b"\n", bytes(24))).header("x")
    with pytest.raises(GoldenError):
        GoldenFile(member(HEADER.encode() + b"\n", bytes(24), version=b"\x02\x00")).header("x")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_refused(method):
    with pytest.raises(GoldenError, match="packed as numpy packs none"):
        GoldenFile(member(HEADER.encode() + b"\n", bytes(24), method=method)).read("x")


def test_an_encrypted_member_is_refused():
    data = bytearray(member(HEADER.encode() + b"\n", bytes(24)))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    with pytest.raises(GoldenError, match="encrypted"):
        GoldenFile(bytes(data)).read("x")


def test_looking_at_a_bomb_costs_no_memory():
    """256 MB of zeros are 250 kB of file; their header is all that is unpacked."""
    data = packed(x=np.zeros((1 << 28,), np.uint8))
    tracemalloc.start()
    assert GoldenFile(data).header("x").bytes == 1 << 28
    assert tracemalloc.get_traced_memory()[1] < 1 << 21
    tracemalloc.stop()


@given(st.data())
def test_any_damage_is_one_error(data):
    array = np.arange(60, dtype=np.int32).reshape(5, 12)
    sound = packed(data.draw(st.sampled_from([np.savez, np.savez_compressed])), x=array)
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged)[: data.draw(st.integers(0, len(sound)))] if data.draw(st.booleans()) else bytes(damaged)
    try:
        read = GoldenFile(damaged).read("x")
    except GoldenError as error:
        assert "object at" not in str(error)
    else:
        assert read.dtype.kind in "iu"
