"""A described network as one module: full precision and quantized variants over the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.network.architectures import INPUT_SCALE, Architecture, Block, Layer
from train.network.quantizers import Quantizer, Stream

FULL = "full"  # the variant of full precision
LEAST_GAIN = 1e-3  # of a batch norm


@dataclass(frozen=True)
class Pass:
    """How a forward pass goes: through which variant, and whether it sets that variant's steps on the way."""

    variant: str
    fit: bool = False


class Bias(nn.Module):
    """What a convolution without batch norm has in its place."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(-1, 1, 1)


class PerVariant(nn.Module):
    """What a variant has of its own in one layer: steps, and batch norm or bias; weight: None where it shares that."""

    def __init__(self, layer: Layer, eps: float, w: Quantizer | None, a: Quantizer | None):
        super().__init__()
        self.w, self.a = w, a
        self.register_parameter("weight", None)
        self.norm = nn.BatchNorm2d(layer.outputs, eps=eps) if layer.norm else Bias(layer.outputs)


class QuantConv(nn.Module):
    """A convolution whose weights all variants share that have none of their own."""

    def __init__(self, layer: Layer, eps: float):
        super().__init__()
        self.layer, self.eps = layer, eps
        self.operands: torch.dtype | None = None  # see `multiplying_in`
        weight = torch.empty(layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        nn.init.kaiming_normal_(weight, mode="fan_out" if layer.norm else "fan_in", nonlinearity="relu")
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.variants = nn.ModuleDict({FULL: PerVariant(layer, eps, None, None)})

    def add_arm(self, name: str, w_bits: int, a: Quantizer | None) -> None:
        """The classifier has one weight step for all classes, so that its sums compare."""
        channels = 1 if self.layer.source == "pool" else self.layer.outputs
        self.variants[name] = PerVariant(self.layer, self.eps, Quantizer(w_bits, True, channels), a)
        self.inherit(name)

    def inherit(self, name: str) -> None:
        """A variant starts with the full-precision one's batch norm or bias."""
        self.variants[name].norm.load_state_dict(self.variants[FULL].norm.state_dict())

    def codes(self, x: Tensor, how: Pass) -> Tensor:
        """The layer's input on its grid: unsigned, which is also the ReLU of a sum."""
        if how.variant == FULL:
            return x.relu() if self.layer.source == "conv" else x
        return quantized(self.variants[how.variant].a, x, how.fit)

    def forward(self, x: Tensor, how: Pass) -> Tensor:
        own = self.variants[how.variant]
        return own.norm(self.convolve(x, quantized(own.w, self.weight_of(how.variant), how.fit)))

    def weight_of(self, variant: str) -> nn.Parameter:
        own = self.variants[variant].weight
        return self.weight if own is None else own

    def own_weight(self, variant: str) -> None:
        """Gives a variant weights of its own, which start as the shared ones."""
        copy = self.weight.detach().clone(memory_format=torch.preserve_format)
        self.variants[variant].weight = nn.Parameter(copy)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        kind, (top, left, bottom, right) = x.dtype, self.layer.padding
        if self.operands is not None:
            x, weight = x.to(self.operands), weight.to(self.operands)
        if (top, left) == (bottom, right):
            return F.conv2d(x, weight, None, self.layer.stride, (top, left)).to(kind)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, self.layer.stride).to(kind)


def quantized(quantizer: Quantizer | None, x: Tensor, fit: bool) -> Tensor:
    """x on the quantizer's grid, whose step is first set from x where `fit`; x itself without one."""
    if quantizer is None:
        return x
    if fit:
        quantizer.fit(x)
    return quantizer(x)


