"""Exact integer evaluation of a graph in torch, on any device: equal to `compile/reference.py` bit for bit, but fast.

Convolutions sum integer-valued floats, which is exact while every partial sum stays below the mantissa: float32 up to
2**24, float64 beyond. All that follows is int64. Winograd and FFT algorithms, which round, are kept out.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compile.graph import Add, AvgPool, Conv, Graph, MaxPool, Node, Requant, Rescale, Shortcut

EXACT_FLOAT32 = 1 << 24
Step = Callable[[dict[str, Tensor]], Tensor]


class IntegerNetwork:
    """A graph ready to run on a device; feature maps are float32 [N, C, H, W], channels last, holding codes."""

    def __init__(self, graph: Graph, device: torch.device | str = "cpu"):
        self.graph, self.device = graph, torch.device(device)
        self.batch = 64 if self.device.type == "cpu" else 1000  # of 32x32 pictures, a core's cache holds no more
        self.steps = [(node.output, _STEPS[type(node)](graph, node, self.device)) for node in graph.nodes]
        self.last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}

    @torch.no_grad()
    def logits(self, pictures: np.ndarray) -> Tensor:
        """int32 [N, classes] on the device, of pictures uint8 [N, H, W, C]."""
        expected = self.graph.tensors[self.graph.input].shape
        if tuple(pictures.shape[1:]) != expected:
            raise ValueError(f"expected pictures [N, {', '.join(map(str, expected))}], got {list(pictures.shape)}")
        with torch.backends.cudnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
            parts = [self._run(torch.tensor(pictures[i:i + self.batch], device=self.device))
                     for i in range(0, len(pictures), self.batch)]
        return torch.cat(parts) if parts else torch.empty(0, self._classes(), dtype=torch.int32, device=self.device)

    def _classes(self) -> int:
        return int(np.prod(self.graph.tensors[self.graph.output].shape))

    def _run(self, pictures: Tensor) -> Tensor:
        values = {self.graph.input: pictures.permute(0, 3, 1, 2).float()}
        for i, ((output, step), node) in enumerate(zip(self.steps, self.graph.nodes, strict=True)):
            values[output] = step(values)
            for name in set(node.inputs):
                if self.last_use[name] == i:
                    del values[name]
        output = values[self.graph.output]
        if self.graph.tensors[self.graph.output].bits != 32:
            output = _centred(self.graph, self.graph.output, self.device)(output)
        return output.permute(0, 2, 3, 1).reshape(len(pictures), -1).to(torch.int32)


def evaluate(graph: Graph, pictures: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Logits int32 [N, classes] of pictures uint8 [N, H, W, C]."""
    return IntegerNetwork(graph, device).logits(pictures).cpu().numpy()


def _channels(values, device) -> Tensor:
    """int64 [C, 1, 1]."""
    return torch.tensor(values, dtype=torch.int64, device=device).reshape(-1, 1, 1)


def _centred(graph: Graph, name: str, device) -> Callable[[Tensor], Tensor]:
    zero = graph.tensors[name].zero_points()
    if not zero.any():
        return lambda codes: codes
    zero = _channels(zero, device).float()
    return lambda codes: codes - zero


def _finish(graph: Graph, node: Node, device) -> Callable[[Tensor], Tensor]:
    """In place on int64 [N, C, H, W]: shift, zero point, clamp; takes acc * multiplier + (half << 31)."""
    shift, zero = _channels(node.requant.shift + 31, device), graph.tensors[node.output].zero_point[0]
    shift = int(shift[0]) if bool((shift == shift[0]).all()) else shift

    def finish(product: Tensor) -> Tensor:
        codes = product.bitwise_right_shift_(shift)
        return (codes.add_(zero) if zero else codes).clamp_(node.qmin, node.qmax).float()
    return finish


def _half(r: Requant) -> np.ndarray:
    """Rounding half of the second shift, in units before the first: nested floors by powers of two are one floor."""
    return np.int64(1) << (r.shift - 1 + 31)


