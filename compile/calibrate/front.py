"""Puts the uint8 picture in front of a float network, with its normalization folded into the first layers.

The picture's codes u stand for (u - z) * PICTURE_SCALE, z = round(255 * mean) in each channel, so that x = (u / 255 -
mean) / std is an affine function of them in each channel. Convolutions that read the picture take it into their weights
and bias. That is exact but for padded pixels, which become z / 255 rather than the mean: half a code at most. Where
something else reads the picture, a 1x1 depthwise convolution normalizes it.
"""

from dataclasses import replace

import numpy as np

from compile.calibrate.network import FloatNetwork, make_node, with_inputs
from compile.qdq.normalization import Normalization

PICTURE_SCALE = 1 / 64  # real value of one code of the picture, as in files that training writes
NORMALIZE = "normalize"  # the convolution where no layer takes the normalization in


def zero_points(normalization: Normalization) -> np.ndarray:
    """Returns int64 [3]: the code that stands for 0 in each channel."""
    mean, _ = _per_channel(normalization)
    return np.clip(np.rint(255 * mean), 0, 255).astype(np.int64)


def picture_values(pictures: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Returns float32 [N, 3, H, W], what the codes of pictures uint8 [N, H, W, 3] stand for."""
    centred = pictures.astype(np.float32) - zero_points(normalization).astype(np.float32)
    return np.ascontiguousarray((centred * np.float32(PICTURE_SCALE)).transpose(0, 3, 1, 2))


def with_picture(network: FloatNetwork, normalization: Normalization) -> FloatNetwork:
    """Returns the network over `picture_values` instead of normalized pictures."""
    mean, std = _per_channel(normalization)
    gain = 1 / (255 * std * PICTURE_SCALE)  # float64 [3]: x = gain * value + offset
    offset = (zero_points(normalization) / 255 - mean) / std
    layers = network.users[network.picture]
    if all(node.op_type == "Conv" and _reads_all_channels(network, node.input[1]) for node in layers):
        changed = {}
        for node in layers:
            weight = network.weight(node).astype(np.float64)
            bias = network.bias(node) + (weight * offset.reshape(1, -1, 1, 1)).sum((1, 2, 3))
            changed[node.output[0]] = (weight * gain.reshape(1, -1, 1, 1), bias)
        return network.with_layers(changed)
    return _with_convolution(network, gain, offset)


def _per_channel(normalization: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std), float64 [3]."""
    mean, std = (np.broadcast_to(np.asarray(v, np.float64), (3,)) for v in (normalization.mean, normalization.std))
    return mean, std


def _reads_all_channels(network: FloatNetwork, weight: str) -> bool:
    return network.constants[weight].shape[1] == 3


def _with_convolution(network: FloatNetwork, gain: np.ndarray, offset: np.ndarray) -> FloatNetwork:
    """The network behind a 1x1 depthwise convolution to gain * value + offset, both [3]."""
    weight, bias = f"{NORMALIZE}/weight", f"{NORMALIZE}/bias"
    constants = {**network.constants, weight: np.float32(gain.reshape(3, 1, 1, 1)), bias: np.float32(offset)}
    picture = f"{network.picture}/codes"
    first = make_node("Conv", [picture, weight, bias], NORMALIZE, kernel_shape=[1, 1], group=3)
    nodes = [
        with_inputs(n, [NORMALIZE if name == network.picture else name for name in n.input]) for n in network.nodes
    ]
    shape = network.shapes[network.picture]
    shapes = {**network.shapes, picture: shape, NORMALIZE: shape}
    return replace(network, nodes=(first, *nodes), constants=constants, shapes=shapes, picture=picture)
