"""Lowers a trained variant to an integer graph, with every ratio of scales nudged to one that can meet no tie.

A convolution's ratio becomes 2**left / Q and a pool's or rescale's P / Q, Q odd. Then acc * ratio is never k + 1/2, so
that float QDQ arithmetic (onnxruntime), which rounds ties to even, gives the very codes of the integers.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import nn

from targets.reference.graph import Graph
from targets.reference.nodes import AvgPool, Conv, Node, Requant, Rescale, Shortcut, Tensor
from targets.reference.scales import (
    conv_requant,
    float32,
    logit_scale,
    odd_ratio,
    rescale_requant,
    skip_multiplier,
    tie_free,
)
from train.network.architectures import INPUT_SCALE, Block, Layer
from train.network.layers import PerVariant, QuantConv
from train.network.network import FULL, Network, key
from train.network.quantizers import Quantizer, Stream

IMAGE, LOGITS = "image", "logits"  # names of the graph's input and output
Shape = tuple[int, int, int]  # [H, W, C]


def lower(net: Network, variant: str) -> Graph:
    """Returns the graph of one quantized variant; node names are layer names.

    Raises ValueError for a variant that the network has not, and GraphError where an accumulator could overflow.
    """
    if variant == FULL or variant not in net.bits:
        raise ValueError(f"expected a quantized variant of {sorted(net.bits)}, got {variant}")
    builder = _Builder(net, variant)
    with torch.no_grad():
        builder.build()
    return Graph(variant, builder.tensors, tuple(builder.nodes), IMAGE, LOGITS)


@dataclass(frozen=True)
class _Affine:
    """A layer's real output as gain * sum + offset, float64 [O]; the sum is of real inputs and quantized weights."""

    gain: np.ndarray
    offset: np.ndarray


def _affine(norm: nn.Module) -> _Affine:
    if isinstance(norm, nn.BatchNorm2d):
        mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
        gain = norm.weight.double() / (variance.double() + norm.eps).sqrt()
        offset = norm.bias.double() - gain * mean.double()
        return _Affine(gain.cpu().numpy(), offset.cpu().numpy())
    bias = _bias(norm)
    return _Affine(np.ones(len(bias)), bias)


def _bias(norm: nn.Module) -> np.ndarray:
    """float64 [O] of a layer without batch norm."""
    return cast(torch.Tensor, norm.bias).double().cpu().numpy()


@dataclass(frozen=True)
class _Residual:
    """The operand that is added to a convolution's sum, and what the convolution's ratio must divide for it."""

    skip: str
    divisor: int


