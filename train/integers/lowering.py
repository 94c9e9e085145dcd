"""A trained variant as an integer graph, with every ratio of scales nudged to one that can meet no tie.

A convolution's ratio becomes 2**left / Q and a pool's or rescale's P / Q, Q odd. Then acc * ratio is never k + 1/2, so
that float QDQ arithmetic (onnxruntime), which rounds ties to even, gives the very codes of the integers.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from targets.reference.graph import Graph
from targets.reference.nodes import AvgPool, Conv, Node, Requant, Rescale, Shortcut, Tensor, skip_multiplier
from targets.reference.scales import conv_requant, float32, logit_scale, odd_ratio, rescale_requant, tie_free
from train.network.architectures import INPUT_SCALE, Block, Layer
from train.network.network import FULL, Network, key

OUTPUT = "logits"


def lower(net: Network, variant: str) -> Graph:
    """The graph of one variant; node names are layer names. Raises GraphError where an accumulator could overflow."""
    if variant == FULL or variant not in net.bits:
        raise ValueError(f"expected a quantized variant of {sorted(net.bits)}, got {variant}")
    builder = _Builder(net, variant)
    with torch.no_grad():
        builder.build()
    return Graph(variant, builder.tensors, tuple(builder.nodes), "image", OUTPUT)


@dataclass(frozen=True)
class _Affine:
    """A layer's real output as gain * sum + offset, float64 [O]; the sum is of real inputs and quantized weights."""

    gain: np.ndarray
    offset: np.ndarray


def _affine(norm: nn.Module) -> _Affine:
    if isinstance(norm, nn.BatchNorm2d):
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        offset = norm.bias.double() - gain * norm.running_mean.double()
        return _Affine(gain.cpu().numpy(), offset.cpu().numpy())
    return _Affine(np.ones(len(norm.bias)), norm.bias.double().cpu().numpy())


