"""Random integer graphs for tests: every node type and width, odd shapes, codes that really spread over their range."""

import numpy as np

from targets.reference.graph import Graph
from tests.support.graph_builder import Builder

OPS = ("dense", "depthwise", "grouped", "pointwise", "skip", "shortcut", "add", "max_pool", "avg_pool", "rescale")
FOREIGN_OPS = (
    "dilated",
    "unsigned",
    "mul",
    "squeeze",
    "gather",
    "shuffle",
    "concat",
    "lookup",
    "wide_pool",
    "padded_pool",
)
CHANNELS = (3, 5, 8, 16, 17, 40)


def random_graph(
    seed: int, ops=None, tie_free: bool = True, extreme: bool = False, widths=range(2, 9), size=None
) -> Graph:
    """A valid graph of the given ops (names of OPS or FOREIGN_OPS; some of OPS when None).

    tie_free: ratios over odd integers, so that no sum lies on a tie and float QDQ inference equals the integers;
    otherwise ratios are arbitrary. extreme: weights at qmin and qmax, and sums as large as they get.
    size: (H, W) of the picture, odd sizes at random when None.
    """
    rng = np.random.default_rng(seed)
    size = size or (int(rng.integers(5, 14)), int(rng.integers(5, 14)))
    b = Builder(f"random{seed}", rng, size, tie_free, extreme, list(widths))
    x = b.conv(b.input, int(rng.choice(CHANNELS)), bits=int(rng.choice(b.widths)))
    for op in rng.choice(OPS, 5) if ops is None else ops:
        x = _STEPS[str(op)](b, x)
    return b.finish(x)


def resnet_like(
    bits=((8, 8), (4, 4), (2, 2)),
    seed: int = 0,
    blocks=(1, 1, 1),
    width: int = 8,
    size: int = 16,
    tie_free: bool = True,
) -> Graph:
    """ResNet-20's shape, small: 8-bit streams, a `Rescale` before narrower layers, option-A shortcuts.

    bits: (w_bits, a_bits) of the inner convolutions, repeated in order. First layer and classifier have 8.
    """
    b = Builder("resnet", np.random.default_rng(seed), (size, size), tie_free, False, [8])
    stream, layer = b.conv(b.input, width, kernel=3, padding=(1, 1, 1, 1), clamp=False, name="conv1"), 0
    for stage, count in enumerate(blocks):
        for block in range(count):
            prefix, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            (w1, a1), (w2, a2) = (bits[(layer + k) % len(bits)] for k in (0, 1))
            layer += 2
            channels, common = width << stage, dict(kernel=3, padding=(1, 1, 1, 1), signed=False, clamp=False)
            x = stream if a1 == 8 else b.rescale(stream, a1, name=f"{prefix}.in")
            x = b.conv(x, channels, w_bits=w1, bits=a2, stride=stride, name=f"{prefix}.conv1", **common)
            skip = stream if stride == 1 else b.shortcut(stream, channels, name=f"{prefix}.shortcut")
            stream = b.conv(x, channels, w_bits=w2, skip=skip, name=f"{prefix}.conv2", **common)
    return b.finish(stream, classes=10)


def quantized_to_the_end(seed: int) -> Graph:
    """What other tools make: the picture quantized anew behind its per-channel zero points, and codes as the output."""
    b = Builder(f"quantized{seed}", np.random.default_rng(seed), (9, 8), seed % 2 == 0, False, [8])
    x = b.conv(b.rescale(b.input, 8), 17, kernel=3, padding=(1, 1, 1, 1), signed=True)
    x = b.conv(b.avg_pool(x), 10, kernel=1, padding=(0, 0, 0, 0), signed=True)
    return Graph(b.name, b.tensors, tuple(b.nodes), b.input, x)


def pictures(graph: Graph, n: int, seed: int) -> np.ndarray:
    """uint8 [n, H, W, C]: all 0, all 255, black-and-white noise, then uniform noise and ramps in turn."""
    rng, (h, w, c) = np.random.default_rng(seed), graph.tensors[graph.input].shape
    out = rng.integers(0, 256, (n, h, w, c), np.uint8)
    ramp = np.linspace(0, 255, h)[:, None, None] * rng.random(c) + np.linspace(0, 255, w)[None, :, None] * rng.random(c)
    out[4::2] = np.clip(ramp / 2 + rng.normal(0, 12, out[4::2].shape), 0, 255).astype(np.uint8)
    for k, special in enumerate(
        (np.zeros_like(ramp), np.full_like(ramp, 255), 255 * rng.integers(0, 2, (h, w, c)))[:n]
    ):
        out[k] = special.astype(np.uint8)
    return out


