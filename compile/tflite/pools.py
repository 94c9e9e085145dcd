"""Pools and means over windows of a map."""

import math

import numpy as np

from compile.tflite.errors import require
from compile.tflite.functions import clamp_of
from compile.tflite.reader import Reader, View
from compile.tflite.records import FileOperator
from compile.tflite.windows import Window, padding_of
from targets.reference.nodes import NO_PADDING, AvgPool, Lookup, MaxPool, Padding, Requant, Tensor
from targets.reference.pools import window_areas
from targets.reference.scales import rescale_requant


def read_avg_pool(reader: Reader, operator: FileOperator) -> View:
    """Reads an AVERAGE_POOL_2D, which divides by the pixels of a window inside the map; raises TfliteError."""
    x, window, padding = _pool(reader, operator)
    tensor, out = reader.result(operator)
    areas = np.unique(window_areas(x.shape[:2], window.kernel, window.stride, padding, NO_PADDING))
    requant = rescale_requant(x.scale, out.scale, areas.astype(np.float64))
    whole = areas.tolist() == [math.prod(window.kernel)]
    node = AvgPool(
        operator.name,
        x.name,
        out.name,
        window.kernel,
        window.stride,
        _halves_down(requant) if tensor.kind == "INT8" else requant,
        *clamp_of(operator.options.FusedActivationFunction(), tensor, operator.where),
        padding=padding,
        areas=() if whole else tuple(areas.tolist()),
    )
    return View(reader.append(node, out), tensor.shape)


def _halves_down(requant: Requant) -> Requant:
    """The same ratios, of which halves go down: below code 0, which is 128 here, TFLite rounds int8 means so.

    It divides the sum of the codes as they are stored, and a half goes away from their 0; behind a ReLU most means are
    below it. A multiplier of one less is too little to move any mean but an exact half, since sums are below 2**30.
    """
    even = requant.multiplier == 1 << 30
    multiplier = np.where(even, (1 << 31) - 1, requant.multiplier - 1)
    return Requant(requant.left, multiplier, requant.shift + even)


def read_max_pool(reader: Reader, operator: FileOperator) -> View:
    """Reads a MAX_POOL_2D; raises TfliteError where it changes the scale."""
    x, window, padding = _pool(reader, operator)
    tensor, out = reader.result(operator)
    low, high = clamp_of(operator.options.FusedActivationFunction(), tensor, operator.where)
    if (low, high) == (0, 255):
        node = MaxPool(operator.name, x.name, out.name, window.kernel, window.stride, padding)
        return View(reader.append(node, out), tensor.shape)
    inner = Tensor(f"{out.name}/largest", out.shape, 8, out.scale, out.zero_point)
    reader.append(MaxPool(operator.name, x.name, inner.name, window.kernel, window.stride, padding), inner)
    table = np.arange(256).clip(low, high).astype(np.uint8)[None]
    clamp = Lookup(f"{operator.name}/activation", inner.name, out.name, table)
    return View(reader.append(clamp, out), tensor.shape)


def _pool(reader: Reader, operator: FileOperator) -> tuple[Tensor, Window, Padding]:
    """Its input [H, W, C], window and padding."""
    options, view = operator.options, reader.view(operator, 0)
    same = reader.source(operator, 0).same_codes(reader.result(operator)[0])
    require(same, operator.where, "one scale and zero point of input and output", "others")
    window = Window((options.FilterHeight(), options.FilterWidth()), (options.StrideH(), options.StrideW()))
    window.check(operator.where)
    require(len(view.shape) == 4, operator.where, "a map [1, H, W, C]", list(view.shape))
    padding = padding_of(options.Padding(), view.shape[1:3], window, operator.where)
    x = reader.map_of(view, operator.where)
    fits = all(n + padding[k] + padding[k + 2] >= window.kernel[k] for k, n in enumerate(x.shape[:2]))
    require(fits, operator.where, f"a window that fits {list(x.shape)}", window.kernel)
    return x, window, padding


def read_mean(reader: Reader, operator: FileOperator) -> View:
    """Reads a MEAN over all pixels of a map; raises TfliteError for one over other dimensions."""
    view, (tensor, out) = reader.view(operator, 0), reader.result(operator)
    require(reader.source(operator, 0).kind == tensor.kind, operator.where, "one type", "two")
    rank = len(view.shape)
    axes = reader.integers(operator, 1, "axes")
    require(all(-rank <= a < rank for a in axes), operator.where, f"axes of {rank} dimensions", axes)
    left = [n for k, n in enumerate(view.shape[:-1]) if k not in {a % rank for a in axes}]
    over_pixels = rank - 1 not in {a % rank for a in axes} and set(left) <= {1}
    require(over_pixels, operator.where, "a mean over height and width", f"axes {axes} of {list(view.shape)}")
    x = reader.map_of(view, operator.where)
    size = x.shape[:2]
    requant = rescale_requant(x.scale, out.scale, math.prod(size))
    return View(reader.append(AvgPool(operator.name, x.name, out.name, size, (1, 1), requant), out), tensor.shape)
