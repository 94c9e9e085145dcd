"""Moves scales a little, so that float arithmetic rounds every sum as the integers do.

A layer's ratio of scales becomes 2**left / Q and a mean's or copy's P / Q, Q odd (docs/arithmetic.md): then no sum lies
on a tie, which onnxruntime and the integers would round apart. Additions of two quantized tensors, each with a scale of
its own, stay as they are.
"""

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx

from compile.calibrate.network import COPY, LAYERS, MEANS, FloatNetwork
from compile.calibrate.placement import Placement
from compile.calibrate.steps import Quantizer
from compile.qdq.node import attributes_of
from targets.reference.checks import ACC_BITS
from targets.reference.scales import CONV_MIN_SHIFT, LARGEST_Q, float32, odd_ratio, tie_free

DIVISORS = (1, 3, 5, 7, 9, 11, 13, 15)  # odd: what a residual sum's ratio of scales may be divided by
ROUNDED_UP = 1.3  # by which rounding may make the weights of a channel larger together
MULTIPLIERS = np.arange(1, 65)


def settled(network: FloatNetwork, placement: Placement, wanted: Mapping[str, Quantizer]) -> dict[str, Quantizer]:
    """Returns the quantizers of all owners, each next to the wanted one; those of inputs come before."""
    quantizers = {name: wanted[name] for name in (placement.owner[network.picture],)}
    for node in network.nodes:
        for name in node.output:
            owner = placement.owner.get(name)
            if owner is not None and owner not in quantizers:
                quantizers[owner] = _settled_one(network, placement, quantizers, name, wanted[owner])
    return quantizers


def _settled_one(
    network: FloatNetwork, placement: Placement, quantizers: Mapping[str, Quantizer], name: str, wanted: Quantizer
) -> Quantizer:
    """The quantizer of what a node computes, clamps included."""
    node = network.producers[name]
    while node.op_type in ("Relu", "Clip") and node.input[0] not in placement.owner:
        node = network.producers[node.input[0]]
    scale = wanted.scale
    sources = [quantizers[placement.owner[n]].scale for n in network.data_inputs(node) if n in placement.owner]
    layer = layer_behind(network, placement, node)
    if layer is not None:
        scale = max(scale, least_scale(network, layer, quantizers[placement.owner[layer.input[0]]]))
    if node.op_type == "Add" and node.output[0] in placement.open_sums:
        divisor, multiplier = residual_ratio(sources[0], scale)
        scale = sources[0] * divisor / multiplier
    elif node.op_type in (COPY, "Relu", "Clip", *MEANS):
        area = mean_area(network, node)
        p, q = odd_ratio(sources[0] / (scale * area))
        scale = sources[0] * q / (p * area)
    elif node.op_type == "Mul" and len(sources) == 2:
        p, q = odd_ratio(sources[0] * sources[1] / scale)
        scale = sources[0] * sources[1] * q / p
    return Quantizer(float32(scale), wanted.zero_point, wanted.bits)


def layer_behind(network: FloatNetwork, placement: Placement, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Returns the layer whose sums a node is, or adds to; None where it is no layer's."""
    name = placement.open_sums.get(node.output[0], node.output[0])
    layer = network.producers[name]
    return layer if layer.op_type in LAYERS else None


def least_scale(network: FloatNetwork, layer: onnx.NodeProto, x: Quantizer) -> float:
    """Returns the smallest scale of a layer's output for which the largest possible sum fits the accumulator.

    Layers keep CONV_MIN_SHIFT bits below a code of their output, so it matters only where real values are far smaller
    than weights and inputs allow: in networks that were hardly trained.
    """
    reach = (x.largest + x.zero_point) * x.scale  # as targets/reference/checks.py bounds it
    weight = network.weight(layer).astype(np.float64)
    worst = np.abs(weight).reshape(len(weight), -1).sum(1) * reach + np.abs(network.bias(layer))
    return ROUNDED_UP * float(worst.max()) / 2 ** (ACC_BITS - CONV_MIN_SHIFT - 1)


def residual_ratio(skip_scale: float, scale: float) -> tuple[int, int]:
    """Returns (d, n), d odd, for which skip_scale * d / n is nearest to a scale; the smallest d of equals."""
    divisors = np.array(DIVISORS)[:, None]
    apart = np.abs(np.log(skip_scale * divisors / MULTIPLIERS / scale)).round(3)
    row, column = np.unravel_index(int(apart.argmin()), apart.shape)
    return int(DIVISORS[row]), int(MULTIPLIERS[column])


def mean_area(network: FloatNetwork, node: onnx.NodeProto) -> int:
    """Returns how many values a mean is over; 1 for other operators."""
    if node.op_type == "AveragePool":
        return prod(attributes_of(node)["kernel_shape"])
    return prod(network.shapes[node.input[0]][2:]) if node.op_type in MEANS else 1


def settled_steps(step: np.ndarray, x_scale: float, out_scale: float, divisor: int) -> np.ndarray:
    """Returns float32 [O]: the weight steps next to float64 [O] whose ratio of scales is 2**left / Q.

    Q is an odd multiple of `divisor`. Smaller steps than the smallest ratio allows become larger.
    """
    ratio = np.maximum(step * x_scale / out_scale, 1 / LARGEST_Q)
    _, left, q = tie_free(np.zeros((len(step), 1), np.int64), ratio, divisor)
    return (np.exp2(left) * out_scale / (q * x_scale)).astype(np.float32)