class Network(nn.Module):
    """A network of full precision and, by name, quantized variants which share its weights.

    bits: variant -> layer name -> (w_bits, a_bits). zero_point int64 [3]: the code of the picture that means 0.
    """

    def __init__(self, arch: Architecture, bits: dict[str, dict[str, tuple[int, int]]]):
        super().__init__()
        self.arch, self.bits = arch, {}
        self.register_buffer("zero_point", torch.zeros(3, dtype=torch.int64))
        self.convs = nn.ModuleDict({key(layer): self.conv(layer) for layer in arch.layers})
        self.streams = nn.ModuleDict()
        for name, config in bits.items():
            self.add_variant(name, config)

    def conv(self, layer: Layer) -> QuantConv:
        return QuantConv(layer, self.arch.eps)

    def add_variant(self, name: str, config: dict[str, tuple[int, int]]) -> None:
        """Steps are not set until `calibrate`."""
        self.bits[name] = config
        self.streams[name] = Stream(1 + len(self.arch.blocks))
        for layer in self.arch.layers:
            w_bits, a_bits = config[layer.name]
            a = None if self.reads(layer, name) else Quantizer(a_bits, False)
            self.convs[key(layer)].add_arm(name, w_bits, a)

    def add_private(self, name: str, base: str, layers: tuple[Layer, ...] = ()) -> None:
        """A variant that starts as another and shares its bits and integer weights, the latter not in some `layers`."""
        self.add_variant(name, self.bits[base])
        self.streams[name].load_state_dict(self.streams[base].state_dict())
        for conv in self.convs.values():
            conv.variants[name].load_state_dict(conv.variants[base].state_dict())
            if conv.layer in layers:
                conv.own_weight(name)
            else:
                conv.variants[name].w = conv.variants[base].w  # one step for one set of codes, however long it learns

    def reads(self, layer: Layer, variant: str) -> str | None:
        """Whose codes a layer takes as they are: "picture", "stream", or its block's first layer by name; else None."""
        config = self.bits[variant]
        if layer.source == "picture":
            return "picture"
        if layer.source == "stream" and config[layer.name][1] == 8:
            return "stream"
        for block in self.arch.blocks:
            if layer is block.shortcut and config[layer.name][1] == config[block.conv1.name][1]:
                return block.conv1.name
        return None

    def real(self, pictures: Tensor) -> Tensor:
        """float [N, 3, H, W] of pictures uint8 [N, H, W, 3]; exact."""
        dtype = self.convs[key(self.arch.stem)].weight.dtype
        return (pictures.permute(0, 3, 1, 2).to(dtype) - self.zero_point.view(-1, 1, 1)) * INPUT_SCALE

    def forward(self, pictures: Tensor, variant: str = FULL, fit: bool = False) -> Tensor:
        """Logits [N, classes] of pictures uint8 [N, H, W, 3]; `fit` sets each step of the variant on the way."""
        return self.run(pictures, Pass(variant, fit))

    def run(self, pictures: Tensor, how: Pass) -> Tensor:
        x = self._stream(0, self.convs[key(self.arch.stem)](self.real(pictures), how), how)
        for index, block in enumerate(self.arch.blocks, 1):
            x = self._block(index, block, x, how)
        classifier = self.convs[key(self.arch.classifier)]
        # Not mean(): its gradient has another memory layout, which would slow down every batch norm behind it.
        pooled = classifier.codes(F.avg_pool2d(x, x.shape[2:]), how)
        return classifier(pooled, how).flatten(1)

    def _stream(self, index: int, x: Tensor, how: Pass) -> Tensor:
        if how.variant == FULL:
            return x.relu()
        if how.fit:
            self.streams[how.variant].fit(index, x)
        return self.streams[how.variant](index, x)

    def _block(self, index: int, block: Block, x: Tensor, how: Pass) -> Tensor:
        conv1, conv2 = self.convs[key(block.conv1)], self.convs[key(block.conv2)]
        codes = conv1.codes(x, how)
        y = conv2(conv2.codes(conv1(codes, how), how), how)
        skip = self._skip(block, x, codes, how)
        if block.shortcut is not None and how.variant != FULL:
            stream = self.streams[how.variant]
            if how.fit:
                stream.fit(index, y + skip)
                stream.fit_side(index, skip)
            return stream(index, y + stream.side(index, skip))
        return self._stream(index, y + skip, how)

    def _skip(self, block: Block, x: Tensor, codes: Tensor, how: Pass) -> Tensor:
        if block.shortcut is not None:
            shortcut = self.convs[key(block.shortcut)]
            shared = how.variant != FULL and self.reads(block.shortcut, how.variant) == block.conv1.name
            return shortcut(codes if shared else shortcut.codes(x, how), how)
        if block.stride > 1:
            x = x[:, :, :: block.stride, :: block.stride]
        return F.pad(x, (0, 0, 0, 0, block.before, block.after)) if block.before + block.after else x

    def inherit(self, teacher: "Network") -> None:
        """Copies weights and full-precision variant of a network of this architecture, where every variant starts."""
        self.load_state_dict(teacher.state_dict(), strict=False)
        for conv in self.convs.values():
            for name in self.bits:
                conv.inherit(name)

    @torch.no_grad()
    def calibrate(self, pictures: Tensor, variants: tuple[str, ...] | None = None) -> None:
        """Sets all steps of some variants, or all, from pictures uint8 [N, H, W, 3], each behind those before it."""
        training = self.training
        self.eval()
        for name in self.bits if variants is None else variants:
            self(pictures, name, fit=True)
        self.train(training)

    @torch.no_grad()
    def keep_gains_positive(self) -> None:
        """Clamps every batch norm's gamma, so that the folded scale of a channel is a valid multiplier."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.clamp_(min=LEAST_GAIN)


@contextmanager
def multiplying_in(operands: torch.dtype | None, *modules: nn.Module | None) -> Iterator[None]:
    """Inside, every convolution of the modules takes its operands, and leaves its gradients, in a type of fewer bits.

    All between convolutions stays as it is: batch norms, steps, grids, sums of branches, weights and their optimizer.
    """
    convs = [m for module in modules if module is not None for m in module.modules() if isinstance(m, QuantConv)]
    for conv in convs:
        conv.operands = operands
    try:
        yield
    finally:
        for conv in convs:
            conv.operands = None


def key(layer: Layer) -> str:
    """A layer's name as a module's, which may hold no dot."""
    return layer.name.replace(".", "_")
