"""Float networks for tests of calibration, and what they give."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from compile.calibrate.calibrate import Calibrated, calibrate
from compile.calibrate.executor import NodeRunner, run_all
from compile.calibrate.network import FloatNetwork
from compile.calibrate.preprocessing import Preprocessing
from compile.calibrate.settings import CalibrationSettings
from compile.calibrate.simplify import read_float
from compile.qdq.normalization import Normalization
from tests.support.foreign import OnnxNet, float_network

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WHOLE = Preprocessing(IMAGENET.mean, IMAGENET.std)
SIZE = 14


def photos(n: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """uint8 [n, size, size, 3]: smooth pictures with noise, bright and dark."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j][:, None, :, :, None]
    slopes = rng.normal(0, 70, (2, n, 1, 1, 3))
    return np.clip(128 + slopes[0] * y + slopes[1] * x + rng.normal(0, 25, (n, size, size, 3)), 0, 255).astype(np.uint8)


def conv(net: OnnxNet, rng, x: str, outputs: int, inputs: int, k: int = 3, **attributes) -> str:
    """A convolution with a bias and channels of very different sizes."""
    spread = np.exp(rng.normal(0, 0.8, (outputs, 1, 1, 1)))
    weight = rng.normal(0, 1.5 / np.sqrt(inputs * k * k), (outputs, inputs, k, k)) * spread
    attributes = {"pads": [k // 2] * 4, **attributes}
    bias = net.const(rng.normal(0, 0.2, outputs))
    return net.op("Conv", x, net.const(weight), bias, kernel_shape=[k, k], **attributes)


def head(net: OnnxNet, rng, x: str, channels: int, classes: int = 6) -> str:
    """Mean over the map and a classifier."""
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    return net.op("Gemm", x, net.const(rng.normal(0, 0.5, (classes, channels))), net.const(np.zeros(classes)), transB=1)


def chain(limit: float = np.inf, seed: int = 0) -> onnx.ModelProto:
    """Conv, Relu (Clip at a limit), depthwise Conv, Relu, pointwise Conv, classifier."""
    rng, net = np.random.default_rng(seed), OnnxNet((3, SIZE, SIZE))

    def clamp(x):
        return net.op("Relu", x) if np.isinf(limit) else net.op("Clip", x, net.const(0.0), net.const(limit))

    x = clamp(conv(net, rng, "x", 8, 3))
    x = clamp(conv(net, rng, x, 8, 1, group=8))
    x = clamp(conv(net, rng, x, 12, 8, 1))
    return net.model(head(net, rng, x, 12), 6)


def fire(seed: int = 0) -> onnx.ModelProto:
    """Two branches joined by a Concat, a pool, and means as logits (SqueezeNet)."""
    rng, net = np.random.default_rng(seed), OnnxNet((3, SIZE, SIZE))
    x = net.op("Relu", conv(net, rng, "x", 8, 3))
    branches = [net.op("Relu", conv(net, rng, x, 6, 8, k)) for k in (1, 3)]
    x = net.op("MaxPool", net.op("Concat", *branches, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", conv(net, rng, x, 6, 12, 1))
    return net.model(net.op("Flatten", net.op("GlobalAveragePool", x), axis=1), 6)


def gated(seed: int = 0) -> onnx.ModelProto:
    """SiLU, and a squeeze and excite whose gate multiplies a map."""
    rng, net = np.random.default_rng(seed), OnnxNet((3, SIZE, SIZE))
    x = conv(net, rng, "x", 8, 3)
    x = net.op("Mul", x, net.op("Sigmoid", x))
    gate = net.op("Relu", conv(net, rng, net.op("GlobalAveragePool", x), 4, 8, 1))
    gate = net.op("Sigmoid", conv(net, rng, gate, 8, 4, 1))
    return net.model(head(net, rng, net.op("Mul", x, gate), 8), 6)


def saved(folder: Path, model: onnx.ModelProto, name: str = "net") -> Path:
    """The model in a file."""
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def read(folder: Path, model: onnx.ModelProto) -> FloatNetwork:
    """The model as calibration reads it."""
    return read_float(saved(folder, model))


def values_of(network: FloatNetwork, x: np.ndarray) -> np.ndarray:
    """float32 [N, classes] of a float network's picture [N, 3, H, W]."""
    for node, tensors in run_all(network, x, NodeRunner()):
        if network.output in node.output:
            return tensors[network.output].reshape(len(x), -1)
    raise AssertionError(network.output)


def file_values(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """float32 [N, classes] that onnxruntime gives for a float file."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: one[None]})[0].reshape(1, -1) for one in x])


def settings(bits: str = "8", rounding: str = "nearest", **options) -> CalibrationSettings:
    return CalibrationSettings(Path("pictures"), WHOLE, bits, rounding, **options)


def calibrated(folder: Path, model: onnx.ModelProto, bits: str = "8", rounding: str = "nearest") -> Calibrated:
    """The model, calibrated with sixteen pictures."""
    network = read(folder, model)
    return calibrate(network, photos(16), IMAGENET, settings(bits, rounding), lambda done, count: None)


MODELS = {"chain": chain, "relu6": lambda: chain(1.5), "residual": lambda: float_network(3, SIZE)}