def _same(b: Builder, x: str, **options) -> str:
    kernel = int(b.rng.choice((1, 3)))
    return b.conv(x, b.tensors[x].shape[2], kernel=kernel, padding=(kernel // 2,) * 4, **options)


def _dense(b: Builder, x: str) -> str:
    stride = int(b.rng.choice((1, 2)))
    return b.conv(x, int(b.rng.choice(CHANNELS)), stride=stride, bits=int(b.rng.choice(b.widths)))


def _add(b: Builder, x: str) -> str:
    scale, (top, bottom, ratio) = (
        b.tensors[x].scale,
        [(1, 1, 1 / 3), (2, 3, 3 / 5), (5, 4, 4 / 7), (3, 1, 1.0)][b.rng.integers(4)],
    )
    other = _same(b, x, bits=int(b.rng.choice(b.widths)), out_scale=scale * top / bottom)
    return b.add(x, other, ratio if b.tie_free else b.rng.uniform(0.3, 1.2))


def _avg_pool(b: Builder, x: str) -> str:
    h, w, _ = b.tensors[x].shape
    return b.avg_pool(x, (min(2, h), min(3, w)), int(b.rng.choice((1, 2))), int(b.rng.choice(b.widths)))


def _shortcut(b: Builder, x: str) -> str:
    is_pixel = b.tensors[x].shape[:2] == (1, 1)  # of which a shortcut without more channels does nothing
    channels = b.tensors[x].shape[2] + max(int(b.rng.choice((0, 3, 8))), 3 * is_pixel)
    skip = b.shortcut(x, channels)
    return b.conv(x, channels, kernel=3, stride=2, padding=(1, 1, 1, 1), skip=skip)


def _grouped(b: Builder, x: str) -> str:
    groups = next(g for g in (4, 5, 3, 17, 1) if b.tensors[x].shape[2] % g == 0)
    return b.conv(x, groups * int(b.rng.integers(1, 5)), groups=groups, bits=int(b.rng.choice(b.widths)))


def _dilated(b: Builder, x: str) -> str:
    groups = int(b.rng.choice((1, b.tensors[x].shape[2])))
    dilation, stride = tuple(int(d) for d in b.rng.integers(1, 4, 2)), tuple(int(s) for s in b.rng.integers(1, 4, 2))
    padding = tuple(int(p) for p in b.rng.integers(2, 5, 4))
    return b.conv(x, b.tensors[x].shape[2], 3, stride, padding, groups, dilation=dilation)


def _unsigned(b: Builder, x: str) -> str:
    """Weights of 9 bits, as uint8 codes less their zero point are."""
    channels = b.tensors[x].shape[2]
    return b.conv(x, channels, w_bits=9, groups=int(b.rng.choice((1, channels))), stride=int(b.rng.choice((1, 2))))


def _squeeze(b: Builder, x: str) -> str:
    """Squeeze and excite: each channel times a value of the whole map."""
    mean = b.avg_pool(x)
    channels = b.tensors[x].shape[2]
    gate = b.lookup(b.conv(mean, channels, kernel=1, bits=int(b.rng.choice(b.widths))), bool(b.rng.integers(2)))
    return b.mul(x, gate, int(b.rng.choice(b.widths)))


def _gather(b: Builder, x: str) -> str:
    """Some of the rows, columns and channels in any order, twice or not at all, with zero points between."""
    h, w, c = b.tensors[x].shape
    rows, columns, channels = (b.rng.integers(-1, n, n + int(b.rng.integers(0, 3))).tolist() for n in (h, w, c))
    return b.gather(x, rows, columns, channels)


def _shuffle(b: Builder, x: str) -> str:
    """Resized to the nearest pixel, channels of groups in turn, and a slice of those."""
    h, w, c = b.tensors[x].shape
    groups = next(g for g in (4, 2, 5, 3, 17, 1) if c % g == 0)
    x = b.gather(x, range(h), range(w), np.arange(c).reshape(groups, -1).T.reshape(-1).tolist())
    x = b.gather(x, [y // 2 for y in range(2 * h)], range(w), range(c))
    return b.gather(x, range(h), range(w), range(c // 2, c))


def _concat(b: Builder, x: str) -> str:
    h, w, c = b.tensors[x].shape
    return b.concat(x, b.gather(x, range(h), range(w), [*range(c - 1, -1, -1), -1]), x)


def _padded_pool(b: Builder, x: str) -> str:
    h, w, _ = b.tensors[x].shape
    kernel = (min(3, h), min(int(b.rng.integers(2, 4)), w))
    padding = tuple(int(b.rng.integers(0, k)) for k in (*kernel, *kernel))
    counted = tuple(int(b.rng.integers(0, p + 1)) for p in padding)
    stride = tuple(int(s) for s in b.rng.integers(1, 3, 2))
    return b.padded_avg_pool(x, kernel, stride, padding, counted, int(b.rng.choice(b.widths)))


_STEPS = {
    "dilated": _dilated,
    "unsigned": _unsigned,
    "squeeze": _squeeze,
    "gather": _gather,
    "shuffle": _shuffle,
    "concat": _concat,
    "padded_pool": _padded_pool,
    "mul": lambda b, x: b.mul(x, _same(b, x), int(b.rng.choice(b.widths))),
    "lookup": lambda b, x: b.lookup(x, bool(b.rng.integers(2)), int(b.rng.choice(b.widths))),
    "wide_pool": lambda b, x: b.max_pool(x, (2, 3), (2, 1), (1, 2, 1, 2), dilation=(2, 3)),
    "dense": _dense,
    "grouped": _grouped,
    "add": _add,
    "avg_pool": _avg_pool,
    "shortcut": _shortcut,
    "depthwise": lambda b, x: b.conv(
        x,
        b.tensors[x].shape[2],
        groups=b.tensors[x].shape[2],
        stride=int(b.rng.choice((1, 2))),
        bits=int(b.rng.choice(b.widths)),
    ),
    "pointwise": lambda b, x: b.conv(x, int(b.rng.choice(CHANNELS)), kernel=1, bits=int(b.rng.choice(b.widths))),
    "skip": lambda b, x: _same(b, x, skip=x),
    "max_pool": lambda b, x: b.max_pool(x),
    "rescale": lambda b, x: b.rescale(x),
}
