"""Cross-layer equalization: channels between two layers get like ranges, and the network stays the same function.

Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, eq. 11: a channel c between
two layers is divided by s_c = sqrt(r1_c / r2_c) in the first and multiplied by it in the second. r2_c is the range of
the second layer's weights for that channel; r1_c is that of the channel's values, measured, since the first layer's
weights have a step for each output channel here and no need of it. Where the second layer is depthwise its weights have
such steps too, and s_c = r1_c makes all channels alike.

Relu, pools and Pad of zeros let a positive factor through. A Clip at a limit lets it through where it does not act: a
channel that comes near the limit on the calibration pictures keeps its scale, and others only grow as far as that.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from compile.calibrate.network import LAYERS, FloatNetwork, clip_limits, groups_of

BETWEEN = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Pad", "Flatten", "Reshape")
ROUNDS = 3
LARGEST_FACTOR = 64.0
ROOM = 0.9  # of a Clip's limit that a channel may come near, since other pictures may be brighter


def equalized(network: FloatNetwork, ranges: Mapping[str, np.ndarray]) -> FloatNetwork:
    """Returns the network with equalized channels.

    ranges: by tensor, the largest magnitude of each channel on the calibration pictures, float64 [C].
    """
    pairs = [pair for node in network.nodes if node.op_type in LAYERS for pair in _pairs_of(network, node)]
    weights = {n.output[0]: network.weight(n).astype(np.float64) for n in network.nodes if n.op_type in LAYERS}
    biases = {n.output[0]: network.bias(n).astype(np.float64) for n in network.nodes if n.op_type in LAYERS}
    scaled = {name: values.copy() for name, values in ranges.items()}
    for _ in range(ROUNDS):
        for first, between, second in pairs:
            factor = _factors(network, between, scaled, weights[second.output[0]], groups_of(second))
            name = first.output[0]
            weights[name] /= factor.reshape(-1, *[1] * (weights[name].ndim - 1))
            biases[name] /= factor
            weights[second.output[0]] = _times_inputs(weights[second.output[0]], factor, groups_of(second))
            for tensor in (name, *(node.output[0] for node in between)):
                scaled[tensor] = scaled[tensor] / factor
    return network.with_layers({name: (weights[name], biases[name]) for name in weights})


Pair = tuple[onnx.NodeProto, list[onnx.NodeProto], onnx.NodeProto]


def _pairs_of(network: FloatNetwork, first: onnx.NodeProto) -> list[Pair]:
    """The layer with the only one that reads its channels, and what lies between; none where there is no such layer."""
    between: list[onnx.NodeProto] = []
    node = network.only_user(first.output[0])
    while node is not None and node.op_type in BETWEEN and _keeps_channels(network, node):
        between.append(node)
        node = network.only_user(node.output[0])
    if node is None or node.op_type not in LAYERS:
        return []
    groups = groups_of(node)
    depthwise = groups > 1 and network.weight(node).shape[1] == 1 and len(network.weight(node)) == groups
    channels = len(network.weight(first))
    alike = network.weight(node).shape[1] * groups if node.op_type == "Conv" else network.weight(node).shape[1]
    return [(first, between, node)] if alike == channels and (groups == 1 or depthwise) else []


def _keeps_channels(network: FloatNetwork, node: onnx.NodeProto) -> bool:
    """Whether a node lets a factor of each channel through."""
    before, after = network.shapes[node.input[0]], network.shapes[node.output[0]]
    if node.op_type == "Clip":
        return clip_limits(network, node)[0] in (0.0, -np.inf)
    if node.op_type == "Pad":
        return before[1] == after[1] and (len(node.input) < 3 or not node.input[2])
    return before[1] == after[1]


def _factors(
    network: FloatNetwork,
    between: list[onnx.NodeProto],
    ranges: Mapping[str, np.ndarray],
    weight: np.ndarray,
    groups: int,
) -> np.ndarray:
    """float64 [C]: what each channel is divided by; its scale as a whole stays."""
    read = between[-1].output[0] if between else ""
    if not read:
        return np.ones(weight.shape[1] if groups == 1 else groups)
    values = ranges[read]
    if groups > 1:
        factor = values.copy()
    else:
        reach = np.abs(weight).reshape(len(weight), weight.shape[1], -1).max((0, 2))
        factor = np.sqrt(values / np.where(reach > 0, reach, 1.0)) * (reach > 0)
    used = (values > 0) & (factor > 0)
    if not used.any():
        return np.ones_like(values)
    near = np.max([np.zeros_like(values), *_nearness(network, between, ranges)], 0)
    at_limit = used & (near >= 1)  # these keep their scale, so others are measured by them
    reference = np.log(factor[at_limit if at_limit.any() else used]).mean()
    factor = np.clip(np.where(used, factor, 1.0) / np.exp(reference), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    return np.where(used & ~at_limit, np.maximum(factor, near), 1.0)


def _nearness(
    network: FloatNetwork, between: list[onnx.NodeProto], ranges: Mapping[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """float64 [C] for each Clip: what a channel's values are of the largest that are sure not to meet its limit."""
    for node in between:
        limit = clip_limits(network, node)[1] if node.op_type == "Clip" else np.inf
        if np.isfinite(limit):
            yield ranges[node.output[0]] / (ROOM * limit)


def _times_inputs(weight: np.ndarray, factor: np.ndarray, groups: int) -> np.ndarray:
    """Weights [O, I, ...] for inputs that are divided by a factor [I]; depthwise: by one for each of its channels."""
    axis = 0 if groups > 1 else 1
    return weight * factor.reshape([-1 if k == axis else 1 for k in range(weight.ndim)])
