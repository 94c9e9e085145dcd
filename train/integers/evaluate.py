"""Evaluates integer graphs in torch on any device, equal to the numpy reference bit for bit, but fast.

Convolutions sum integer-valued floats, which is exact while every partial sum stays below the mantissa: float32 up to
2**24, float64 beyond. What follows stays in float32 where that is proved to round as the integers do, else it is int64.
Winograd and FFT algorithms, which round, are kept out.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from targets.reference.graph import Graph
from targets.reference.nodes import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Gather,
    Lookup,
    MaxPool,
    Mul,
    Node,
    Requant,
    Rescale,
    Shortcut,
)
from targets.reference.pools import area_numbers
from train.integers.rounding import EXACT_FLOAT32, accumulator_reach, float32_scale, partial_sums

Values = dict[str, Tensor]  # tensor of the graph -> its codes as float32 [N, C, H, W]
Step = Callable[[Values], Tensor]  # computes one node's output
Function = Callable[[Tensor], Tensor]


class IntegerNetwork:
    """A graph ready to run on a device; feature maps are float32 [N, C, H, W], channels last, holding codes."""

    def __init__(self, graph: Graph, device: torch.device | str = "cpu"):
        self.graph = graph
        self.device = torch.device(device)
        self.batch = 64 if self.device.type == "cpu" else 1000  # of 32x32 pictures, a core's cache holds no more
        self.maker = StepMaker(graph, self.device)
        self.steps = [self.maker.step(node) for node in graph.nodes]
        self.last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}

    @torch.no_grad()
    def logits(self, pictures: np.ndarray) -> Tensor:
        """Returns int32 [N, classes] on the device for pictures uint8 [N, H, W, C]. Raises ValueError for others."""
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
        for i, (node, step) in enumerate(zip(self.graph.nodes, self.steps, strict=True)):
            values[node.output] = step(values)
            for name in set(node.inputs):
                if self.last_use[name] == i:
                    del values[name]
        logits = values[self.graph.output]
        if self.graph.tensors[self.graph.output].bits != 32:
            logits = self.maker.centred(self.graph.output)(logits)
        return logits.permute(0, 2, 3, 1).reshape(len(pictures), -1).to(torch.int32)


def evaluate(graph: Graph, pictures: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Returns logits int32 [N, classes] for pictures uint8 [N, H, W, C]."""
    return IntegerNetwork(graph, device).logits(pictures).cpu().numpy()


