"""Evaluates integer graphs in torch on any device, equal to the numpy reference bit for bit, but fast.

Convolutions sum integer-valued floats, which is exact while every partial sum stays below the mantissa: float32 up to
2**24, float64 beyond. What follows stays in float32 where that is proved to round as the integers do, else it is int64.
Winograd and FFT algorithms, which round, are kept out.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Node, Requant, Rescale, Shortcut

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
            parts = [
                self._run(torch.tensor(pictures[i : i + self.batch], device=self.device))
                for i in range(0, len(pictures), self.batch)
            ]
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


def _channels(values, device, dtype: torch.dtype = torch.int64) -> Tensor:
    """[C, 1, 1]."""
    return torch.tensor(values, dtype=dtype, device=device).reshape(-1, 1, 1)


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
    if node.requant is None:
        convolve, bias = _convolution(graph, node, node.weight, device), _channels(node.bias, device)
        return lambda values: convolve(values[node.input]).to(torch.int64).add_(bias)
    zero = graph.tensors[node.output].zero_point[0]
    scale = float32_scale(node.requant, zero, node.qmin, node.qmax, _reach(graph, node))
    return _int64_conv(graph, node, device) if scale is None else _float32_conv(graph, node, scale, device)


def _int64_conv(graph: Graph, node: Conv, device) -> Step:
    convolve, r = _convolution(graph, node, node.weight, device), node.requant
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


def _float32_conv(graph: Graph, node: Conv, scale: np.ndarray, device) -> Step:
    """The accumulator as one sum of integers, then two roundings that are proved to do no harm."""
    weight = node.weight.astype(np.int64) << node.requant.left[:, None, None, None]
    convolve = _convolution(graph, node, weight, device, node.bias)
    scale, zero = _channels(scale, device, torch.float32), graph.tensors[node.output].zero_point[0]
    if node.skip is not None:
        worth = _channels(node.skip_multiplier, device, torch.float32)
        centred = _centred(graph, node.skip, device)

    def step(values: dict[str, Tensor]) -> Tensor:
        acc = convolve(values[node.input])
        if node.skip is not None:
            acc.addcmul_(centred(values[node.skip]), worth)
        return _to_codes(acc.mul_(scale), node, zero)

    return step


def _to_codes(scaled: Tensor, node: Conv | Rescale, zero: int) -> Tensor:
    return scaled.add_(zero + 0.5).floor_().clamp_(node.qmin, node.qmax)


def float32_scale(r: Requant, zero: int, qmin: int, qmax: int, reach: np.ndarray) -> np.ndarray | None:
    """float32 [C]: floor(acc * scale + (zero + 1/2)), clamped, is the code of every integer acc in -reach..reach [C],
    although both operations round to float32; None where it is not.

    This and the integers' formula never fall as acc grows. So they are equal everywhere if they are on either side of
    each sum where the integers take the next code.
    """
    if reach.max() >= EXACT_FLOAT32:
        return None
    ratio = np.ldexp(r.multiplier.astype(np.float64), -31 - r.shift)
    scale, levels = ratio.astype(np.float32), np.arange(qmin + 1, qmax + 1)[:, None] - zero

    def integers(acc: np.ndarray) -> np.ndarray:
        return (acc * r.multiplier + (1 << 30 + r.shift) >> 31 + r.shift) >= levels

    def floats(acc: np.ndarray) -> np.ndarray:
        return np.floor(acc.astype(np.float32) * scale + np.float32(zero + 0.5)) - zero >= levels

    first = np.clip(np.ceil((levels - 0.5) / ratio), -reach - 1, reach + 1).astype(np.int64)
    first -= integers(first - 1)  # where the quotient was rounded to the other side of an integer
    first += ~integers(first)
    right = (floats(first) | (first > reach)) & (~floats(first - 1) | (first <= -reach))
    return scale if bool(right.all()) else None


def _reach(graph: Graph, node: Conv) -> np.ndarray:
    """int64 [O]: no partial sum of the accumulator is larger in magnitude."""
    reach = (_sums(graph, node, node.weight) << node.requant.left) + np.abs(node.bias)
    if node.skip is None:
        return reach
    skip = graph.tensors[node.skip]
    zero = skip.zero_points()
    return reach + np.abs(node.skip_multiplier) * np.maximum(zero, skip.qmax - zero)


def _sums(graph: Graph, node: Conv, weight: np.ndarray) -> np.ndarray:
    """int64 [O]: the largest magnitude of a partial sum over the inputs."""
    x = graph.tensors[node.input]
    zero = x.zero_points().reshape(node.groups, -1)
    reach = np.repeat(np.maximum(zero, x.qmax - zero), len(weight) // node.groups, axis=0)[:, None, None, :]
    return (np.abs(weight.astype(np.int64)) * reach).sum((1, 2, 3))


def _convolution(
    graph: Graph, node: Conv, weight: np.ndarray, device, bias: np.ndarray | None = None
) -> Callable[[Tensor], Tensor]:
    """Sums of centred codes with weight [O, kH, kW, I / groups] and bias [O]: exact integers in float32 or float64."""
    largest = _sums(graph, node, weight) + (0 if bias is None else np.abs(bias))
    dtype = torch.float32 if largest.max() < EXACT_FLOAT32 else torch.float64
    weight = torch.tensor(weight, device=device).permute(0, 3, 1, 2).to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else torch.tensor(bias, device=device).to(dtype)
    centred, (top, left, bottom, right) = _centred(graph, node.input, device), node.padding
    even = (top, left) == (bottom, right)

    def convolve(codes: Tensor) -> Tensor:
        x = centred(codes).to(dtype)
        x = x if even else F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, bias, node.stride, (top, left) if even else 0, 1, node.groups)

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
        x = values[node.input][:, :, :: node.stride, :: node.stride]
        return F.pad(x, (0, 0, 0, 0, node.before, behind), value=out.zero_point[0])

    return step


def _rescale(graph: Graph, node: Rescale, device) -> Step:
    centred, finish = _centred(graph, node.input, device), _scaled(graph, node, device)
    x, zero = graph.tensors[node.input], graph.tensors[node.output].zero_point[0]
    reach = np.maximum(x.zero_points(), x.qmax - x.zero_points()) << node.requant.left
    scale = float32_scale(node.requant, zero, node.qmin, node.qmax, reach)
    if scale is None:
        return lambda values: finish(centred(values[node.input]).to(torch.int64))
    factor = float(np.ldexp(scale[0], node.requant.left[0]))
    return lambda values: _to_codes(centred(values[node.input]).mul(factor), node, zero)


_STEPS = {Conv: _conv, Add: _add, AvgPool: _avg_pool, MaxPool: _max_pool, Shortcut: _shortcut, Rescale: _rescale}
