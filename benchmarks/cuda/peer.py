"""The network of a case in floating point, as one would write it in PyTorch: what bitgrade is timed beside."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.cuda.case import Case, FloatLayer

EvenPadding = tuple[int, int]  # rows on both sides, columns on both sides


class FloatPeer(nn.Module):
    """The same layers with random weights.

    What pads alike on both sides is left to the convolution or the pooling.
    """

    def __init__(self, layers: Sequence[FloatLayer]):
        super().__init__()
        self.layers = tuple(layers)
        self.convs = nn.ModuleDict(
            {
                str(i): nn.Conv2d(d.in_channels, d.channels, d.kernel, d.stride, groups=d.groups)
                for i, d in enumerate(layers)
                if d.op == "Conv"
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits [N, classes] of pictures [N, C, H, W]."""
        values: dict[str, torch.Tensor] = {}
        for i, layer in enumerate(self.layers):
            inputs = [values.get(name, x) for name in layer.inputs]
            values[layer.output] = self._run_layer(i, layer, inputs)
        return values[self.layers[-1].output].flatten(1)

    def _run_layer(self, index: int, layer: FloatLayer, inputs: list[torch.Tensor]) -> torch.Tensor:
        x = inputs[0]
        if layer.op == "Conv":
            return self._run_conv(index, layer, inputs)
        if layer.op == "Add":
            return F.relu(x + inputs[1])
        if layer.op == "AvgPool":
            return F.avg_pool2d(x, layer.kernel, layer.stride)
        if layer.op == "MaxPool":
            x, padding = pad_unevenly(x, layer, float("-inf"))
            return F.max_pool2d(x, layer.kernel, layer.stride, padding)
        if layer.op == "Shortcut":
            after = layer.channels - layer.before - x.shape[1]
            return F.pad(x[:, :, :: layer.stride[0], :: layer.stride[1]], (0, 0, 0, 0, layer.before, after))
        raise ValueError(f"{layer.output}: expected a layer that a peer knows, got {layer.op}")

    def _run_conv(self, index: int, layer: FloatLayer, inputs: list[torch.Tensor]) -> torch.Tensor:
        conv = self.convs[str(index)]
        assert isinstance(conv, nn.Conv2d)
        x, padding = pad_unevenly(inputs[0], layer)
        y = F.conv2d(x, conv.weight, conv.bias, layer.stride, padding, 1, layer.groups)
        if len(inputs) > 1:
            y = y + inputs[1]
        return F.relu(y) if layer.relu else y


def pad_unevenly(x: torch.Tensor, layer: FloatLayer, value: float = 0.0) -> tuple[torch.Tensor, EvenPadding]:
    """Returns a layer's input [N, C, H, W], padded where that takes a kernel of its own, and what is left to pad.

    A kernel of its own pads only where no even padding gives the same shape.
    """
    top, left, bottom, right = layer.padding
    even = (max(top, bottom), max(left, right))
    sizes = zip(x.shape[2:], layer.kernel, (top + bottom, left + right), even, layer.stride, strict=True)
    same_shape = [
        2 * e <= k and (size + both - k) // stride == (size + 2 * e - k) // stride for size, k, both, e, stride in sizes
    ]
    if all(same_shape):
        return x, even
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def make_peer(case: Case, shape: tuple[int, ...]) -> tuple[FloatPeer, torch.Tensor]:
    """Returns the peer in fp16, channels last, and pictures [N, C, H, W] for it; shape: [H, W, C] of a picture."""
    network = FloatPeer(case.layers).half().cuda().eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    x = torch.rand((case.batch, shape[2], *shape[:2]), device="cuda", dtype=torch.float16)
    return network, x.to(memory_format=torch.channels_last)
