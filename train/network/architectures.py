"""Residual networks for small pictures as plain data, which training, cost models and the integer lowering all read."""

from dataclasses import dataclass, replace
from typing import Literal

INPUT_SCALE = 1 / 64  # real value of one code of the picture
END_BITS = (8, 8)  # (w_bits, a_bits) of the first layer and the classifier, whose widths are never searched
STEM_CHANNELS = 16
LEAST_SIDE = 4  # pixels: two halvings leave one

# What a layer reads: the picture; the residual stream; the convolution before it in its block; the pooled stream.
Source = Literal["picture", "stream", "conv", "pool"]


@dataclass(frozen=True)
class Layer:
    """One convolution and the sizes around it; the classifier is one of kernel 1 on a map of one pixel.

    inputs, outputs: channels; padding: pixels; size: (H, W) of the output; norm: whether a batch norm follows, else a
    bias.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    size: tuple[int, int]
    source: Source
    norm: bool = True

    @property
    def macs(self) -> int:
        """Multiply-adds per picture."""
        return self.size[0] * self.size[1] * self.outputs * self.inputs * self.kernel**2


@dataclass(frozen=True)
class Block:
    """A residual block: out = relu(conv2(relu(conv1(x))) + skip).

    skip is `shortcut`(x), a projection, where there is one; else x itself, which a stride thins out and `before` and
    `after` channels of zeros widen.
    """

    name: str
    conv1: Layer
    conv2: Layer
    shortcut: Layer | None
    before: int
    after: int

    @property
    def stride(self) -> int:
        """Pixels of x for each pixel of the output, 1 or 2."""
        return self.conv1.stride


@dataclass(frozen=True)
class Architecture:
    """A network for pictures of one shape: a first layer, residual blocks, mean pooling and a classifier.

    shape: (H, W, 3); eps: of the batch norms.
    """

    name: str
    shape: tuple[int, int, int]
    stem: Layer
    blocks: tuple[Block, ...]
    classifier: Layer
    eps: float

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order in which they run."""
        inner = [layer for b in self.blocks for layer in (b.conv1, b.shortcut, b.conv2) if layer is not None]
        return (self.stem, *inner, self.classifier)

    @property
    def ends(self) -> tuple[Layer, Layer]:
        """The first layer and the classifier, which stay at 8 bits and hold few of all weights."""
        return self.stem, self.classifier

    @property
    def pool(self) -> tuple[int, int]:
        """Height and width of the map that mean pooling reduces to one pixel."""
        return self.blocks[-1].conv2.size


def open_layers(arch: Architecture) -> tuple[Layer, ...]:
    """Returns the layers whose widths are searched, all but the first and the classifier, in running order."""
    return tuple(layer for layer in arch.layers if layer not in arch.ends)


@dataclass(frozen=True)
class Stage:
    """Blocks of the same number of channels; every stage but the first halves the map."""

    blocks: tuple[str, ...]  # names
    channels: int


@dataclass(frozen=True)
class Design:
    """What tells one architecture from another: its stages, and whose conventions it follows.

    tensorflow: pads as TensorFlow does and projects where a block halves its map; else pads evenly and widens the skip
    by channels of zeros (He et al. 2015, option A).
    """

    stages: tuple[Stage, ...]
    tensorflow: bool
    eps: float  # of the batch norms


def _cifar_design(blocks_per_stage: int) -> Design:
    """ResNet-(6n+2) for CIFAR-10 (He et al. 2015, section 4.2), layers named as in published checkpoints."""
    stages = [
        Stage(tuple(f"layer{stage}.{k}" for k in range(blocks_per_stage)), 8 << stage)  # 16, 32, 64 channels
        for stage in (1, 2, 3)
    ]
    return Design(tuple(stages), tensorflow=False, eps=1e-5)


ARCHITECTURES = {
    # ResNet-8 of MLPerf Tiny
    "resnet8": Design(
        (Stage(("block1",), 16), Stage(("block2",), 32), Stage(("block3",), 64)), tensorflow=True, eps=1e-3
    ),
    "resnet20": _cifar_design(3),
    "resnet32": _cifar_design(5),
    "resnet44": _cifar_design(7),
    "resnet56": _cifar_design(9),
}


def architecture(name: str, shape: tuple[int, int, int], classes: int) -> Architecture:
    """Returns an architecture of ARCHITECTURES for pictures of a shape (H, W, 3) and so many classes.

    Raises ValueError for pictures too small for its two halvings.
    """
    height, width, channels = shape
    if min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"{name} halves its maps twice and needs pictures of at least {LEAST_SIDE}x{LEAST_SIDE}, "
            f"got {height}x{width}"
        )
    design = ARCHITECTURES[name]
    picture = _Map(channels, (height, width))
    stem = _convolution("conv1", picture, STEM_CHANNELS, (3, 1), "picture", design.tensorflow)
    blocks: list[Block] = []
    stream = _output(stem)
    for index, stage in enumerate(design.stages):
        for k, block_name in enumerate(stage.blocks):
            stride = 2 if index > 0 and k == 0 else 1
            blocks.append(_block(block_name, stream, stage.channels, stride, design.tensorflow))
            stream = _output(blocks[-1].conv2)
    classifier = Layer("linear", stream.channels, classes, 1, 1, (0, 0, 0, 0), (1, 1), "pool", norm=False)
    return Architecture(name, (height, width, channels), stem, tuple(blocks), classifier, design.eps)


@dataclass(frozen=True)
class _Map:
    """A feature map's channels and (H, W)."""

    channels: int
    size: tuple[int, int]


def _output(layer: Layer) -> _Map:
    return _Map(layer.outputs, layer.size)


def _block(name: str, x: _Map, outputs: int, stride: int, tensorflow: bool) -> Block:
    """A block on a map, with the projection or the channels of zeros that its convention asks for."""
    conv1 = _convolution(f"{name}.conv1", x, outputs, (3, stride), "stream", tensorflow)
    conv2 = _convolution(f"{name}.conv2", _output(conv1), outputs, (3, 1), "conv", tensorflow)
    if stride == 1 or not tensorflow:
        before = (outputs - x.channels) // 2
        return Block(name, conv1, conv2, None, before, outputs - x.channels - before)
    shortcut = _convolution(f"{name}.shortcut", x, outputs, (1, stride), "stream", tensorflow)
    return Block(name, conv1, conv2, replace(shortcut, norm=False), 0, 0)


def _convolution(name: str, x: _Map, outputs: int, window: tuple[int, int], source: Source, tensorflow: bool) -> Layer:
    """A convolution of a map; window: (kernel, stride)."""
    kernel, stride = window
    (top, bottom), (left, right) = (_padding(side, kernel, stride, tensorflow) for side in x.size)
    height = (x.size[0] + top + bottom - kernel) // stride + 1
    width = (x.size[1] + left + right - kernel) // stride + 1
    return Layer(name, x.channels, outputs, kernel, stride, (top, left, bottom, right), (height, width), source)


def _padding(side: int, kernel: int, stride: int, tensorflow: bool) -> tuple[int, int]:
    """Pixels before and behind; TensorFlow pads as little as gives ceil(side / stride), an odd pixel behind."""
    if not tensorflow:
        return kernel // 2, kernel // 2
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2
