"""Grows random integer graphs node by node, with scales for which codes really spread over their range."""

import numpy as np

from targets.reference import interpreter
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
    Rescale,
    Shortcut,
    Tensor,
    reach,
)
from targets.reference.pools import window_areas
from targets.reference.scales import (
    CONV_MIN_SHIFT,
    add_integers,
    conv_requant,
    float32,
    logit_scale,
    requant_from_ratio,
    rescale_requant,
)
from targets.reference.scales import skip_multiplier as skip_units


class Builder:
    """Grows a graph node by node; scales are chosen so that codes spread on a few random pictures."""

    def __init__(self, name, rng, size, tie_free, extreme, widths):
        self.name, self.rng, self.tie_free, self.extreme, self.widths = name, rng, tie_free, extreme, widths
        self.input = "image"
        zero_point = tuple(int(z) for z in rng.integers(96, 160, 3))
        self.tensors = {"image": Tensor("image", (*size, 3), 8, 1 / 64, zero_point)}
        self.nodes, self.values = [], {"image": rng.integers(0, 256, (2, *size, 3), np.uint8)}

    def _new(self, name, kind):
        return name or f"{kind}{len(self.nodes)}"

    def _append(self, node, tensor: Tensor) -> str:
        self.tensors[tensor.name] = tensor
        self.nodes.append(node)
        graph = Graph(self.name, dict(self.tensors), tuple(self.nodes), self.input, tensor.name)
        self.values = interpreter.run_all(graph, self.values[self.input])[1]
        return tensor.name

    def _sums(self, name) -> np.ndarray:
        return self.values[name].astype(np.int64) - self.tensors[name].zero_points()

    def weights(self, shape, w_bits) -> np.ndarray:
        half = 1 << (w_bits - 1)
        if self.extreme:
            one_sign = self.rng.choice([-half, half - 1], (shape[0], 1, 1, 1))
            values = np.where(self.rng.random(shape) < 0.5, one_sign, self.rng.choice([-half, half - 1], shape))
        else:
            values = np.clip(np.rint(self.rng.normal(0, half / 2, shape)), -half, half - 1)
        return values.astype(np.int8 if w_bits <= 8 else np.int16)

    def conv(
        self,
        x,
        channels,
        kernel=None,
        stride=1,
        padding=None,
        groups=1,
        w_bits=None,
        bits=None,
        signed=None,
        clamp=None,
        skip=None,
        dilation=(1, 1),
        out_scale=None,
        name=None,
    ) -> str:
        rng, name, source = self.rng, self._new(name, "conv"), self.tensors[x]
        kernel = kernel or int(rng.choice([k for k in (1, 3, 5) if k <= min(source.shape[:2])]))
        stride = stride if isinstance(stride, tuple) else (stride, stride)
        padding = padding or tuple(int(p) for p in rng.integers(0, kernel // 2 + 1, 4))
        w_bits, bits = w_bits or int(rng.choice(self.widths)), bits or 8
        weight = self.weights((channels, kernel, kernel, source.shape[2] // groups), w_bits)
        conv = dict(
            name=name,
            input=x,
            output=f"{name}:out",
            weight=weight,
            w_bits=w_bits,
            stride=stride,
            padding=padding,
            groups=groups,
            dilation=dilation,
        )
        sums = interpreter.convolve(
            self._sums(x), Conv(bias=np.zeros(channels, np.int64), w_scale=np.ones(channels), **conv)
        )
        out = Tensor(f"{name}:out", sums.shape[1:], bits, 1.0, self._zero_point(bits, signed))
        bound = np.maximum(np.abs(weight.astype(np.int64)).sum((1, 2, 3)) * source.qmax, 1)
        spread = np.maximum(sums.std((0, 1, 2)), bound / 64)
        ratio = out.qmax / (4 * spread) * rng.uniform(0.7, 1.4, channels)
        if out_scale is None:
            top, bottom = [(1, 1), (2, 1), (1, 3), (2, 3), (4, 3)][rng.integers(5)]
            out_scale = (
                self.tensors[skip].scale * bottom / top * (1 if self.tie_free else rng.uniform(0.9, 1.1))
                if skip
                else rng.uniform(0.01, 0.1)
            )
        out = Tensor(out.name, out.shape, bits, float32(out_scale), out.zero_point)
        w_scale = self._w_scale(source.scale, ratio, out.scale, odd=3 if skip else 1)
        requant = conv_requant(source.scale, w_scale, out.scale)
        step = np.exp2(31 + requant.shift) / requant.multiplier  # units of the shifted sum in one output code
        centre = rng.uniform(0.0, 0.5 if skip is None else 0.1, channels) * (0 if out.zero_point[0] else out.qmax)
        bias = np.rint(centre * step - sums.mean((0, 1, 2)) * np.exp2(requant.left)).astype(np.int64)
        units = None if skip is None else skip_units(source.scale, w_scale, requant.left, self.tensors[skip].scale)
        return self._append(
            Conv(
                bias=bias,
                w_scale=w_scale,
                requant=requant,
                skip=skip,
                skip_multiplier=units,
                **self._clamp(out, clamp),
                **conv,
            ),
            out,
        )

    def _w_scale(self, x_scale, ratio, out_scale, odd) -> np.ndarray:
        """float32 [O] near the wanted ratio; tie-free: after the shift it is one over an odd multiple of `odd`."""
        if self.tie_free:
            left = requant_from_ratio(ratio, CONV_MIN_SHIFT).left
            q = odd * (2 * np.floor(np.exp2(left) / ratio / (2 * odd)) + 1)
            q = np.where(q >= 2048, np.where(left > 0, q - 2 * odd, q), q)
            ratio = np.exp2(left) / np.where(q <= 1024, q + 2 * odd, q)
        return (ratio * out_scale / x_scale).astype(np.float32)

    def _zero_point(self, bits, signed=None) -> tuple[int]:
        signed = self.rng.random() < 0.3 if signed is None else signed
        return (
            (int(self.rng.integers(1, 1 << bits)) if self.rng.random() < 0.2 else 1 << (bits - 1),) if signed else (0,)
        )

    def _clamp(self, out: Tensor, clamp=None) -> dict:
        narrow = clamp is None and self.rng.random() < 0.2
        qmax = out.qmax - int(self.rng.integers(0, out.qmax // 3 + 1)) if narrow else out.qmax
        zero_point = out.zero_point[0]
        return dict(qmin=zero_point if zero_point and narrow and zero_point < qmax else 0, qmax=qmax)

    def _scaled(self, x, bits, area=1, sums=None) -> tuple[Tensor, float]:
        """Tensor like x with `bits`, its scale such that sums / area fill its range; tie-free: a ratio P / odd Q."""
        source, name = self.tensors[x], "?"
        sums = self._sums(x) if sums is None else sums
        ratio = ((1 << bits) - 1) / max(1, np.abs(sums).max()) * self.rng.uniform(0.5, 1.1)
        if self.tie_free:
            q = 2 * int(min(1 / ratio, 4096) * (1 if area > 1 else min(32, max(1, 32 * ratio))) / 2) + 1
            ratio = max(1, round(ratio * q)) / q if area == 1 else 1 / q
        zero_point = (
            0 if source.zero_point[0] == 0 else min((1 << bits) - 1, max(1, round(source.zero_point[0] * ratio * area)))
        )
        return Tensor(name, source.shape, bits, float32(source.scale / (ratio * area)), (zero_point,))

    def rescale(self, x, bits=None, name=None) -> str:
        name, t = self._new(name, "rescale"), self._scaled(x, bits or int(self.rng.choice(self.widths)))
        out = Tensor(f"{name}:out", t.shape, t.bits, t.scale, t.zero_point)
        return self._append(
            Rescale(name, x, out.name, rescale_requant(self.tensors[x].scale, out.scale), 0, out.qmax), out
        )

    def avg_pool(self, x, kernel=None, stride=1, bits=8, name=None) -> str:
        name, source = self._new(name, "avg_pool"), self.tensors[x]
        kernel = kernel or source.shape[:2]
        windows = np.lib.stride_tricks.sliding_window_view(self._sums(x), kernel, axis=(1, 2))[:, ::stride, ::stride]
        area, sums = kernel[0] * kernel[1], windows.sum((-1, -2))
        t = self._scaled(x, bits, area, sums)
        out = Tensor(f"{name}:out", sums.shape[1:], bits, t.scale, t.zero_point)
        requant = rescale_requant(source.scale, out.scale, area)
        return self._append(AvgPool(name, x, out.name, tuple(kernel), (stride, stride), requant, 0, out.qmax), out)

    def padded_avg_pool(self, x, kernel, stride, padding, counted, bits=8, name=None) -> str:
        name, source = self._new(name, "avg_pool"), self.tensors[x]
        areas = window_areas(source.shape[:2], kernel, stride, padding, counted)
        every = tuple(int(a) for a in np.unique(areas))
        out = Tensor(f"{name}:out", (*areas.shape, source.shape[2]), bits, source.scale, source.zero_point)
        out = Tensor(out.name, out.shape, bits, float32(source.scale * source.qmax / out.qmax), self._zero_point(bits))
        ratios = rescale_requant(source.scale, out.scale, np.array(every, np.float64))
        return self._append(
            AvgPool(name, x, out.name, kernel, stride, ratios, 0, out.qmax, padding, counted, every), out
        )

    def max_pool(self, x, kernel=(3, 3), stride=2, padding=None, dilation=(1, 1), name=None) -> str:
        name, s = self._new(name, "max_pool"), self.tensors[x]
        stride = stride if isinstance(stride, tuple) else (stride, stride)
        kernel = tuple(min(k, n) for k, n in zip(kernel, s.shape, strict=False))
        padding = padding or tuple(int(self.rng.integers(0, k)) for k in (*kernel, *kernel))
        window = reach(kernel, dilation)
        h, w = ((s.shape[i] + padding[i] + padding[i + 2] - window[i]) // stride[i] + 1 for i in (0, 1))
        out = Tensor(f"{name}:out", (h, w, s.shape[2]), s.bits, s.scale, s.zero_point)
        return self._append(MaxPool(name, x, out.name, kernel, stride, padding, dilation), out)

    def gather(self, x, rows, columns, channels, name=None) -> str:
        name, s = self._new(name, "gather"), self.tensors[x]
        out = Tensor(f"{name}:out", (len(rows), len(columns), len(channels)), s.bits, s.scale, s.zero_point)
        return self._append(Gather(name, x, out.name, tuple(rows), tuple(columns), tuple(channels)), out)

    def concat(self, *inputs, name=None) -> str:
        name, s = self._new(name, "concat"), self.tensors[inputs[0]]
        channels = sum(self.tensors[i].shape[2] for i in inputs)
        out = Tensor(f"{name}:out", (*s.shape[:2], channels), s.bits, s.scale, s.zero_point)
        return self._append(Concat(name, tuple(inputs), out.name), out)

    def lookup(self, x, per_channel=False, bits=8, name=None) -> str:
        name, s = self._new(name, "lookup"), self.tensors[x]
        table = self.rng.integers(0, 1 << bits, (s.shape[2] if per_channel else 1, 1 << s.bits)).astype(np.uint8)
        out = Tensor(f"{name}:out", s.shape, bits, float32(self.rng.uniform(0.01, 0.1)), self._zero_point(bits))
        return self._append(Lookup(name, x, out.name, table), out)

    def mul(self, a, b, bits=8, name=None) -> str:
        name, first, second = self._new(name, "mul"), self.tensors[a], self.tensors[b]
        largest = max(1, np.abs(self._sums(a) * self._sums(b)).max())
        scale = float32(first.scale * second.scale * largest / ((1 << bits) - 1) * self.rng.uniform(0.5, 1.1))
        out = Tensor(f"{name}:out", first.shape, bits, scale, self._zero_point(bits))
        requant = requant_from_ratio(np.float64(first.scale) * second.scale / scale)
        return self._append(Mul(name, a, b, out.name, requant, **self._clamp(out)), out)

    def shortcut(self, x, channels, stride=2, name=None) -> str:
        name, s = self._new(name, "shortcut"), self.tensors[x]
        stride = min(stride, max(s.shape[:2]))  # of one pixel any stride takes the same
        out = Tensor(
            f"{name}:out", (-(-s.shape[0] // stride), -(-s.shape[1] // stride), channels), s.bits, s.scale, s.zero_point
        )
        return self._append(Shortcut(name, x, out.name, (stride, stride), (channels - s.shape[2]) // 2), out)

    def add(self, a, b, ratio=1.0, name=None) -> str:
        name, s = self._new(name, "add"), self.tensors[a]
        scale = float32(s.scale / ratio)
        multipliers, requant = add_integers(s.scale, self.tensors[b].scale, scale)
        out = Tensor(f"{name}:out", s.shape, 8, scale, self._zero_point(8, None if s.zero_point[0] == 0 else True))
        return self._append(Add(name, a, b, out.name, multipliers, requant, **self._clamp(out)), out)

    def finish(self, x, classes=None) -> Graph:
        if self.tensors[x].shape[:2] != (1, 1):
            x = self.avg_pool(x, name="pool")
        source, classes = self.tensors[x], classes or int(self.rng.choice((2, 10, 17)))
        w_bits = 8 if 8 in self.widths else max(self.widths)
        w_scale = np.full(classes, self.rng.uniform(0.001, 0.01), np.float32)
        bias = self.rng.integers(-5000, 5000, classes)
        weight = self.weights((classes, 1, 1, source.shape[2]), w_bits)
        out = Tensor("logits", (1, 1, classes), 32, logit_scale(source.scale, w_scale[0]))
        self._append(Conv("linear", x, "logits", weight, w_bits, bias, w_scale), out)
        return Graph(self.name, self.tensors, tuple(self.nodes), self.input, "logits")
