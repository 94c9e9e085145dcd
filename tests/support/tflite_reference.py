"""What TFLite's reference kernels compute, in plain numpy, written from their definition and not from the importer.

Codes are those of the file (int8 or uint8, as int64 arrays [H, W, C]); scales are float64. Sums are rounded twice, as
gemmlowp does it: SaturatingRoundingDoublingHighMul, then RoundingDivideByPOT.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Quant:
    """Scale and zero point of a tensor, and the limits of its type."""

    scale: float
    zero: int
    low: int = -128
    high: int = 127

    def real(self, codes):
        return self.scale * (codes - self.zero)

    def code(self, real):
        steps = np.asarray(real, np.float64) / self.scale
        return self.clip(np.copysign(np.floor(np.abs(steps) + 0.5), steps).astype(np.int64) + self.zero)

    def clip(self, codes):
        return np.clip(codes, self.low, self.high)

    def activation(self, name):
        limits = {"NONE": (None, None), "RELU": (0, None), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}[name]
        low, high = limits
        return (self.low if low is None else int(self.code(low)), self.high if high is None else int(self.code(high)))


def scaled(acc, ratio):
    """MultiplyByQuantizedMultiplier of int64 sums by real ratios, which broadcast."""
    mantissa, exponent = np.frexp(np.asarray(ratio, np.float64))
    multiplier = np.floor(mantissa * 2.0**31 + 0.5).astype(np.int64)
    exponent = np.where(multiplier == 1 << 31, exponent + 1, exponent)
    multiplier = np.where(multiplier == 1 << 31, 1 << 30, multiplier)
    product = (acc << np.maximum(exponent, 0)) * multiplier
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.sign(nudged) * (np.abs(nudged) >> 31)  # C++'s division truncates
    right = np.maximum(-exponent, 0)
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def finished(acc, ratio, out, activation="NONE"):
    """Codes of a layer's sums."""
    low, high = out.activation(activation)
    return np.clip(scaled(acc, ratio) + out.zero, low, high)


def same_padding(length, reach, step):
    total = max((-(-length // step) - 1) * step + reach - length, 0)
    return total // 2, total - total // 2


def windows(x, kernel, stride, padding, fill, dilation=(1, 1)):
    """Yields (row, column, window [kh, kw, C]) of the output's pixels, in order."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = zip(x.shape[:2], reach, stride, strict=True)
    pads = [same_padding(n, r, s) if padding == "SAME" else (0, 0) for n, r, s in sizes]
    x = np.pad(x, (*pads, (0, 0)), constant_values=fill)
    for row in range((x.shape[0] - reach[0]) // stride[0] + 1):
        for column in range((x.shape[1] - reach[1]) // stride[1] + 1):
            top, left = row * stride[0], column * stride[1]
            yield row, column, x[top : top + reach[0] : dilation[0], left : left + reach[1] : dilation[1]]


def gathered(pixels):
    rows, columns = (max(p[k] for p in pixels) + 1 for k in range(2))
    return np.array([p[2] for p in pixels]).reshape(rows, columns, -1)


def conv(x, weights, bias, zero, kernel_zero=0, stride=(1, 1), padding="SAME", dilation=(1, 1), groups=1):
    """int64 sums [H, W, O] of a CONV_2D with weights [O, kh, kw, I / groups]."""
    per_group = len(weights) // groups
    inputs = weights.shape[3]
    pixels = []
    for row, column, window in windows(x - zero, weights.shape[1:3], stride, padding, 0, dilation):
        sums = [
            int((window[:, :, o // per_group * inputs :][:, :, :inputs] * (weights[o] - kernel_zero)).sum()) + bias[o]
            for o in range(len(weights))
        ]
        pixels.append((row, column, sums))
    return gathered(pixels)


def depthwise(x, weights, bias, zero, stride=(1, 1), padding="SAME"):
    """int64 sums of a DEPTHWISE_CONV_2D with weights [1, kh, kw, C * multiplier]."""
    multiplier = weights.shape[3] // x.shape[2]
    pixels = []
    for row, column, window in windows(x - zero, weights.shape[1:3], stride, padding, 0):
        sums = [int((window[:, :, o // multiplier] * weights[0, :, :, o]).sum()) + bias[o] for o in range(len(bias))]
        pixels.append((row, column, sums))
    return gathered(pixels)


def avg_pool(x, kernel, stride, padding, out, activation="NONE"):
    """Means of the stored codes inside the map, halves away from 0."""
    inside = windows(np.ones_like(x), kernel, stride, padding, 0)
    counts = gathered([(r, c, w.sum((0, 1))) for r, c, w in inside])
    sums = gathered([(r, c, w.sum((0, 1))) for r, c, w in windows(x, kernel, stride, padding, 0)])
    means = np.where(sums > 0, (sums + counts // 2) // counts, -((-sums + counts // 2) // counts))
    return np.clip(means, *out.activation(activation))


def max_pool(x, kernel, stride, padding, out, activation="NONE"):
    pixels = [(r, c, w.max((0, 1))) for r, c, w in windows(x, kernel, stride, padding, -999)]
    return np.clip(gathered(pixels), *out.activation(activation))


def add(a, b, qa, qb, out, sign=1, activation="NONE"):
    """ADD and SUB with their 20 bits of headroom."""
    largest = 2 * max(qa.scale, qb.scale)
    first, second = (scaled((x - q.zero) << 20, q.scale / largest) for x, q in ((a, qa), (b, qb)))
    return finished(first + sign * second, largest / (2.0**20 * out.scale), out, activation)


def mul(a, b, qa, qb, out, activation="NONE"):
    return finished((a - qa.zero) * (b - qb.zero), qa.scale * qb.scale / out.scale, out, activation)
