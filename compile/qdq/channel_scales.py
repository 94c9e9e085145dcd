"""Activations with a scale for each channel: one scale for the tensor, and factors that go into what lies around it.

The layer before takes the factors into its weights' scales, and a depthwise layer behind into its own, both exactly as
real numbers; anything else behind reads a table for each channel.
"""

from dataclasses import replace

import numpy as np

from compile.qdq.functions import function_of
from compile.qdq.node import FileNode
from compile.qdq.patterns import scaled_sums
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Codes,
    Pending,
    PendingConv,
    PendingPicture,
    PendingScaled,
    Value,
    layout_of,
    refusal,
    require,
)
from targets.reference.scales import float32


def channel_scales(node: FileNode, scale: np.ndarray, layout: str, channels: int) -> np.ndarray | None:
    """Returns float32 [C] of an activation's scales, None where it has one; raises OnnxError for another axis."""
    values = scale.reshape(-1)
    if len(set(values.tolist())) == 1:
        return None
    axis = {"NCHW": 1, "NHWC": 3, "flat": 1}[layout]
    fits = values.size == channels and node.attributes.get("axis", 1) % (2 if layout == "flat" else 4) == axis
    require(fits, node.where, f"one scale, or one for each of {channels} channels along axis {axis}", list(scale.shape))
    return values.astype(np.float32)


def with_one_scale(reader: Reader, node: FileNode, value: Value | None, scales: np.ndarray) -> Pending:
    """Returns a value whose channels are divided by their scale's share of the largest; raises OnnxError.

    scales: float32 [C].
    """
    shares = scales.astype(np.float64) / float32(scales.max())
    if isinstance(value, PendingPicture):
        raise refusal(node.where, "one scale for the picture", f"{scales.size} scales")
    if isinstance(value, PendingConv):
        beyond = value.low in (-np.inf, 0.0) and value.high >= 256 * scales.max()
        require(beyond, node.where, "clamps at 0, or beyond all codes", (value.low, value.high))
        plain = replace(value, low=-np.inf, high=np.inf, clamped=False)
        sums = scaled_sums(node, plain, 1 / shares, np.zeros(len(shares)))
        return replace(sums, low=value.low, high=value.high, clamped=value.clamped)
    pending = function_of(reader, node, value)
    before = pending.function
    return replace(pending, name=reader.take_name(node.proto), function=lambda values: before(values) / shares[:, None])


def with_channel_scales(codes: Codes, node: FileNode, scales: np.ndarray, reader: Reader) -> PendingScaled:
    """Returns the real values of codes whose channels have scales float32 [C] of their own."""
    shares = scales.astype(np.float64) / float32(scales.max())
    return PendingScaled(
        name=reader.take_name(node.proto),
        shape=reader.tensors[codes.name].shape,
        layout=layout_of(codes, node.where),
        source=codes.name,
        function=lambda values: values * shares[:, None],
        shares=shares,
    )