class _Builder:
    """Appends nodes and tensors in running order; a tensor is named after the node that makes it."""

    def __init__(self, net: Network, variant: str):
        self.net = net
        self.variant = variant
        self.stream = cast(Stream, net.streams[variant])
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}

    def build(self) -> None:
        """Appends the whole network."""
        arch = self.net.arch
        zero_point = tuple(cast(torch.Tensor, self.net.zero_point).tolist())
        self.tensors[IMAGE] = Tensor(IMAGE, arch.shape, 8, INPUT_SCALE, zero_point)
        x = self.conv(arch.stem, IMAGE, self.stream_scale(0))
        for index, block in enumerate(arch.blocks, 1):
            x = self.block(index, block, x)
        self.classifier(arch.classifier, self.pool(arch.classifier, x))

    def trained(self, layer: Layer) -> QuantConv:
        """The layer as it was trained, with all of its variants."""
        return cast(QuantConv, self.net.convs[key(layer)])

    def of_variant(self, layer: Layer) -> PerVariant:
        """What the layer keeps for this variant alone: quantizers of weights and input, and its norm."""
        return cast(PerVariant, self.trained(layer).variants[self.variant])

    def weight_quantizer(self, layer: Layer) -> Quantizer:
        """The quantizer of the layer's weights, which every quantized variant has."""
        return cast(Quantizer, self.of_variant(layer).w)

    def stream_scale(self, index: int) -> float:
        """The scale of the residual stream after so many blocks."""
        base = self.stream.log_base.double().exp()
        return float32((base * self.stream.factors()[index]).item())

    def add(self, node: Node, shape: Shape, bits: int, scale: float, zero_point: int = 0) -> str:
        """Appends a node and its output, whose name it returns."""
        self.tensors[node.output] = Tensor(node.output, shape, bits, float32(scale), (zero_point,))
        self.nodes.append(node)
        return node.output

    def block(self, index: int, block: Block, x: str) -> str:
        """Appends a residual block and returns its output."""
        codes = self.input_codes(block.conv1, x)
        inner = cast(Quantizer, self.of_variant(block.conv2).a)
        middle = self.conv(block.conv1, codes, float(inner.step()), inner.bits)
        divisors = cast(torch.Tensor, self.stream.d)
        divisor = 3 if block.shortcut is not None else int(divisors[index])
        residual = _Residual(self.skip(index, block, x, codes), divisor)
        return self.conv(block.conv2, middle, self.stream_scale(index), residual=residual)

    def skip(self, index: int, block: Block, x: str, codes: str) -> str:
        """Appends what the block adds to its convolutions: its input, a padded copy, or a 1x1 convolution of it."""
        if block.shortcut is not None:
            numerators, zeros = cast(torch.Tensor, self.stream.side_n), cast(torch.Tensor, self.stream.side_zero)
            reads_codes = self.net.reads(block.shortcut, self.variant) == block.conv1.name
            source = codes if reads_codes else self.input_codes(block.shortcut, x)
            scale = self.stream_scale(index) * int(numerators[index]) / 3
            return self.conv(block.shortcut, source, scale, zero_point=int(zeros[index]))
        if not block.before + block.after and block.stride == 1:
            return x
        name = f"{block.name}.skip"
        shape = (*block.conv2.size, block.conv2.outputs)
        return self.add(
            Shortcut(name, x, name, (block.stride, block.stride), block.before), shape, 8, self.tensors[x].scale
        )

    def input_codes(self, layer: Layer, x: str) -> str:
        """Returns the stream itself for an 8-bit input, else appends a copy of it in the layer's own step."""
        quantizer = self.of_variant(layer).a
        if quantizer is None:
            return x
        name = f"{layer.name}.input"
        source = self.tensors[x]
        scale, requant = self.pointwise(source.scale, float(quantizer.step()))
        return self.add(Rescale(name, x, name, requant, 0, quantizer.qmax), source.shape, quantizer.bits, scale)

    def pool(self, classifier: Layer, x: str) -> str:
        """Appends the average over the whole map, in the step of the classifier's input."""
        source = self.tensors[x]
        quantizer = cast(Quantizer, self.of_variant(classifier).a)
        height, width, channels = source.shape
        scale, requant = self.pointwise(source.scale, float(quantizer.step()), height * width)
        node = AvgPool("pool", x, "pool", (height, width), (1, 1), requant, 0, quantizer.qmax)
        return self.add(node, (1, 1, channels), quantizer.bits, scale)

    @staticmethod
    def pointwise(source: float, wanted: float, area: int = 1) -> tuple[float, Requant]:
        """Returns the scale nearest to the wanted one that makes a tie-free ratio, and its requantization."""
        p, q = odd_ratio(source / (wanted * area))
        scale = float32(source * q / (p * area))
        return scale, rescale_requant(source, scale, area)

    def conv(
        self, layer: Layer, x: str, scale: float, bits: int = 8, zero_point: int = 0, residual: _Residual | None = None
    ) -> str:
        """Appends a convolution to unsigned codes of the given scale; the clamp at 0 is its ReLU."""
        scale = float32(scale)
        source = self.tensors[x].scale
        affine = _affine(self.of_variant(layer).norm)
        quantizer = self.weight_quantizer(layer)
        step = np.broadcast_to(quantizer.step().double().cpu().numpy().reshape(-1), (layer.outputs,))
        ratio = source * step * affine.gain / scale
        weight, left, q = tie_free(self.codes(layer), ratio, 1 if residual is None else residual.divisor)
        w_scale = (np.exp2(left) * scale / (q * source)).astype(np.float32)
        requant = conv_requant(source, w_scale, scale)
        node = Conv(
            layer.name,
            x,
            layer.name,
            weight.astype(np.int8),
            quantizer.bits,
            np.rint(affine.offset * q / scale).astype(np.int64),
            w_scale,
            requant,
            (layer.stride, layer.stride),
            layer.padding,
            qmax=(1 << bits) - 1,
        )
        if residual is not None:
            multiplier = skip_multiplier(source, w_scale, requant.left, self.tensors[residual.skip].scale)
            node = replace(node, skip=residual.skip, skip_multiplier=multiplier)
        return self.add(node, (*layer.size, layer.outputs), bits, scale, zero_point)

    def classifier(self, layer: Layer, x: str) -> None:
        """Appends the logits: the accumulator itself, with one weight scale for all classes."""
        quantizer = self.weight_quantizer(layer)
        w_scale = np.full(layer.outputs, float(quantizer.step()), np.float32)
        unit = logit_scale(self.tensors[x].scale, w_scale[0])
        bias = np.rint(_bias(self.of_variant(layer).norm) / unit).astype(np.int64)
        node = Conv(layer.name, x, LOGITS, self.codes(layer).astype(np.int8), quantizer.bits, bias, w_scale)
        self.add(node, (1, 1, layer.outputs), 32, unit)

    def codes(self, layer: Layer) -> np.ndarray:
        """Returns weight codes int64 [O, kH, kW, I], rounded in the arithmetic of the forward pass."""
        quantizer = self.weight_quantizer(layer)
        weight = self.trained(layer).weight_of(self.variant)
        codes = (weight / quantizer.step() + 0.5).floor().clamp(quantizer.qmin, quantizer.qmax)
        return codes.permute(0, 2, 3, 1).cpu().numpy().astype(np.int64)