def _conv(graph: Graph, node: Conv, device) -> Step:
    convolve, r = _convolution(graph, node, device), node.requant
    if r is None:
        bias = _channels(node.bias, device)
        return lambda values: convolve(values[node.input]).to(torch.int64).add_(bias)
    # |acc| < 2**30 is proved with all signs alike, so each product below is less than 2**61.
    factor, offset = _channels(r.multiplier << r.left, device), _channels(node.bias * r.multiplier + _half(r), device)
    finish = _finish(graph, node, device)
    if node.skip is None:
        return lambda values: finish(torch.addcmul(offset, convolve(values[node.input]).to(torch.int64), factor))
    worth, centred = _channels(node.skip_multiplier * r.multiplier, device), _centred(graph, node.skip, device)

    def step(values: dict[str, Tensor]) -> Tensor:
        product = torch.addcmul(offset, convolve(values[node.input]).to(torch.int64), factor)
        return finish(product.addcmul_(centred(values[node.skip]).to(torch.int64), worth))
    return step


def _convolution(graph: Graph, node: Conv, device) -> Callable[[Tensor], Tensor]:
    """Sums of centred codes, exact integers in float32 or float64."""
    x = graph.tensors[node.input]
    zero = x.zero_points().reshape(node.groups, -1)
    reach = np.repeat(np.maximum(zero, x.qmax - zero), node.weight.shape[0] // node.groups, axis=0)[:, None, None, :]
    bound = int((np.abs(node.weight.astype(np.int64)) * reach).sum((1, 2, 3)).max())
    dtype = torch.float32 if bound < EXACT_FLOAT32 else torch.float64
    weight = torch.tensor(node.weight, device=device).permute(0, 3, 1, 2).to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    centred, (top, left, bottom, right) = _centred(graph, node.input, device), node.padding
    even = (top, left) == (bottom, right)

    def convolve(codes: Tensor) -> Tensor:
        x = centred(codes).to(dtype)
        x = x if even else F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, None, node.stride, (top, left) if even else 0, 1, node.groups)
    return convolve


def _scaled(graph: Graph, node: Node, device) -> Callable[[Tensor], Tensor]:
    """Requantization of an int64 sum with one ratio for all channels, in place."""
    r, finish = node.requant, _finish(graph, node, device)
    factor, half = int(r.multiplier[0] << r.left[0]), int(_half(r)[0])
    return lambda acc: finish(acc.mul_(factor).add_(half))


def _add(graph: Graph, node: Add, device) -> Step:
    (a, b), (ma, mb) = (_centred(graph, name, device) for name in node.inputs), node.multipliers
    finish = _scaled(graph, node, device)
    return lambda values: finish(a(values[node.a]).to(torch.int64) * ma + b(values[node.b]).to(torch.int64) * mb)


def _avg_pool(graph: Graph, node: AvgPool, device) -> Step:
    centred, finish = _centred(graph, node.input, device), _scaled(graph, node, device)
    kh, kw = node.kernel

    def step(values: dict[str, Tensor]) -> Tensor:
        windows = centred(values[node.input]).to(torch.int64).unfold(2, kh, node.stride).unfold(3, kw, node.stride)
        return finish(windows.sum((-1, -2)))
    return step


def _max_pool(graph: Graph, node: MaxPool, device) -> Step:
    top, left, bottom, right = node.padding

    def step(values: dict[str, Tensor]) -> Tensor:
        return F.max_pool2d(F.pad(values[node.input], (left, right, top, bottom)), node.kernel, node.stride)
    return step


def _shortcut(graph: Graph, node: Shortcut, device) -> Step:
    out, channels = graph.tensors[node.output], graph.tensors[node.input].shape[2]
    behind = out.shape[2] - node.before - channels

    def step(values: dict[str, Tensor]) -> Tensor:
        x = values[node.input][:, :, ::node.stride, ::node.stride]
        return F.pad(x, (0, 0, 0, 0, node.before, behind), value=out.zero_point[0])
    return step


def _rescale(graph: Graph, node: Rescale, device) -> Step:
    centred, finish = _centred(graph, node.input, device), _scaled(graph, node, device)
    return lambda values: finish(centred(values[node.input]).to(torch.int64))


_STEPS = {Conv: _conv, Add: _add, AvgPool: _avg_pool, MaxPool: _max_pool, Shortcut: _shortcut, Rescale: _rescale}
