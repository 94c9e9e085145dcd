"""Grows an integer network layer by layer, with random weights and scales that let codes spread on made-up pictures."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from targets.reference.checks import output_shape
from targets.reference.graph import Graph
from targets.reference.nodes import AvgPool, Conv, MaxPool, Node, Rescale, Shortcut, Tensor
from targets.reference.scales import (
    conv_requant,
    float32,
    logit_scale,
    odd_ratio,
    rescale_requant,
    skip_multiplier,
    tie_free,
)
from train.network.architectures import INPUT_SCALE
from train.network.quantizers import nearest_skip_ratio

SIGMAS = 3.5  # standard deviations of weights within their range, as training leaves them
ZERO_POINT = (124, 116, 104)  # of the picture: the mean of natural ones
CALIBRATION = 2  # pictures


def clouds(shape: tuple[int, int, int], n: int, seed: int) -> np.ndarray:
    """uint8 [n, H, W, C]: smooth colours with a little noise, which a picture's codes look like."""
    rng, (h, w, c) = np.random.default_rng(seed), shape
    coarse = torch.tensor(rng.normal(128, 70, (n, c, 6, 6)))
    smooth = F.interpolate(coarse, (h, w), mode="bicubic").permute(0, 2, 3, 1).numpy()
    return (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).round().astype(np.uint8)


def reach(bits: int) -> float:
    """Standard deviations that the codes of a sum span: the fewer they are, the more they clip."""
    return 1.5 + bits / 3


@dataclass(frozen=True)
class LayerSpec:
    """A convolution to grow, with a ReLU or, if signed, without.

    bits: of its output. padding: None for half of the kernel on every side. scale: of the output, chosen where there is
    none. skip: a tensor to add. divisor: d where the `skip` has n / d of the output's scale.
    """

    channels: int
    kernel: int
    w_bits: int
    bits: int = 8
    stride: int = 1
    padding: tuple[int, int, int, int] | None = None
    groups: int = 1
    signed: bool = False
    scale: float | None = None
    skip: str | None = None
    divisor: int = 1


