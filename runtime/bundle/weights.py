"""Packed weights back to int8, in memory that kernels may use: aligned, with room behind."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from runtime.abi import aligned_buffer
from runtime.bundle.segments import Segment, Transform

_GROUP = 8  # codes of b bits fill b whole bytes


def unpack(packed: np.ndarray, count: int, bits: int) -> np.ndarray:
    """int8 [count] of a little-endian bit stream uint8 [ceil(count * bits / 8)], two's complement, bits in 2..8.

    Code i takes bits i*bits .. i*bits+bits-1. Raises ValueError when the stream is longer or shorter.
    """
    size = -(-count * bits // 8)
    if bits not in range(2, 9) or count < 0 or packed.dtype != np.uint8 or packed.shape != (size,):
        raise ValueError(
            f"expected {count} codes of 2..8 bits in uint8 [{size}], "
            f"got {bits} bits in {packed.dtype} {list(packed.shape)}"
        )
    groups = -(-count // _GROUP)
    room = np.zeros(groups * bits, np.uint8)
    room[:size] = packed
    words = np.zeros((groups, 8), np.uint8)
    words[:, :bits] = room.reshape(groups, bits)
    stream = words.reshape(-1).view("<u8")
    codes, half = np.empty((groups, _GROUP), np.uint8), np.uint8(1 << (bits - 1))
    for i in range(_GROUP):
        codes[:, i] = (stream >> np.uint64(i * bits)) & np.uint64((1 << bits) - 1)
    codes ^= half  # sign extension, modulo 256
    codes -= half
    return codes.reshape(-1)[:count].view(np.int8)


def read_weights(file: Path, segments: Iterable[Segment], total: int) -> np.ndarray:
    """int8 [total], aligned: each segment of the packed file at its place, zeros between.

    Raises ValueError for a segment outside the file or the buffer.
    """
    buffer, stream = aligned_buffer(total, np.int8), np.fromfile(file, np.uint8)
    for s in segments:
        end = s.offset + s.stored
        if end > stream.size or s.at + s.size > total:
            raise ValueError(
                f"{file.name}: expected {s.count} codes of {s.bits} bits within {stream.size} bytes, "
                f"at {s.at} of {total}; got bytes {s.offset}..{end}"
            )
        codes = unpack(stream[s.offset : end], s.count, s.bits)
        buffer[s.at : s.at + s.size] = codes if s.transform is None else transformed(codes, s.transform)
    return buffer


def transformed(codes: np.ndarray, t: Transform) -> np.ndarray:
    """int8 [t.size] of codes int8 [n]: the weights of a Winograd convolution, in the order of its kernel."""
    matrix, (o, _, i) = np.kron(np.float32(t.down), np.float32(t.across)), t.shape
    full = np.zeros((len(matrix), t.padded(o, t.block), t.padded(i, t.step)), "<i2" if t.bytes == 2 else np.int8)
    # float32 matrix products are fast, and exact here (see Transform)
    product = np.tensordot(matrix, np.float32(codes.reshape(t.shape)), (1, 1))
    full[:, :o, :i] = product.astype(np.int32)
    blocks = full.reshape(len(matrix), -1, t.block, full.shape[2] // t.group, t.group).transpose(1, 0, 3, 2, 4)
    return np.ascontiguousarray(blocks).reshape(-1).view(np.int8)
