"""Signed weight codes as a little-endian bit stream: code i takes bits i*bits .. i*bits+bits-1, two's complement.

2 bits, codes 1 -1 0 -2:   byte 0 = 10 00 11 01   (last code first)
"""

import numpy as np


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [ceil(n * bits / 8)] of codes int8 [n]; ValueError unless all are in -2**(bits-1) .. 2**(bits-1)-1."""
    half = 1 << (bits - 1)
    if codes.size and not (-half <= codes.min() and codes.max() < half):
        raise ValueError(f"expected codes of {bits} bits in {-half}..{half - 1}, got {codes.min()}..{codes.max()}")
    planes = codes.astype(np.uint8)[:, None] >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(planes.reshape(-1), bitorder="little")


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return -(-count * bits // 8)
