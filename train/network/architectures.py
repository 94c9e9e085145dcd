"""Residual networks for small pictures as descriptions, which the float network, its variants and the lowering read."""

from dataclasses import dataclass

INPUT_SCALE = 1 / 64  # real value of one code of the picture


@dataclass(frozen=True)
class Layer:
    """One convolution. `source` says what it reads: the picture, the 8-bit stream, a convolution's sum, or the pool."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    size: tuple[int, int]  # of the output
    source: str
    norm: bool = True

    @property
    def macs(self) -> int:
        return self.size[0] * self.size[1] * self.outputs * self.inputs * self.kernel**2


@dataclass(frozen=True)
class Block:
    """out = relu(conv2(relu(conv1(x))) + skip); skip: x, a projection of it, or its strided pixels in more channels."""

    name: str
    conv1: Layer
    conv2: Layer
    shortcut: Layer | None
    before: int  # empty channels in front of the skipped ones
    after: int

    @property
    def stride(self) -> int:
        return self.conv1.stride


@dataclass(frozen=True)
class Architecture:
    """A network for pictures of `shape` [H, W, 3]."""

    name: str
    shape: tuple[int, int, int]
    stem: Layer
    blocks: tuple[Block, ...]
    classifier: Layer
    eps: float

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In the order in which they run."""
        inner = [layer for b in self.blocks for layer in (b.conv1, b.shortcut, b.conv2) if layer is not None]
        return (self.stem, *inner, self.classifier)

    @property
    def ends(self) -> tuple[Layer, Layer]:
        """The first layer and the classifier: 8 bits, and little of all weights."""
        return self.stem, self.classifier

    @property
    def pool(self) -> tuple[int, int]:
        return self.blocks[-1].conv2.size


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's: what is odd goes behind."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _layer(name, inputs, outputs, kernel, stride, size, source, tensorflow, norm=True) -> Layer:
    half = kernel // 2
    (top, bottom), (left, right) = (_same_padding(s, kernel, stride) if tensorflow else (half, half) for s in size)
    out = tuple((s + sum(p) - kernel) // stride + 1 for s, p in zip(size, ((top, bottom), (left, right)), strict=True))
    return Layer(name, inputs, outputs, kernel, stride, (top, left, bottom, right), out, source, norm)


def _block(name: str, inputs: int, outputs: int, stride: int, size, tensorflow: bool) -> Block:
    conv1 = _layer(f"{name}.conv1", inputs, outputs, 3, stride, size, "stream", tensorflow)
    conv2 = _layer(f"{name}.conv2", outputs, outputs, 3, 1, conv1.size, "conv", tensorflow)
    if stride == 1 or not tensorflow:
        before = (outputs - inputs) // 2
        return Block(name, conv1, conv2, None, before, outputs - inputs - before)
    shortcut = _layer(f"{name}.shortcut", inputs, outputs, 1, stride, size, "stream", True, norm=False)
    return Block(name, conv1, conv2, shortcut, 0, 0)


def _resnet(name: str, shape, classes: int, stages, tensorflow: bool, eps: float) -> Architecture:
    """stages: (block names, channels); every stage but the first halves the map."""
    stem = _layer("conv1", shape[2], 16, 3, 1, shape[:2], "picture", tensorflow)
    blocks, channels, size = [], 16, stem.size
    for index, (names, outputs) in enumerate(stages):
        for k, block_name in enumerate(names):
            stride = 2 if index and not k else 1
            blocks.append(_block(block_name, channels, outputs, stride, size, tensorflow))
            channels, size = outputs, blocks[-1].conv2.size
    classifier = Layer("linear", channels, classes, 1, 1, (0, 0, 0, 0), (1, 1), "pool", norm=False)
    return Architecture(name, tuple(shape), stem, tuple(blocks), classifier, eps)


def _cifar_stages(count: int):
    return [([f"layer{s}.{k}" for k in range(count)], 8 << s) for s in (1, 2, 3)]


ARCHITECTURES = {
    "resnet8": lambda shape, classes: _resnet(
        "resnet8", shape, classes, [([f"block{s}"], 8 << s) for s in (1, 2, 3)], True, 1e-3
    ),
    **{
        f"resnet{6 * n + 2}": lambda shape, classes, n=n: _resnet(
            f"resnet{6 * n + 2}", shape, classes, _cifar_stages(n), False, 1e-5
        )
        for n in (3, 5, 7, 9)
    },
}


def architecture(name: str, shape: tuple[int, int, int], classes: int) -> Architecture:
    """`name` is a key of ARCHITECTURES; ValueError for pictures too small for its two halvings."""
    if min(shape[:2]) < 4:
        raise ValueError(f"{name} halves its maps twice and needs pictures of at least 4x4, got {shape[0]}x{shape[1]}")
    return ARCHITECTURES[name](shape, classes)


END_BITS = (8, 8)  # of the first layer and the classifier, whose widths are not open


def open_layers(arch: Architecture) -> tuple[Layer, ...]:
    """The layers whose widths are searched: all but the first and the classifier, in running order."""
    return tuple(layer for layer in arch.layers if layer not in arch.ends)