class StepMaker:
    """Makes a function of torch for each node of a graph; what depends on the node alone is computed once."""

    def __init__(self, graph: Graph, device: torch.device):
        self.graph = graph
        self.device = device

    def step(self, node: Node) -> Step:
        """Returns the function that computes the node's output."""
        match node:
            case Conv():
                return self._conv(node, node.requant) if node.requant is not None else self._logits(node)
            case Add():
                return self._add(node)
            case AvgPool():
                return self._avg_pool(node)
            case MaxPool():
                return _max_pool(node)
            case Shortcut():
                return self._shortcut(node)
            case Mul():
                return self._mul(node)
            case Gather():
                return self._gather(node)
            case Concat():
                return lambda values: torch.cat([values[name] for name in node.inputs], 1)
            case Lookup():
                return self._lookup(node)
            case Rescale():
                return self._rescale(node)

    def centred(self, name: str) -> Function:
        """Returns the function that takes the zero points of a tensor away from its codes."""
        zero = self.graph.tensors[name].zero_points()
        if not zero.any():
            return lambda codes: codes
        offset = self._channels(zero).float()
        return lambda codes: codes - offset

    def _channels(self, values: np.ndarray | Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
        """[C, 1, 1], to broadcast over feature maps."""
        return torch.tensor(values, dtype=dtype, device=self.device).reshape(-1, 1, 1)

    def _zero_of(self, name: str) -> int:
        return self.graph.tensors[name].zero_point[0]

    def _convolution(self, node: Conv, weight: np.ndarray, bias: np.ndarray | None = None) -> Function:
        """Sums of centred codes with weight [O, kH, kW, I / groups] and bias [O]: exact integers as floats."""
        largest = partial_sums(self.graph, node, weight) + (0 if bias is None else np.abs(bias))
        dtype = torch.float32 if largest.max() < EXACT_FLOAT32 else torch.float64
        kernel = torch.tensor(weight, device=self.device).permute(0, 3, 1, 2).to(dtype)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        offset = None if bias is None else torch.tensor(bias, device=self.device).to(dtype)
        centred = self.centred(node.input)
        top, left, bottom, right = node.padding
        even = (top, left) == (bottom, right)

        def convolve(codes: Tensor) -> Tensor:
            x = centred(codes).to(dtype)
            x = x if even else F.pad(x, (left, right, top, bottom))
            return F.conv2d(x, kernel, offset, node.stride, (top, left) if even else 0, node.dilation, node.groups)

        return convolve

    def _logits(self, node: Conv) -> Step:
        convolve = self._convolution(node, node.weight)
        bias = self._channels(node.bias)
        return lambda values: convolve(values[node.input]).to(torch.int64).add_(bias)

    def _conv(self, node: Conv, requant: Requant) -> Step:
        reach = accumulator_reach(self.graph, node, requant)
        scale = float32_scale(requant, self._zero_of(node.output), node.qmin, node.qmax, reach)
        return self._int64_conv(node, requant) if scale is None else self._float32_conv(node, requant, scale)

    def _int64_conv(self, node: Conv, requant: Requant) -> Step:
        convolve = self._convolution(node, node.weight)
        # |acc| < 2**30 is proved with all signs alike, so each product below is less than 2**61.
        factor = self._channels(requant.multiplier << requant.left)
        offset = self._channels(node.bias * requant.multiplier + _half(requant))
        finish = self._finish(node, requant)
        if node.skip is None or node.skip_multiplier is None:
            return lambda values: finish(torch.addcmul(offset, convolve(values[node.input]).to(torch.int64), factor))
        skip = node.skip
        skip_factor = self._channels(node.skip_multiplier * requant.multiplier)
        centred = self.centred(skip)

        def step(values: Values) -> Tensor:
            product = torch.addcmul(offset, convolve(values[node.input]).to(torch.int64), factor)
            return finish(product.addcmul_(centred(values[skip]).to(torch.int64), skip_factor))

        return step

    def _float32_conv(self, node: Conv, requant: Requant, scale: np.ndarray) -> Step:
        """The accumulator as one sum of integers, then two roundings that are proved to do no harm."""
        weight = node.weight.astype(np.int64) << requant.left[:, None, None, None]
        convolve = self._convolution(node, weight, node.bias)
        factor = self._channels(scale, torch.float32)
        zero = self._zero_of(node.output)
        if node.skip is None or node.skip_multiplier is None:
            return lambda values: _to_codes(convolve(values[node.input]).mul_(factor), node, zero)
        skip = node.skip
        skip_factor = self._channels(node.skip_multiplier, torch.float32)
        centred = self.centred(skip)

        def step(values: Values) -> Tensor:
            acc = convolve(values[node.input]).addcmul_(centred(values[skip]), skip_factor)
            return _to_codes(acc.mul_(factor), node, zero)

        return step

    def _finish(self, node: Conv | Add | Mul | AvgPool | Rescale, requant: Requant) -> Function:
        """In place on int64 [N, C, H, W]: shift, zero point, clamp; takes acc * multiplier + (half << 31)."""
        shifts = requant.shift + 31
        shift = int(shifts[0]) if bool((shifts == shifts[0]).all()) else self._channels(shifts)
        zero = self._zero_of(node.output)

        def finish(product: Tensor) -> Tensor:
            codes = product.bitwise_right_shift_(shift)
            return (codes.add_(zero) if zero else codes).clamp_(node.qmin, node.qmax).float()

        return finish

    def _scaled(self, node: Add | Mul | AvgPool | Rescale) -> Function:
        """Requantization of an int64 sum with one ratio for all channels, in place."""
        requant = node.requant
        finish = self._finish(node, requant)
        factor = int(requant.multiplier[0] << requant.left[0])
        half = int(_half(requant)[0])
        return lambda acc: finish(acc.mul_(factor).add_(half))

    def _add(self, node: Add) -> Step:
        first, second = (self.centred(name) for name in node.inputs)
        first_factor, second_factor = node.multipliers
        finish = self._scaled(node)

        def step(values: Values) -> Tensor:
            acc = first(values[node.a]).to(torch.int64) * first_factor
            return finish(acc + second(values[node.b]).to(torch.int64) * second_factor)

        return step

    def _mul(self, node: Mul) -> Step:
        first, second = (self.centred(name) for name in node.inputs)
        finish = self._scaled(node)
        return lambda values: finish(first(values[node.a]).to(torch.int64) * second(values[node.b]).to(torch.int64))

    def _avg_pool(self, node: AvgPool) -> Step:
        centred = self.centred(node.input)
        finish = self._of_areas(node) if node.areas else self._scaled(node)
        height, width = node.kernel
        top, left, bottom, right = node.padding

        def step(values: Values) -> Tensor:
            codes = F.pad(centred(values[node.input]).to(torch.int64), (left, right, top, bottom))
            windows = codes.unfold(2, height, node.stride[0]).unfold(3, width, node.stride[1])
            return finish(windows.sum((-1, -2)))

        return step

    def _of_areas(self, node: AvgPool) -> Function:
        """Requantization of an int64 sum with a ratio for each output pixel."""
        number, r = area_numbers(node, self.graph.tensors[node.input].shape), node.requant
        factor, half, shift = (
            torch.tensor(values[number], device=self.device)
            for values in (r.multiplier << r.left, _half(r), r.shift + 31)
        )
        zero = self._zero_of(node.output)
        return lambda acc: ((acc * factor + half) >> shift).add_(zero).clamp_(node.qmin, node.qmax).float()

    def _gather(self, node: Gather) -> Step:
        zero = self._zero_of(node.output)
        index = [torch.tensor(places, device=self.device) for places in (node.channels, node.rows, node.columns)]

        def step(values: Values) -> Tensor:
            x = values[node.input]
            for axis, places in enumerate(index, 1):
                taken = x.index_select(axis, places.clamp(min=0))
                is_zero = (places < 0).reshape([-1 if k == axis else 1 for k in range(4)])
                x = taken.masked_fill(is_zero, zero)
            return x

        return step

    def _lookup(self, node: Lookup) -> Step:
        channels = self.graph.tensors[node.output].shape[2]
        table = torch.tensor(node.table, device=self.device).float().expand(channels, -1).reshape(-1)
        rows = torch.arange(channels, device=self.device).mul_(node.table.shape[1]).reshape(-1, 1, 1)
        return lambda values: table[values[node.input].to(torch.int64) + rows]

    def _shortcut(self, node: Shortcut) -> Step:
        zero = self._zero_of(node.output)
        channels = self.graph.tensors[node.output].shape[2]
        behind = channels - node.before - self.graph.tensors[node.input].shape[2]

        def step(values: Values) -> Tensor:
            x = values[node.input][:, :, :: node.stride[0], :: node.stride[1]]
            return F.pad(x, (0, 0, 0, 0, node.before, behind), value=zero)

        return step

    def _rescale(self, node: Rescale) -> Step:
        centred = self.centred(node.input)
        x = self.graph.tensors[node.input]
        zero = self._zero_of(node.output)
        reach = np.maximum(x.zero_points(), x.qmax - x.zero_points()) << node.requant.left
        scale = float32_scale(node.requant, zero, node.qmin, node.qmax, reach)
        if scale is None:
            finish = self._scaled(node)
            return lambda values: finish(centred(values[node.input]).to(torch.int64))
        factor = float(np.ldexp(scale[0], node.requant.left[0]))
        return lambda values: _to_codes(centred(values[node.input]).mul(factor), node, zero)


def _max_pool(node: MaxPool) -> Step:
    top, left, bottom, right = node.padding

    def step(values: Values) -> Tensor:
        x = F.pad(values[node.input], (left, right, top, bottom))
        return F.max_pool2d(x, node.kernel, node.stride, dilation=node.dilation)

    return step


def _half(requant: Requant) -> np.ndarray:
    """Rounding half of the second shift, in units before the first: nested floors by powers of two are one floor."""
    return np.int64(1) << (requant.shift - 1 + 31)


def _to_codes(scaled: Tensor, node: Conv | Rescale, zero: int) -> Tensor:
    """In place on float32 [N, C, H, W]: rounds half up and clamps."""
    return scaled.add_(zero + 0.5).floor_().clamp_(node.qmin, node.qmax)
