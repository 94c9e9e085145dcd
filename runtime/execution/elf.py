"""Checks that a library is whole before the dynamic linker sees it, which trusts its headers and reads past its end."""

import struct

_HEADER = struct.Struct("<4s5B7x2HI3QI3H")  # of ELF-64, up to e_phnum
_SEGMENT = struct.Struct("<2I6Q")  # a program header
_MAGIC, _CLASS_64, _LITTLE_ENDIAN, _SHARED = b"\x7fELF", 2, 1, 3
_LOAD, _DYNAMIC = 1, 2  # types of segments


def require_whole(data: bytes) -> None:
    """Raises ValueError unless these are the bytes of a 64-bit ELF library with all that it has loaded."""
    if len(data) < _HEADER.size:
        raise ValueError(f"expected an ELF library, got {len(data)} bytes")
    magic, bits, order, _, _, _, kind, _, _, _, begin, _, _, _, size, count = _HEADER.unpack_from(data)
    if (magic, bits, order, kind) != (_MAGIC, _CLASS_64, _LITTLE_ENDIAN, _SHARED) or size != _SEGMENT.size:
        raise ValueError("expected a 64-bit little-endian ELF library, got other bytes")
    if begin + count * size > len(data):
        raise ValueError(f"expected {count} segments, the file is cut off at {len(data)} bytes")
    segments = [_SEGMENT.unpack_from(data, begin + i * size) for i in range(count)]
    for kind, _, offset, _, _, stored, _, _ in segments:
        if kind in (_LOAD, _DYNAMIC) and offset + stored > len(data):
            raise ValueError(f"expected a segment of {stored} bytes at {offset}, the file is cut off at {len(data)}")
    if not {_LOAD, _DYNAMIC} <= {segment[0] for segment in segments}:
        raise ValueError("expected a library that can be loaded, got one without code")
