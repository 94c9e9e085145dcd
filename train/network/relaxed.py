"""A network whose widths are still open: every layer mixes several quantizers and yet runs one convolution.

    W^ = sum_b y_b Q_b(W),   A^ = sum_b y_b Q_b(A)

with shares y of the candidate widths b, one learned step for each layer and width (LSQ, or bit planes of CSQ for
weights), and one batch norm for each layer, or for each layer and kind of quality. Where y is one-hot only the chosen
width is computed.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from train.network.architectures import END_BITS, Architecture, Layer, open_layers
from train.network.layers import FULL, Bias, QuantConv, Route, quantize
from train.network.mixed import Mixed
from train.network.network import Network
from train.network.planes import Planes
from train.network.quantizers import Quantizer

RELAXED = "relaxed"  # the name of the one variant whose widths are open
WEIGHTS, ACTIVATIONS = 0, 1  # heads of a mixture


@dataclass(frozen=True, eq=False)
class Mixture:
    """Shares of the W widths in each of L open layers, for weights (head 0) and activations (head 1).

    rows: the L * 2 rows of y, each [W] and summing to 1; their gradient is that of the loss. values: y as nested lists,
    read from the device once. kind: whose batch norms. beta: temperature of bit planes, None for exact bits.
    """

    rows: tuple[Tensor, ...]
    values: list
    kind: int = 0
    beta: float | None = None

    @classmethod
    def of(cls, y: Tensor, kind: int = 0, beta: float | None = None) -> "Mixture":
        """Returns the mixture of shares y float [L, 2, W]."""
        return cls(y.flatten(0, 1).unbind(0), y.tolist(), kind, beta)

    def head(self, layer: int, head: int) -> tuple[Tensor, list[float]]:
        """Returns the shares [W] of one head of the layer at a position, and their numbers."""
        return self.rows[2 * layer + head], self.values[layer][head]


@dataclass(frozen=True, kw_only=True)
class MixedRoute(Route):
    """The way of a forward pass through a mixture of widths; `fit` calibrates the steps of all of them as it goes."""

    mixture: Mixture


@dataclass(frozen=True)
class OpenWidths:
    """What is still open in a network.

    widths: candidates, ascending; kinds: how many kinds of quality have batch norms of their own; planes: None for
    weights of learned steps, else they are bit planes that are fitted at the width of this index.
    """

    widths: tuple[int, ...]
    kinds: int
    planes: int | None


class RelaxedPerVariant(nn.Module):
    """What an open layer keeps for its widths: quantizers w, a of weights and input, and batch norms.

    norms: one for each kind of quality, see `make_norms`.
    """

    def __init__(self, layer: Layer, eps: float, open_widths: OpenWidths):
        super().__init__()
        widths = open_widths.widths
        fitted = open_widths.planes
        shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        self.w = Mixed(widths, True, layer.outputs) if fitted is None else Planes(widths, shape, fitted)
        self.a = Mixed(widths, False, plain=layer.source == "stream")
        self.norms = make_norms(layer, eps, open_widths.kinds)


class EndPerVariant(nn.Module):
    """What a layer that stays at 8 bits keeps beside open ones: quantizers as in `PerVariant`, and batch norms."""

    def __init__(self, w: Quantizer | None, a: Quantizer | None, norms: nn.ModuleList):
        super().__init__()
        self.w, self.a, self.norms = w, a, norms


def make_norms(layer: Layer, eps: float, kinds: int) -> nn.ModuleList:
    """Returns a batch norm, or bias, for each kind of quality.

    Without running statistics, which would be those of many configurations: pictures are judged by whole batches.
    """
    if not layer.norm:
        return nn.ModuleList(Bias(layer.outputs) for _ in range(kinds))
    return nn.ModuleList(nn.BatchNorm2d(layer.outputs, eps=eps, track_running_stats=False) for _ in range(kinds))


class RelaxedConv(QuantConv):
    """A convolution of open widths; `position` is its row in a mixture, None for one that stays at 8 bits."""

    def __init__(self, layer: Layer, eps: float, position: int | None, open_widths: OpenWidths):
        super().__init__(layer, eps)
        self.position = position
        self.open_widths = open_widths

    def add_variant(self, name: str, w_bits: int, a: Quantizer | None) -> None:
        """Adds the variant of open widths; of the layers that stay at 8 bits, one with a batch norm a kind."""
        if self.position is not None:
            self.variants[name] = RelaxedPerVariant(self.layer, self.eps, self.open_widths)
            return
        super().add_variant(name, w_bits, a)
        closed = self.variant(name)
        norms = make_norms(self.layer, self.eps, self.open_widths.kinds)
        self.variants[name] = EndPerVariant(closed.w, closed.a, norms)

    def inherit(self, name: str) -> None:
        """Gives every batch norm of a variant the full-precision one's gamma and beta."""
        own = self.variants[name]
        if isinstance(own, RelaxedPerVariant | EndPerVariant):
            trained = dict(self.variant(FULL).norm.named_parameters())
            for norm in own.norms:
                norm.load_state_dict(trained)

    def codes(self, x: Tensor, route: Route) -> Tensor:
        """Returns the layer's input [N, I, H, W] as the mixture of its grids."""
        own = self.variants[route.variant]
        if isinstance(own, RelaxedPerVariant) and isinstance(route, MixedRoute):
            return self._mix(own.a, x, route, ACTIVATIONS)
        return super().codes(x, route)

    def forward(self, x: Tensor, route: Route) -> Tensor:
        """Returns the layer's output [N, O, H, W], batch norm or bias included, of an input [N, I, H, W]."""
        if not isinstance(route, MixedRoute):
            return super().forward(x, route)
        own = self.variants[route.variant]
        if isinstance(own, RelaxedPerVariant):
            weight = self._mix(own.w, self.weight, route, WEIGHTS)
        else:
            weight = quantize(cast(EndPerVariant, own).w, self.weight, route.fit)
        return cast(nn.ModuleList, own.norms)[route.mixture.kind](self.convolve(x, weight))

    def _mix(self, mixed: Mixed | Planes, x: Tensor, route: MixedRoute, head: int) -> Tensor:
        if route.fit:
            mixed.fit(x)
        y, values = route.mixture.head(cast(int, self.position), head)
        if isinstance(mixed, Planes):
            return mixed(x, y, values, route.mixture.beta)
        return mixed(x, y, values)


