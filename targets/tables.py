"""What a kernel's table holds: biases with the zero points of inputs folded in, and the constants of a requantization.

A table is int32. The part of a convolution has rows of channels, each padded to whole blocks of BLOCK. The part of one
ratio for all channels begins with left shift, multiplier, rounding half, right shift and the rule's own values; from
OFFSETS on lies what is added in each channel.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from targets.kernel import Layout
from targets.reference.nodes import BITS, Conv, Requant

BLOCK = 16  # channels that a row of a table is padded to
OFFSETS = 16  # where the channels of a ratio's table begin
NO_WEIGHTS = np.zeros(0, np.int8)
NO_TABLE = np.zeros(0, np.int32)


def blocks(channels: int) -> int:
    """Returns how many blocks hold so many channels."""
    return -(-channels // BLOCK)


def padded(values: npt.NDArray[Any], groups: int = 1) -> npt.NDArray[np.int32]:
    """Returns int32 [groups * blocks * BLOCK] of values [groups * channels]: zeros fill each group's last block."""
    per_group = values.reshape(groups, -1)
    short = blocks(per_group.shape[1]) * BLOCK - per_group.shape[1]
    return np.pad(per_group, ((0, 0), (0, short))).astype(np.int32).reshape(-1)


def folded_bias(node: Conv, reads: tuple[Layout, ...], offset: int = 0) -> npt.NDArray[np.int64]:
    """Returns int64 [O]: the bias for sums of raw codes less `offset`, so that kernels never subtract a zero point.

    This is exact because the physical border of a tensor holds its zero point.
    """
    zero_points = reads[0].tensor.zero_points() - offset
    per_output = zero_points.reshape(node.groups, -1).repeat(node.weight.shape[0] // node.groups, 0)
    raw = (node.weight.astype(np.int64) * per_output[:, None, None, :]).sum((1, 2, 3))
    bias: npt.NDArray[np.int64] = node.bias - (raw << (0 if node.requant is None else node.requant.left))
    if node.skip_multiplier is not None:
        bias = bias - node.skip_multiplier * reads[1].tensor.zero_points()
    return bias


def two_planes(weight: npt.NDArray[Any], w_bits: int) -> npt.NDArray[np.int8]:
    """Returns int8 [n] of weights [n]; of those of 9 bits [2 * n], w - 2 * (w >> 1) and then w >> 1."""
    if w_bits in BITS:
        return weight.astype(np.int8)
    half = weight >> 1
    return np.concatenate([weight - 2 * half, half]).astype(np.int8)


def ratio_table(requant: Requant, offsets: npt.NDArray[np.int64], *values: int) -> npt.NDArray[np.int32]:
    """Returns int32 [OFFSETS + blocks * BLOCK]: left, multiplier, half, shift, values; then the offsets, int64 [C]."""
    ratio = (requant.left, requant.multiplier, 1 << (requant.shift - 1), requant.shift)
    head = np.array([*(int(a[0]) for a in ratio), *values], np.int64)
    return np.concatenate([np.pad(head, (0, OFFSETS - len(head))), padded(offsets)]).astype(np.int32)