class _Builder:
    """Appends nodes and tensors in running order; a tensor is named after the node that makes it."""

    def __init__(self, net: Network, variant: str):
        self.net, self.variant = net, variant
        self.stream = net.streams[variant]
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}

    def build(self) -> None:
        arch = self.net.arch
        zero_point = tuple(self.net.zero_point.tolist())
        self.tensors["image"] = Tensor("image", arch.shape, 8, INPUT_SCALE, zero_point)
        x = self.conv(arch.stem, "image", self.stream_scale(0))
        for index, block in enumerate(arch.blocks, 1):
            x = self.block(index, block, x)
        self.classifier(arch.classifier, self.pool(arch.classifier, x))

    def stream_scale(self, index: int) -> float:
        base = self.stream.log_base.double().exp()
        return float32((base * self.stream.factors()[index]).item())

    def add(self, node: Node, shape, bits: int, scale: float, zero_point: int = 0) -> str:
        self.tensors[node.output] = Tensor(node.output, tuple(shape), bits, float32(scale), (zero_point,))
        self.nodes.append(node)
        return node.output

    def block(self, index: int, block: Block, x: str) -> str:
        codes = self.input_codes(block.conv1, x)
        inner = self.net.convs[key(block.conv2)].variants[self.variant].a
        middle = self.conv(block.conv1, codes, float(inner.step()), inner.bits)
        skip = self.skip(index, block, x, codes)
        return self.conv(
            block.conv2,
            middle,
            self.stream_scale(index),
            skip=skip,
            divisor=3 if block.shortcut is not None else int(self.stream.d[index]),
        )

    def skip(self, index: int, block: Block, x: str, codes: str) -> str:
        if block.shortcut is not None:
            source = codes if self.net.reads(block.shortcut, self.variant) == block.conv1.name else None
            scale = self.stream_scale(index) * int(self.stream.side_n[index]) / 3
            return self.conv(
                block.shortcut,
                source or self.input_codes(block.shortcut, x),
                scale,
                zero_point=int(self.stream.side_zero[index]),
            )
        if not block.before + block.after and block.stride == 1:
            return x
        name, shape = f"{block.name}.skip", (*block.conv2.size, block.conv2.outputs)
        return self.add(Shortcut(name, x, name, block.stride, block.before), shape, 8, self.tensors[x].scale)

    def input_codes(self, layer: Layer, x: str) -> str:
        """The stream itself for an 8-bit input, else a copy of it in the layer's own step."""
        quantizer = self.net.convs[key(layer)].variants[self.variant].a
        if quantizer is None:
            return x
        name, source = f"{layer.name}.input", self.tensors[x]
        scale, requant = self.pointwise(source.scale, float(quantizer.step()))
        return self.add(Rescale(name, x, name, requant, 0, quantizer.qmax), source.shape, quantizer.bits, scale)

    def pool(self, classifier: Layer, x: str) -> str:
        source, quantizer = self.tensors[x], self.net.convs[key(classifier)].variants[self.variant].a
        area = source.shape[0] * source.shape[1]
        scale, requant = self.pointwise(source.scale, float(quantizer.step()), area)
        node = AvgPool("pool", x, "pool", source.shape[:2], 1, requant, 0, quantizer.qmax)
        return self.add(node, (1, 1, source.shape[2]), quantizer.bits, scale)

    @staticmethod
    def pointwise(source: float, wanted: float, area: int = 1) -> tuple[float, Requant]:
        """The scale nearest to the wanted one that makes a tie-free ratio, and its requantization."""
        p, q = odd_ratio(source / (wanted * area))
        scale = float32(source * q / (p * area))
        return scale, rescale_requant(source, scale, area)

    def conv(
        self,
        layer: Layer,
        x: str,
        scale: float,
        bits: int = 8,
        zero_point: int = 0,
        skip: str | None = None,
        divisor: int = 1,
    ) -> str:
        """A convolution to unsigned codes of the given scale; the clamp at 0 is its ReLU."""
        conv, scale, source = self.net.convs[key(layer)], float32(scale), self.tensors[x].scale
        affine, per_variant = _affine(conv.variants[self.variant].norm), conv.variants[self.variant]
        step = np.broadcast_to(per_variant.w.step().double().cpu().numpy().reshape(-1), (layer.outputs,))
        natural = source * step * affine.gain / scale
        weight, left, q = tie_free(self.codes(layer), natural, divisor)
        w_scale = (np.exp2(left) * scale / (q * source)).astype(np.float32)
        node = Conv(
            layer.name,
            x,
            layer.name,
            weight.astype(np.int8),
            per_variant.w.bits,
            np.rint(affine.offset * q / scale).astype(np.int64),
            w_scale,
            conv_requant(source, w_scale, scale),
            layer.stride,
            layer.padding,
            qmax=(1 << bits) - 1,
        )
        if skip is not None:
            node = replace(
                node,
                skip=skip,
                skip_multiplier=skip_multiplier(source, w_scale, node.requant.left, self.tensors[skip].scale),
            )
        return self.add(node, (*layer.size, layer.outputs), bits, scale, zero_point)

    def classifier(self, layer: Layer, x: str) -> None:
        """Logits: the accumulator itself, with one weight scale for all classes."""
        per_variant, source = self.net.convs[key(layer)].variants[self.variant], self.tensors[x].scale
        w_scale = np.full(layer.outputs, float(per_variant.w.step()), np.float32)
        unit = logit_scale(source, w_scale[0])
        bias = np.rint(per_variant.norm.bias.double().cpu().numpy() / unit).astype(np.int64)
        node = Conv(layer.name, x, OUTPUT, self.codes(layer).astype(np.int8), per_variant.w.bits, bias, w_scale)
        self.add(node, (1, 1, layer.outputs), 32, unit)

    def codes(self, layer: Layer) -> np.ndarray:
        """Weight codes int64 [O, kH, kW, I], rounded in the arithmetic of the forward pass."""
        conv = self.net.convs[key(layer)]
        quantizer = conv.variants[self.variant].w
        codes = (conv.weight_of(self.variant) / quantizer.step() + 0.5).floor().clamp(quantizer.qmin, quantizer.qmax)
        return codes.permute(0, 2, 3, 1).cpu().numpy().astype(np.int64)