class RelaxedNetwork(Network):
    """The network of open widths over the weights of a full-precision one.

    widths: candidates, ascending; kinds, planes: see OpenWidths; one_input: all activations have the same width, so
    that a projected shortcut reads its block's codes.
    """

    def __init__(
        self,
        arch: Architecture,
        widths: tuple[int, ...],
        kinds: int = 1,
        planes: int | None = None,
        one_input: bool = False,
    ):
        # Before the parent's __init__, which makes the convolutions.
        self.widths = widths
        self.open_widths = OpenWidths(widths, kinds, planes)
        self.one_input = one_input
        self.positions = {layer.name: k for k, layer in enumerate(open_layers(arch))}
        super().__init__(arch, {RELAXED: {layer.name: END_BITS for layer in arch.layers}})

    def make_conv(self, layer: Layer) -> RelaxedConv:
        """Returns the module that computes a layer at open widths."""
        return RelaxedConv(layer, self.arch.eps, self.positions.get(layer.name), self.open_widths)

    def open_variant(self, layer: Layer) -> RelaxedPerVariant:
        """Returns what an open layer keeps for its widths."""
        return cast(RelaxedPerVariant, self.conv(layer).variants[RELAXED])

    def reads(self, layer: Layer, variant: str) -> str | None:
        """Returns whose codes a layer takes as they are, as `Network.reads` does."""
        blocks = [block.conv1.name for block in self.arch.blocks if layer is block.shortcut]
        return blocks[0] if blocks and self.one_input else super().reads(layer, variant)

    def forward(self, pictures: Tensor, mixture: Mixture, fit: bool = False) -> Tensor:  # type: ignore[override]
        """Returns logits [N, classes] of pictures uint8 [N, H, W, 3], normalized by these very pictures' statistics."""
        return self.run(pictures, MixedRoute(RELAXED, fit, mixture=mixture))

    @torch.no_grad()
    def calibrate(self, pictures: Tensor) -> None:  # type: ignore[override]
        """Sets all steps of all widths from pictures uint8 [N, H, W, 3], each behind the widest of those before it."""
        widest = torch.zeros(len(self.positions), 2, len(self.widths), device=pictures.device)
        widest[..., -1] = 1
        self(pictures, Mixture.of(widest), fit=True)


def one_hot(indices: Tensor, widths: int) -> Tensor:
    """Returns shares float32 [L, 2, W] of indices int64 [L, 2] into the widths."""
    return torch.nn.functional.one_hot(indices, widths).float()
