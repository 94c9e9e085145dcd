"""Reads golden data: an .npz file whose arrays are looked at by their headers first, so that damage costs no memory."""

import io
import math
import re
import struct
import zipfile
from dataclasses import dataclass

import numpy as np

from runtime.fields import abbreviate

MOST_BYTES = 1 << 28  # of all golden arrays of a bundle together
_PREFIX = struct.Struct("<8sH")  # numpy's signature with the version of its format, and the header's length
_SIGNATURE = b"\x93NUMPY\x01\x00"
# What numpy writes, to the letter (numpy/lib/format.py); nothing else is a header, and nothing is evaluated.
_HEADER = re.compile(
    r"\{'descr': '([<|][iu][1248])', 'fortran_order': (False|True), 'shape': \(((?:\d{1,18},? ?)*)\), \} *\n"
)
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # as numpy writes them
_ENCRYPTED = 1  # bit of a member's flags


class GoldenError(ValueError):
    """The file is no .npz of plain arrays; the message says what is there instead."""


@dataclass(frozen=True)
class Header:
    """What an array is made of; fortran: its first axis runs fastest; begin: where its values begin in the member."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    begin: int

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class GoldenFile:
    """The arrays of an .npz file. All methods raise GoldenError, and nothing else, for damaged data."""

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except Exception as error:  # zipfile raises many kinds at a damaged directory
            raise GoldenError(f"no directory of arrays ({abbreviate(str(error))})") from error

    def header(self, name: str) -> Header:
        """Returns what an array is made of; unpacks no more than its header. Raises GoldenError."""
        try:
            info = self._info(name)
            with self._zip.open(info) as member:
                signature, length = _PREFIX.unpack(member.read(_PREFIX.size))
                header = _parse(signature, member.read(length))
        except Exception as error:  # so do zipfile and zlib at a damaged member
            raise GoldenError(f"no plain array {name} ({abbreviate(str(error))})") from error
        if info.file_size != header.begin + header.bytes:
            raise GoldenError(f"{info.file_size} bytes for an array {name} {list(header.shape)}")
        return header

    def read(self, name: str) -> np.ndarray:
        """Returns an array [...]; raises GoldenError where it is damaged."""
        header = self.header(name)
        try:
            with self._zip.open(self._info(name)) as member:
                data = member.read()[header.begin :]
            array: np.ndarray = np.frombuffer(data, header.dtype).reshape(
                header.shape, order="F" if header.fortran else "C"
            )
        except Exception as error:
            raise GoldenError(f"damaged values of {name} ({abbreviate(str(error))})") from error
        return array

    def _info(self, name: str) -> zipfile.ZipInfo:
        info = self._zip.getinfo(f"{name}.npy")
        if info.compress_type not in _PACKINGS or info.flag_bits & _ENCRYPTED:
            raise GoldenError("it is encrypted, or packed as numpy packs none")
        return info


def _parse(signature: bytes, text: bytes) -> Header:
    """Returns the header that numpy wrote. Raises ValueError for any other text."""
    match = _HEADER.fullmatch(text.decode("ascii"))
    if signature != _SIGNATURE or match is None:
        raise ValueError("its header is none of numpy's, version 1.0")
    shape = tuple(int(side) for side in re.findall(r"\d+", match[3]))
    return Header(np.dtype(match[1]), shape, match[2] == "True", _PREFIX.size + len(text))
