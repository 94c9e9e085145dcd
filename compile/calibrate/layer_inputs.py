"""What a layer multiplies its weights with, at a sample of its output pixels: columns of windows of its input."""

from dataclasses import dataclass

import numpy as np
import onnx

from compile.calibrate.network import groups_of
from compile.qdq.node import attributes_of

MOST_PIXELS = 1 << 15  # of all pictures together; more change no statistics of some thousand inputs
PIXELS_AN_INPUT = 4  # for each weight of a channel, so that covariances have full rank where there are enough pictures


@dataclass(frozen=True, eq=False)
class Covariances:
    """Of a layer's inputs, centred, over sampled pixels: float64 [G, K, K] for each group of channels.

    inputs: of the quantized network's with themselves; cross: of the float network's (rows) with those (columns).
    pixels: how many were sampled.
    """

    inputs: np.ndarray
    cross: np.ndarray
    pixels: int


def covariances(node: onnx.NodeProto, weight: np.ndarray, quantized: np.ndarray, floats: np.ndarray) -> Covariances:
    """Returns the statistics of a Conv or Gemm; quantized, floats: its input [N, C, H, W] or [N, C] in both networks.

    The same sample of pixels is taken of both, and the same for every call.
    """
    groups = groups_of(node)
    taps = int(np.prod(weight.shape[1:]))
    rng = np.random.default_rng(0)
    wanted = min(MOST_PIXELS, max(4096, PIXELS_AN_INPUT * taps))
    share = min(1.0, wanted / (len(quantized) * _pixels(node, weight, quantized)))
    sums = np.zeros((2, groups, taps, taps))
    means = np.zeros((2, groups, taps))
    count = 0
    for pair in zip(quantized, floats, strict=True):
        columns = [_windows(node, weight, x) for x in pair]  # [G, K, pixels] each
        keep = np.flatnonzero(rng.random(columns[0].shape[2]) < share)
        q, f = (np.ascontiguousarray(c[:, :, keep], np.float32) for c in columns)
        count += len(keep)
        sums[0] += q @ q.transpose(0, 2, 1)
        sums[1] += f @ q.transpose(0, 2, 1)
        means += np.stack([q.sum(2), f.sum(2)])
    count = max(1, count)
    mean_q, mean_f = means / count
    inputs = sums[0] / count - mean_q[:, :, None] * mean_q[:, None]
    return Covariances(inputs, sums[1] / count - mean_f[:, :, None] * mean_q[:, None], count)


def _pixels(node: onnx.NodeProto, weight: np.ndarray, x: np.ndarray) -> int:
    """Output pixels of a layer for one picture."""
    return _windows(node, weight, x[0][:1] if x.ndim == 4 else x[0]).shape[2]


def _windows(node: onnx.NodeProto, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[G, K, pixels] of one picture's input [C, H, W] or [C]; K in the order of a channel's weights."""
    if node.op_type == "Gemm":
        return x.reshape(1, -1, 1)
    attributes = attributes_of(node)
    groups = groups_of(node) if len(x) >= groups_of(node) else 1
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    kernel = weight.shape[2:]
    dilation = attributes.get("dilations", (1, 1))
    stride = attributes.get("strides", (1, 1))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    view = view[:, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]  # [C, oH, oW, kH, kW]
    channels, height, width = view.shape[:3]
    columns = view.transpose(0, 3, 4, 1, 2).reshape(groups, channels // groups * kernel[0] * kernel[1], height * width)
    return columns
