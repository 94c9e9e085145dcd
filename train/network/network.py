"""An architecture as one module: full precision and quantized variants over the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.network.architectures import INPUT_SCALE, Architecture, Block, Layer
from train.network.layers import FULL, QuantConv, Route, key
from train.network.quantizers import Quantizer, Stream

LEAST_GAIN = 1e-3  # of a batch norm


class Network(nn.Module):
    """A network of full precision and, by name, quantized variants which share its weights.

    bits: variant -> layer name -> (w_bits, a_bits). convs: module name of a layer -> QuantConv; streams: variant ->
    Stream; zero_point: buffer int64 [3], the code of each channel of the picture that means 0.
    """

    zero_point: Tensor

    def __init__(self, arch: Architecture, bits: dict[str, dict[str, tuple[int, int]]]):
        super().__init__()
        self.arch = arch
        self.bits: dict[str, dict[str, tuple[int, int]]] = {}
        self.register_buffer("zero_point", torch.zeros(3, dtype=torch.int64))
        self.convs = nn.ModuleDict({key(layer): self.make_conv(layer) for layer in arch.layers})
        self.streams = nn.ModuleDict()
        for name, config in bits.items():
            self.add_variant(name, config)

    def make_conv(self, layer: Layer) -> QuantConv:
        """Returns the module that computes a layer."""
        return QuantConv(layer, self.arch.eps)

    def conv(self, layer: Layer) -> QuantConv:
        """Returns the layer's module in this network."""
        return cast(QuantConv, self.convs[key(layer)])

    def all_convs(self) -> list[QuantConv]:
        """Returns the modules of all layers, in running order."""
        return [cast(QuantConv, conv) for conv in self.convs.values()]

    def stream(self, variant: str) -> Stream:
        """Returns the quantizers of a variant's residual stream."""
        return cast(Stream, self.streams[variant])

    def add_variant(self, name: str, config: dict[str, tuple[int, int]]) -> None:
        """Adds a variant of these bits, whose steps are not set until `calibrate`."""
        self.bits[name] = config
        self.streams[name] = Stream(1 + len(self.arch.blocks))
        for layer in self.arch.layers:
            w_bits, a_bits = config[layer.name]
            a = None if self.reads(layer, name) else Quantizer(a_bits, False)
            self.conv(layer).add_variant(name, w_bits, a)

    def add_private(self, name: str, base: str, layers: tuple[Layer, ...] = ()) -> None:
        """Adds a variant that starts as another and shares its bits and integer weights, except in some `layers`."""
        self.add_variant(name, self.bits[base])
        self.stream(name).load_state_dict(self.stream(base).state_dict())
        for layer in self.arch.layers:
            conv = self.conv(layer)
            conv.variant(name).load_state_dict(conv.variant(base).state_dict())
            if layer in layers:
                conv.own_weight(name)
            else:
                conv.variant(name).w = conv.variant(base).w  # one step for one set of codes, however long it learns

    def reads(self, layer: Layer, variant: str) -> str | None:
        """Returns whose codes a layer takes as they are: "picture", "stream", or its block's first layer by name.

        None for a layer that quantizes its input anew.
        """
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
        """Returns float [N, 3, H, W] of pictures uint8 [N, H, W, 3]: (code - zero_point) * INPUT_SCALE, exactly."""
        dtype = self.conv(self.arch.stem).weight.dtype
        return (pictures.permute(0, 3, 1, 2).to(dtype) - self.zero_point.view(-1, 1, 1)) * INPUT_SCALE

    def forward(self, pictures: Tensor, variant: str = FULL, fit: bool = False) -> Tensor:
        """Returns logits [N, classes] of pictures uint8 [N, H, W, 3]; `fit` calibrates each step of the variant."""
        return self.run(pictures, Route(variant, fit))

    def run(self, pictures: Tensor, route: Route) -> Tensor:
        """Returns logits [N, classes] of pictures uint8 [N, H, W, 3] that go a given way through the network."""
        x = self._quantize_stream(0, self.conv(self.arch.stem)(self.real(pictures), route), route)
        for index, block in enumerate(self.arch.blocks, 1):
            x = self._run_block(index, block, x, route)
        classifier = self.conv(self.arch.classifier)
        # Not mean(): its gradient has another memory layout, which would slow down every batch norm behind it.
        pooled = classifier.codes(F.avg_pool2d(x, x.shape[2:]), route)
        return classifier(pooled, route).flatten(1)

    def _quantize_stream(self, index: int, x: Tensor, route: Route) -> Tensor:
        """Tensor `index` of the residual stream, [N, C, H, W], on its grid, which is also its ReLU."""
        if route.variant == FULL:
            return x.relu()
        stream = self.stream(route.variant)
        if route.fit:
            stream.fit(index, x)
        return stream(index, x)

    def _run_block(self, index: int, block: Block, x: Tensor, route: Route) -> Tensor:
        """The block's output, tensor `index` of the stream, of its input x [N, C, H, W]."""
        conv1, conv2 = self.conv(block.conv1), self.conv(block.conv2)
        codes = conv1.codes(x, route)
        y = conv2(conv2.codes(conv1(codes, route), route), route)
        skip = self._skip(block, x, codes, route)
        if block.shortcut is not None and route.variant != FULL:
            stream = self.stream(route.variant)
            if route.fit:
                stream.fit(index, y + skip)
                stream.fit_side(index, skip)
            return stream(index, y + stream.side(index, skip))
        return self._quantize_stream(index, y + skip, route)

    def _skip(self, block: Block, x: Tensor, codes: Tensor, route: Route) -> Tensor:
        """What a block adds to its convolutions, of its input x [N, C, H, W]; codes: the input of its first layer."""
        if block.shortcut is not None:
            shortcut = self.conv(block.shortcut)
            shared = route.variant != FULL and self.reads(block.shortcut, route.variant) == block.conv1.name
            return shortcut(codes if shared else shortcut.codes(x, route), route)
        if block.stride > 1:
            x = x[:, :, :: block.stride, :: block.stride]
        return F.pad(x, (0, 0, 0, 0, block.before, block.after)) if block.before + block.after else x

    def inherit(self, teacher: "Network") -> None:
        """Copies weights and full-precision variant of a network of this architecture; every variant starts there."""
        self.load_state_dict(teacher.state_dict(), strict=False)
        for layer in self.arch.layers:
            for name in self.bits:
                self.conv(layer).inherit(name)

    @torch.no_grad()
    def calibrate(self, pictures: Tensor, variants: tuple[str, ...] | None = None) -> None:
        """Sets all steps of some variants, None for all, from pictures uint8 [N, H, W, 3], layer after layer."""
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
    """Makes every convolution of the modules take its operands, and leave its gradients, in a type of fewer bits.

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
