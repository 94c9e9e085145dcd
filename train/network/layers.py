"""One quantized convolution of a network of variants: weights that variants share, and what each has of its own."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.network.architectures import Layer
from train.network.quantizers import Quantizer

FULL = "full"  # the variant of full precision


@dataclass(frozen=True)
class Route:
    """The way of one forward pass: through which variant, and whether it calibrates that variant's steps as it goes."""

    variant: str
    fit: bool = False


class Bias(nn.Module):
    """Adds a bias, a parameter [O], where a convolution has no batch norm."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns x + bias, float [N, O, H, W]."""
        return x + self.bias.view(-1, 1, 1)


class PerVariant(nn.Module):
    """What a variant has of its own in one layer.

    w, a: quantizers of weights and of the input, None where those stay as they are; norm: batch norm or bias; weight:
    parameter [O, I, kH, kW], None where the variant shares the layer's.
    """

    norm: nn.BatchNorm2d | Bias
    weight: nn.Parameter | None

    def __init__(self, layer: Layer, eps: float, w: Quantizer | None, a: Quantizer | None):
        super().__init__()
        self.w, self.a = w, a
        self.register_parameter("weight", None)
        self.norm = nn.BatchNorm2d(layer.outputs, eps=eps) if layer.norm else Bias(layer.outputs)


class QuantConv(nn.Module):
    """A convolution for several variants, all of which share its weights but for those that have their own.

    weight: parameter [O, I, kH, kW] of full precision; variants: name -> PerVariant; operands: see `multiplying_in`.
    """

    def __init__(self, layer: Layer, eps: float):
        super().__init__()
        self.layer = layer
        self.eps = eps
        self.operands: torch.dtype | None = None
        weight = torch.empty(layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        nn.init.kaiming_normal_(weight, mode="fan_out" if layer.norm else "fan_in", nonlinearity="relu")
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.variants = nn.ModuleDict({FULL: PerVariant(layer, eps, None, None)})

    def variant(self, name: str) -> PerVariant:
        """Returns what a variant has of its own."""
        return cast(PerVariant, self.variants[name])

    def add_variant(self, name: str, w_bits: int, a: Quantizer | None) -> None:
        """Adds a variant with an input quantizer, None for an input that is on a grid already."""
        # The classifier has one weight step for all classes, so that its sums compare.
        channels = 1 if self.layer.source == "pool" else self.layer.outputs
        self.variants[name] = PerVariant(self.layer, self.eps, Quantizer(w_bits, True, channels), a)
        self.inherit(name)

    def inherit(self, name: str) -> None:
        """Gives a variant the full-precision one's batch norm or bias, to start with."""
        self.variant(name).norm.load_state_dict(self.variant(FULL).norm.state_dict())

    def codes(self, x: Tensor, route: Route) -> Tensor:
        """Returns the layer's input [N, I, H, W] on its grid, which is unsigned and so also the ReLU of a sum."""
        if route.variant == FULL:
            return x.relu() if self.layer.source == "conv" else x
        return quantize(self.variant(route.variant).a, x, route.fit)

    def forward(self, x: Tensor, route: Route) -> Tensor:
        """Returns the output [N, O, H, W], batch norm or bias included, of an input [N, I, H, W] on its grid."""
        own = self.variant(route.variant)
        return own.norm(self.convolve(x, quantize(own.w, self.weight_of(route.variant), route.fit)))

    def weight_of(self, variant: str) -> nn.Parameter:
        """Returns the weights [O, I, kH, kW] that a variant quantizes, its own or the shared ones."""
        own = self.variant(variant).weight
        return self.weight if own is None else own

    def own_weight(self, variant: str) -> None:
        """Gives a variant weights of its own, which start as the shared ones."""
        copy = self.weight.detach().clone(memory_format=torch.preserve_format)
        self.variant(variant).weight = nn.Parameter(copy)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the convolution of x [N, I, H, W] with weights [O, I, kH, kW], in the type of x."""
        dtype = x.dtype
        top, left, bottom, right = self.layer.padding
        if self.operands is not None:
            x, weight = x.to(self.operands), weight.to(self.operands)
        if (top, left) == (bottom, right):
            return F.conv2d(x, weight, None, self.layer.stride, (top, left)).to(dtype)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, self.layer.stride).to(dtype)


def quantize(quantizer: Quantizer | None, x: Tensor, fit: bool) -> Tensor:
    """Returns x [...] on a quantizer's grid, calibrated on x first where `fit`; x itself without a quantizer."""
    if quantizer is None:
        return x
    if fit:
        quantizer.fit(x)
    return quantizer(x)


def key(layer: Layer) -> str:
    """Returns a layer's name as that of a module, which may hold no dot."""
    return layer.name.replace(".", "_")
