"""A network whose widths are still open: every layer mixes several quantizers and runs one convolution all the same.

W^ = sum_b y_b Q_b(W) and A^ = sum_b y_b Q_b(A), one learned step per (layer, width) (LSQ) and one batch norm per layer,
or one per quality group. Where y is one-hot only the chosen width is computed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.network.architectures import END_BITS, Architecture, Layer, open_layers
from train.network.network import FULL, Bias, Network, Pass, QuantConv
from train.network.planes import Planes
from train.network.quantizers import Quantizer, inner

RELAXED = "relaxed"


@dataclass(frozen=True, eq=False)
class Mixture:
    """Shares of the widths in every open layer.

    y: [L, 2, W], rows summing to 1: shares for weights (head 0) and activations (head 1); its gradient is that of the
    loss. values: y as nested lists, read once. group: which batch norm. beta: how sharp bit planes are, None for exact.
    """

    rows: tuple[Tensor, ...]  # the L * 2 rows of y
    values: list
    group: int = 0
    beta: float | None = None

    @classmethod
    def of(cls, y: Tensor, group: int = 0, beta: float | None = None) -> "Mixture":
        return cls(y.flatten(0, 1).unbind(0), y.tolist(), group, beta)

    def head(self, layer: int, head: int) -> tuple[Tensor, list[float]]:
        return self.rows[2 * layer + head], self.values[layer][head]


@dataclass(frozen=True)
class MixedPass(Pass):
    """A pass through the open widths; `fit` sets the steps of all of them from what the mixture lets through."""

    mixture: Mixture | None = None


class _Attach(torch.autograd.Function):
    """The mixed tensor as it is; backward adds d loss / d y_b = <grad, Q_b(x)>, widths of no share included."""

    @staticmethod
    def forward(ctx, mixed: Tensor, y: Tensor, x: Tensor, ranges, *steps: Tensor) -> Tensor:
        ctx.save_for_backward(x, *steps)
        ctx.ranges, ctx.like = ranges, y
        return mixed.view_as(mixed)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, *steps = ctx.saved_tensors
        dense = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        x, dense_grad = x.contiguous(memory_format=dense), grad.contiguous(memory_format=dense)
        slopes = []
        for (qmin, qmax), step in zip(ctx.ranges, steps, strict=True):
            codes = x if qmax is None else (x / step).add_(0.5).floor_().clamp_(qmin, qmax)
            slopes.append((inner(dense_grad, codes, step) * step).sum())
        return grad, torch.stack(slopes).to(ctx.like), None, None, *[None] * len(steps)


class Mixed(nn.Module):
    """Quantizers of one tensor at several widths. `plain`: on an 8-bit grid already, so 8 bits are itself."""

    def __init__(self, widths: tuple[int, ...], signed: bool, channels: int = 1, plain: bool = False):
        super().__init__()
        self.quantizers = nn.ModuleList(None if plain and b == 8 else Quantizer(b, signed, channels) for b in widths)

    def forward(self, x: Tensor, y: Tensor, values: list[float]) -> Tensor:
        """x float [N or O, ...]; y [W] with `values` its numbers; widths of no share are not computed."""
        parts = [(share, x if q is None else q(x)) for q, share in zip(self.quantizers, values, strict=True) if share]
        share, mixed = parts[0]
        if len(parts) > 1:
            mixed = share * mixed
        for share, part in parts[1:]:
            mixed = mixed.add(part, alpha=share)
        if not y.requires_grad:
            return mixed
        ranges = [(0, None) if q is None else (q.qmin, q.qmax) for q in self.quantizers]
        one = torch.ones((), device=x.device)
        steps = [one if q is None else q.step().detach() for q in self.quantizers]
        return _Attach.apply(mixed, y, x.detach(), ranges, *steps)

    def fit(self, x: Tensor) -> None:
        for quantizer in self.quantizers:
            if quantizer is not None:
                quantizer.fit(x)


class RelaxedPerVariant(nn.Module):
    """The open widths of one layer: steps for each, and a batch norm (of the batch itself) for each quality group.

    planes: None for weights of learned steps, else they are bit planes fitted at the width of that index.
    """

    def __init__(self, layer: Layer, eps: float, widths: tuple[int, ...], groups: int, planes: int | None):
        super().__init__()
        shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        self.w = Mixed(widths, True, layer.outputs) if planes is None else Planes(widths, shape, planes)
        self.a = Mixed(widths, False, plain=layer.source == "stream")
        self.norms = norms(layer, eps, groups)


def norms(layer: Layer, eps: float, groups: int) -> nn.ModuleList:
    """Without running statistics, which would be those of many configurations: pictures are judged by whole batches."""
    if not layer.norm:
        return nn.ModuleList(Bias(layer.outputs) for _ in range(groups))
    return nn.ModuleList(nn.BatchNorm2d(layer.outputs, eps=eps, track_running_stats=False) for _ in range(groups))


class RelaxedConv(QuantConv):
    """A convolution of open widths; `position` is its row in a mixture, None for one that stays at 8 bits."""

    def __init__(
        self, layer: Layer, eps: float, position: int | None, widths: tuple[int, ...], groups: int, planes: int | None
    ):
        super().__init__(layer, eps)
        self.position, self.widths, self.groups, self.planes = position, widths, groups, planes

    def add_arm(self, name: str, w_bits: int, a: Quantizer | None) -> None:
        if self.position is None:
            super().add_arm(name, w_bits, a)
            self.variants[name].norm = None
            self.variants[name].norms = norms(self.layer, self.eps, self.groups)
        else:
            self.variants[name] = RelaxedPerVariant(self.layer, self.eps, self.widths, self.groups, self.planes)

    def inherit(self, name: str) -> None:
        trained = dict(self.variants[FULL].norm.named_parameters())
        for norm in getattr(self.variants[name], "norms", ()):
            norm.load_state_dict(trained)

    def codes(self, x: Tensor, how: MixedPass) -> Tensor:
        if how.variant == FULL or self.position is None:
            return super().codes(x, how)
        return self._mix(self.variants[how.variant].a, x, how, 1)

    def forward(self, x: Tensor, how: MixedPass) -> Tensor:
        if how.variant == FULL:
            return super().forward(x, how)
        own = self.variants[how.variant]
        if self.position is None:
            if how.fit:
                own.w.fit(self.weight)
            weight = own.w(self.weight)
        else:
            weight = self._mix(own.w, self.weight, how, 0)
        return own.norms[how.mixture.group](self.convolve(x, weight))

    def _mix(self, mixed: Mixed | Planes, x: Tensor, how: MixedPass, head: int) -> Tensor:
        if how.fit:
            mixed.fit(x)
        shares = how.mixture.head(self.position, head)
        return mixed(x, *shares, how.mixture.beta) if isinstance(mixed, Planes) else mixed(x, *shares)


class RelaxedNetwork(Network):
    """The network with its widths open, over the weights of a full-precision one; `widths` ascending.

    planes: see RelaxedPerVariant; one_input: all activations have the same width, so that a shortcut reads its
    block's codes.
    """

    def __init__(
        self,
        arch: Architecture,
        widths: tuple[int, ...],
        groups: int = 1,
        planes: int | None = None,
        one_input: bool = False,
    ):
        self.widths, self.groups, self.planes, self.one_input = widths, groups, planes, one_input
        self.positions = {layer.name: k for k, layer in enumerate(open_layers(arch))}
        super().__init__(arch, {RELAXED: {layer.name: END_BITS for layer in arch.layers}})

    def conv(self, layer: Layer) -> RelaxedConv:
        return RelaxedConv(layer, self.arch.eps, self.positions.get(layer.name), self.widths, self.groups, self.planes)

    def reads(self, layer: Layer, variant: str) -> str | None:
        blocks = [block.conv1.name for block in self.arch.blocks if layer is block.shortcut]
        return blocks[0] if blocks and self.one_input else super().reads(layer, variant)

    def forward(self, pictures: Tensor, mixture: Mixture, fit: bool = False) -> Tensor:
        """Logits [N, classes] of pictures uint8 [N, H, W, 3], batch norms by the statistics of these very pictures."""
        return self.run(pictures, MixedPass(RELAXED, fit, mixture))

    @torch.no_grad()
    def calibrate(self, pictures: Tensor) -> None:
        """Sets all steps of all widths, each layer behind the widest widths of those before it."""
        widest = torch.zeros(len(self.positions), 2, len(self.widths), device=pictures.device)
        widest[..., -1] = 1
        self(pictures, Mixture.of(widest), fit=True)


def one_hot(indices: Tensor, widths: int) -> Tensor:
    """float32 [L, 2, W] of indices int64 [L, 2] into the widths."""
    return torch.nn.functional.one_hot(indices, widths).float()
