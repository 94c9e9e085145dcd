"""Small quantized networks drawn at random, as other tools write them."""

import numpy as np
import onnx
from onnx import TensorProto

from tests.support.foreign import OnnxNet

U8, S8, S32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32


def network(rng: np.random.Generator) -> onnx.ModelProto:
    """Two to five layers with an activation, a pool, a residual, constants added; codes signed or not."""
    width = int(rng.choice([4, 5, 6, 8]))
    size = width if rng.random() < 0.5 else int(rng.integers(4, 9))  # as large as it has channels: any axis fits
    net = OnnxNet((3, size, size), elem_type=TensorProto.FLOAT)
    x, channels = net.qdq("x", 1 / 255), 3
    for _ in range(int(rng.integers(1, 4))):
        x = quantized(rng, net, layer(rng, net, x, channels, width))
        channels = width
        x = between(rng, net, x, width)
    x = quantized(rng, net, net.op("GlobalAveragePool", x))
    x = net.op("Flatten", x)
    weight = net.weight(codes(rng, (5, channels)), 0.01)
    x = net.op("Gemm", x, weight, *bias(rng, net, 5), name="last", transB=1)
    if rng.random() < 0.7:
        x = quantized(rng, net, x)
    return net.model(x, 5, full_check=False)


def codes(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.integers(-127, 128, shape)


def bias(rng: np.random.Generator, net: OnnxNet, count: int) -> list[str]:
    if rng.random() < 0.3:
        return []
    values = rng.normal(0, 0.3, count)
    return [net.const(values) if rng.random() < 0.5 else net.weight(np.rint(values / 1e-4), 1e-4, S32)]


def layer(rng: np.random.Generator, net: OnnxNet, x: str, channels: int, width: int) -> str:
    """A convolution, dense or depthwise, of 1 or 3 taps, with an activation or a constant added."""
    k = int(rng.choice([1, 3]))
    depthwise = channels == width and rng.random() < 0.3
    shape = (width, 1 if depthwise else channels, k, k)
    fan = shape[1] * k * k
    scale = rng.uniform(0.5, 1.5, width if rng.random() < 0.5 else None) * 0.02 / np.sqrt(fan)
    attributes = {"pads": [k // 2] * 4} | ({"group": width} if depthwise else {})
    biases = bias(rng, net, width)
    x = net.op("Conv", x, net.weight(codes(rng, shape), scale), *biases, **attributes)
    if not biases and rng.random() < 0.5:
        x = net.op("Add", x, net.const(rng.normal(0, 0.3, (width, 1, 1))))
    kind = rng.choice(["Relu", "Clip", "none"])
    if kind == "Clip":
        return net.op("Clip", x, net.const(0.0), net.const(6.0))
    return x if kind == "none" else net.op("Relu", x)


def between(rng: np.random.Generator, net: OnnxNet, x: str, width: int) -> str:
    """A pool, a sum with itself convolved, or nothing; the size of the map stays."""
    kind = rng.choice(["max", "mean", "add", "shift", "none"])
    if kind == "max":
        return quantized(rng, net, net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4))
    if kind == "mean":
        return quantized(rng, net, net.op("AveragePool", x, kernel_shape=[1, 1]))
    if kind == "add":
        other = quantized(rng, net, net.op("Conv", x, net.weight(codes(rng, (width, width, 1, 1)), 0.005)))
        return quantized(rng, net, net.op("Add", x, other))
    if kind == "shift":
        return quantized(rng, net, net.op("Add", x, net.const(rng.normal(0, 0.3, (1, width, 1, 1)))))
    return x


def quantized(rng: np.random.Generator, net: OnnxNet, x: str) -> str:
    signed = bool(rng.random() < 0.5)
    point = int(rng.integers(-20, 20)) + (0 if signed else 128)
    return net.qdq(x, float(rng.uniform(0.005, 0.03)), point, S8 if signed else U8)
