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
    pixels = count_pixels(node, weight, quantized)
    share = min(1.0, wanted / (len(quantized) * pixels))
    sums = np.zeros((2, groups, taps, taps))
    means = np.zeros((2, groups, taps))
    count = 0
    for pair in zip(quantized, floats, strict=True):
        keep = np.flatnonzero(rng.random(pixels) < share)
        q, f = (windows(node, weight, x, keep).astype(np.float32) for x in pair)
        count += len(keep)
        sums[0] += q @ q.transpose(0, 2, 1)
        sums[1] += f @ q.transpose(0, 2, 1)
        means += np.stack([q.sum(2), f.sum(2)])
    count = max(1, count)
    mean_q, mean_f = means / count
    inputs = sums[0] / count - mean_q[:, :, None] * mean_q[:, None]
    return Covariances(inputs, sums[1] / count - mean_f[:, :, None] * mean_q[:, None], count)


def count_pixels(node: onnx.NodeProto, weight: np.ndarray, x: np.ndarray) -> int:
    """Returns the output pixels of a Conv or Gemm for one picture; x: its input [N, C, H, W] or [N, C]."""
    return 1 if node.op_type == "Gemm" else int(np.prod(_view(node, weight, x[0][:1]).shape[1:3]))


def windows(node: onnx.NodeProto, weight: np.ndarray, x: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Returns what some output pixels are made of, [G, K, n], K in the order of a channel's weights.

    x: one picture's input [C, H, W] or [C]; pixels: their numbers, int64 [n], in the order of rows.
    """
    if node.op_type == "Gemm":
        return x.reshape(1, -1, 1)[:, :, pixels]
    groups = groups_of(node) if len(x) >= groups_of(node) else 1
    view = _view(node, weight, x)
    rows, columns = np.divmod(pixels, view.shape[2])
    taken = view[:, rows, columns]  # [C, n, kH, kW]
    return taken.transpose(0, 2, 3, 1).reshape(groups, -1, len(pixels))


def _view(node: onnx.NodeProto, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[C, oH, oW, kH, kW], the windows of one picture's input [C, H, W]."""
    attributes = attributes_of(node)
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    dilation = attributes.get("dilations", (1, 1))
    stride = attributes.get("strides", (1, 1))
    reach = tuple((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
