"""Unpacks stored weights to int8, into memory that kernels may use: aligned, with slack behind."""

from collections.abc import Iterable

import numpy as np

from runtime.abi import aligned_buffer
from runtime.bundle.segments import BITS, Segment, Transform

_GROUP = 8  # codes of b bits fill b whole bytes


def unpack(packed: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Returns int8 [count] of a little-endian bit stream uint8 [ceil(count * bits / 8)], two's complement.

    Code i takes bits i * bits .. i * bits + bits - 1 of the stream. Raises ValueError for a stream of another length or
    dtype, and for bits outside 2..8.
    """
    size = -(-count * bits // 8)
    if bits not in BITS or count < 0 or packed.dtype != np.uint8 or packed.shape != (size,):
        raise ValueError(
            f"expected {count} codes of 2..8 bits in uint8 [{size}], "
            f"got {bits} bits in {packed.dtype} {list(packed.shape)}"
        )
    groups = -(-count // _GROUP)
    padded = np.zeros(groups * bits, np.uint8)
    padded[:size] = packed
    words = np.zeros((groups, 8), np.uint8)
    words[:, :bits] = padded.reshape(groups, bits)
    stream = words.reshape(-1).view("<u8")
    codes = np.empty((groups, _GROUP), np.uint8)
    for i in range(_GROUP):
        codes[:, i] = (stream >> np.uint64(i * bits)) & np.uint64((1 << bits) - 1)
    sign = np.uint8(1 << (bits - 1))
    codes ^= sign  # extends the sign, modulo 256
    codes -= sign
    return codes.reshape(-1)[:count].view(np.int8)


def unpack_weights(data: bytes, segments: Iterable[Segment], total: int) -> np.ndarray:
    """Returns int8 [total], aligned: each segment of the packed codes at its place, zeros between.

    data: what is in weights.bin. Raises ValueError for a segment outside it or the buffer.
    """
    buffer = aligned_buffer(total, np.int8)
    stream = np.frombuffer(data, np.uint8)
    for segment in segments:
        end = segment.offset + segment.stored
        if end > stream.size or segment.at + segment.size > total:
            raise ValueError(
                f"expected {segment.count} codes of {segment.bits} bits within {stream.size} bytes, "
                f"at {segment.at} of {total}; got bytes {segment.offset}..{end}"
            )
        weights = unpack(stream[segment.offset : end], segment.count, segment.bits)
        if segment.transform is not None:
            weights = transformed(weights, segment.transform)
        buffer[segment.at : segment.at + segment.size] = weights
    return buffer


def transformed(codes: np.ndarray, transform: Transform) -> np.ndarray:
    """Returns the weights of a Winograd convolution, int8 [transform.size], of codes int8 [n]; see Transform."""
    outputs, _, inputs = transform.shape
    matrix = np.kron(np.array(transform.down, np.float32), np.array(transform.across, np.float32))
    dtype = np.dtype("<i2" if transform.bytes == 2 else np.int8)
    channels = transform.padded(outputs, transform.block), transform.padded(inputs, transform.step)
    padded = np.zeros((len(matrix), *channels), dtype)
    # float32 matrix products are fast, and exact here (see Transform.LARGEST)
    product = np.tensordot(matrix, codes.reshape(transform.shape).astype(np.float32), (1, 1))
    padded[:, :outputs, :inputs] = product.astype(np.int32)
    groups = channels[1] // transform.group
    blocks = padded.reshape(len(matrix), -1, transform.block, groups, transform.group).transpose(1, 0, 3, 2, 4)
    return np.ascontiguousarray(blocks).reshape(-1).view(np.int8)