class Grower:
    """Appends nodes and tensors in running order; a tensor is named after the node that makes it.

    Ratios are those of training: no sum lies on a tie (train/integers/lowering.py). `codes` holds float32 [N, C, H, W],
    code - zero_point, of every tensor on the made-up pictures."""

    def __init__(self, name: str, shape: tuple[int, int, int], seed: int):
        self.name, self.rng = name, np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.tensors = {"image": Tensor("image", shape, 8, INPUT_SCALE, ZERO_POINT)}
        pictures = torch.tensor(clouds(shape, CALIBRATION, seed)).permute(0, 3, 1, 2).float()
        self.codes = {"image": pictures - torch.tensor(ZERO_POINT).view(-1, 1, 1)}

    def weights(self, shape: tuple[int, ...], w_bits: int) -> np.ndarray:
        """Returns int64 codes [O, kH, kW, I] of that shape, normally distributed."""
        half = 1 << (w_bits - 1)
        return self.rng.normal(0, half / SIGMAS, shape).round().clip(-half, half - 1).astype(np.int64)

    def conv(self, name: str, x: str, layer: LayerSpec) -> str:
        """Appends a convolution; real sums have a deviation of about 1. Returns the name of its output."""
        source, kernel, scale, divisor = self.tensors[x], layer.kernel, layer.scale, layer.divisor
        padding = (kernel // 2,) * 4 if layer.padding is None else layer.padding
        weight = self.weights((layer.channels, kernel, kernel, source.shape[2] // layer.groups), layer.w_bits)
        sums = self._sums(x, weight, layer.stride, padding, layer.groups)
        deviation, mean = (v.numpy().astype(np.float64) for v in torch.std_mean(sums, (0, 2, 3)))
        gain = self.rng.uniform(0.7, 1.4, layer.channels) / np.maximum(deviation, 1e-3 * deviation.max())
        offset = self.rng.normal(0, 0.3, layer.channels) - gain * mean
        if scale is None:
            scale = (2 if layer.signed else 1) * reach(layer.bits) / ((1 << layer.bits) - 1)
            if layer.skip is not None:
                scale, divisor = self._stream_scale(layer.skip, _affine(sums, gain, offset), layer.signed)
        scale = float32(scale)
        weight, left, q = tie_free(weight, gain / scale, divisor)
        w_scale = (np.exp2(left) * scale / (q * source.scale)).astype(np.float32)
        skip = layer.skip
        units = None if skip is None else skip_multiplier(source.scale, w_scale, left, self.tensors[skip].scale)
        node = Conv(
            name,
            x,
            name,
            weight.astype(np.int8),
            layer.w_bits,
            np.rint(offset * q / scale).astype(np.int64),
            w_scale,
            conv_requant(source.scale, w_scale, scale),
            (layer.stride, layer.stride),
            padding,
            layer.groups,
            0,
            (1 << layer.bits) - 1,
            skip,
            units,
        )
        real = _affine(self._sums(x, weight, layer.stride, padding, layer.groups), np.exp2(left) / q * scale, offset)
        zero_point = (1 << (layer.bits - 1)) if layer.signed else 0
        return self._append(node, layer.bits, scale, zero_point, real + self._real(skip))

    def rescale(self, name: str, x: str, bits: int) -> str:
        """The same values in fewer bits."""
        source, codes = self.tensors[x], self.codes[x]
        signed, qmax = bool(source.zero_point[0]), (1 << bits) - 1
        top = min(float(codes.abs().max()), reach(bits) * float(codes.square().mean().sqrt()))
        scale, requant = self._pointwise(source.scale, source.scale * (2 if signed else 1) * top / qmax)
        return self._append(
            Rescale(name, x, name, requant, 0, qmax), bits, scale, (1 << (bits - 1)) if signed else 0, self._real(x)
        )

    def pool(self, x: str) -> str:
        """The average of each channel, unsigned."""
        source, mean = self.tensors[x], self._real(x).mean((2, 3), keepdim=True)
        area = source.shape[0] * source.shape[1]
        scale, requant = self._pointwise(source.scale, float(mean.max()) / 255, area)
        return self._append(AvgPool("pool", x, "pool", source.shape[:2], (1, 1), requant), 8, scale, 0, mean)

    def max_pool(self, x: str) -> str:
        """3x3 windows at every second pixel."""
        node, source = MaxPool("max_pool", x, "max_pool", (3, 3), (2, 2), (1, 1, 1, 1)), self.tensors[x]
        return self._append(node, 8, source.scale, 0, F.max_pool2d(self._real(x), 3, 2, 1))

    def shortcut(self, name: str, x: str, stride: int, before: int, after: int) -> str:
        """Every stride-th pixel, among empty channels."""
        real = F.pad(self._real(x)[:, :, ::stride, ::stride], (0, 0, 0, 0, before, after))
        return self._append(Shortcut(name, x, name, (stride, stride), before), 8, self.tensors[x].scale, 0, real)

    def finish(self, x: str, classes: int) -> Graph:
        """Average and 8-bit classifier of the last map."""
        x = self.pool(x)
        weight = self.weights((classes, 1, 1, self.tensors[x].shape[2]), 8)
        w_scale = np.full(classes, 0.001, np.float32)
        unit = logit_scale(self.tensors[x].scale, w_scale[0])
        bias = np.rint(self.rng.normal(0, 0.1, classes) / unit).astype(np.int64)
        self.nodes.append(Conv("linear", x, "logits", weight.astype(np.int8), 8, bias, w_scale))
        self.tensors["logits"] = Tensor("logits", (1, 1, classes), 32, unit)
        return Graph(self.name, self.tensors, tuple(self.nodes), "image", "logits")

    def _sums(self, x: str, weight: np.ndarray, stride: int, padding, groups: int) -> torch.Tensor:
        top, left, bottom, right = padding
        padded = F.pad(self.codes[x], (left, right, top, bottom))
        return F.conv2d(padded, torch.tensor(weight).permute(0, 3, 1, 2).float(), None, stride, 0, 1, groups)

    def _real(self, name: str | None):
        return 0 if name is None else self.codes[name] * self.tensors[name].scale

    def _stream_scale(self, skip: str, real: torch.Tensor, signed: bool) -> tuple[float, int]:
        """Scale that holds a sum with its residual operand, n / d times that one's, and d."""
        top, before = float((real + self._real(skip)).abs().max()), self.tensors[skip].scale
        n, d = nearest_skip_ratio(before * (127 if signed else 255) / top)
        return before * d / n, d

    @staticmethod
    def _pointwise(source: float, wanted: float, area: int = 1):
        p, q = odd_ratio(source / (wanted * area))
        scale = float32(source * q / (p * area))
        return scale, rescale_requant(source, scale, area)

    def _append(self, node: Node, bits: int, scale: float, zero_point: int, real: torch.Tensor) -> str:
        shape = output_shape(node, self.tensors[node.inputs[0]].shape, real.shape[1])
        self.tensors[node.output] = Tensor(node.output, shape, bits, float32(scale), (zero_point,))
        self.codes[node.output] = (real / scale + 0.5).floor().clamp(-zero_point, (1 << bits) - 1 - zero_point)
        self.nodes.append(node)
        return node.output


def _affine(sums: torch.Tensor, gain: np.ndarray, offset: np.ndarray) -> torch.Tensor:
    return sums * torch.tensor(gain).float().view(-1, 1, 1) + torch.tensor(offset).float().view(-1, 1, 1)
