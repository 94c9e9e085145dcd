"""Writes a full-precision network of ours as the operators that post-training quantization reads."""

from typing import cast

import numpy as np
import onnx
import torch
from torch import nn

from compile.calibrate.front import PICTURE_SCALE
from compile.calibrate.network import FloatNetwork, make_node
from compile.qdq.normalization import Normalization
from train.network.architectures import Block, Layer
from train.network.layers import FULL, Bias
from train.network.network import Network

PICTURE = "picture"


def float_network(net: Network) -> tuple[FloatNetwork, Normalization]:
    """Returns the full-precision variant with its batch norms folded, and what its input is of a picture's codes."""
    writer = _Writer(net)
    with torch.no_grad():
        output = writer.write()
    zero = tuple(float(z) / 255 for z in net.zero_point)
    normalization = Normalization(zero, (1 / (255 * PICTURE_SCALE),) * 3)
    name = net.arch.name
    return FloatNetwork(name, tuple(writer.nodes), writer.constants, writer.shapes, PICTURE, output), normalization


class _Writer:
    """Nodes in running order, constants and shapes of one picture by name."""

    def __init__(self, net: Network):
        self.net = net
        height, width, channels = net.arch.shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {PICTURE: (1, channels, height, width)}

    def write(self) -> str:
        """Writes all layers and returns the name of the logits."""
        arch = self.net.arch
        x = self._relu(self._layer(arch.stem, PICTURE))
        for block in arch.blocks:
            x = self._block(block, x)
        channels = arch.classifier.inputs
        pooled = self._add(make_node("GlobalAveragePool", [x], "pool"), (1, channels, 1, 1))
        flat = self._add(make_node("Flatten", [pooled], "flat"), (1, channels))
        return self._classifier(arch.classifier, flat)

    def _block(self, block: Block, x: str) -> str:
        skip = x
        if block.shortcut is not None:
            skip = self._layer(block.shortcut, x)
        elif block.stride > 1 or block.before + block.after:
            skip = self._widened(block, x)
        inner = self._layer(block.conv2, self._relu(self._layer(block.conv1, x)))
        shape = self.shapes[inner]
        return self._relu(self._add(make_node("Add", [inner, skip], f"{block.name}.sum"), shape))

    def _widened(self, block: Block, x: str) -> str:
        """Every stride-th pixel, between channels of zeros."""
        _, channels, height, width = self.shapes[x]
        name = f"{block.name}.skip"
        ends = [[0, 0], [height, width], [2, 3], [block.stride] * 2]
        words = [self._constant(f"{name}.{i}", np.array(v, np.int64)) for i, v in enumerate(ends)]
        size = tuple(-(-side // block.stride) for side in (height, width))
        thin = self._add(make_node("Slice", [x, *words], f"{name}.thin"), (1, channels, *size))
        pads = self._constant(f"{name}.pads", np.array([0, block.before, 0, 0, 0, block.after, 0, 0], np.int64))
        return self._add(make_node("Pad", [thin, pads], name), (1, channels + block.before + block.after, *size))

    def _relu(self, x: str) -> str:
        return self._add(make_node("Relu", [x], f"{x}.relu"), self.shapes[x])

    def _layer(self, layer: Layer, x: str) -> str:
        weight, bias = self._folded(layer)
        inputs = [x, self._constant(f"{layer.name}.weight", weight), self._constant(f"{layer.name}.bias", bias)]
        attributes = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2, "pads": list(layer.padding)}
        return self._add(make_node("Conv", inputs, layer.name, **attributes), (1, layer.outputs, *layer.size))

    def _classifier(self, layer: Layer, x: str) -> str:
        weight, bias = self._folded(layer)
        flat = weight.reshape(layer.outputs, layer.inputs)
        inputs = [x, self._constant(f"{layer.name}.weight", flat), self._constant(f"{layer.name}.bias", bias)]
        return self._add(make_node("Gemm", inputs, layer.name, transB=1), (1, layer.outputs))

    def _folded(self, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        """Weights float32 [O, I, kH, kW] and bias float32 [O] with the batch norm behind them taken in."""
        conv = self.net.conv(layer)
        weight, norm = conv.weight.double(), conv.variant(FULL).norm
        if isinstance(norm, Bias):
            return weight.float().numpy(), norm.bias.float().numpy()
        norm = cast(nn.BatchNorm2d, norm)
        mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
        gain = norm.weight.double() / (variance.double() + norm.eps).sqrt()
        bias = norm.bias.double() - gain * mean.double()
        return (weight * gain.reshape(-1, 1, 1, 1)).float().numpy(), bias.float().numpy()

    def _constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = values
        return name

    def _add(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
        self.nodes.append(node)
        self.shapes[node.output[0]] = shape
        return str(node.output[0])
