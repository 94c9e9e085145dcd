"""Layers of every kind that tables of costs know, as text."""

from targets.costs.shapes import Shape

TEXTS = (
    "conv 3x3/2 32x32x16 -> 16x16x32 skip border 0+1",
    "depthwise 3x3/1 12x12x48 -> 12x12x48",
    "grouped:4 3x3/1 9x7x16 -> 9x7x20 border 2",
    "linear 1x1/1 1x1x64 -> 1x1x10",
    "add 1x1/1 5x6x17 -> 5x6x17 border 1+0",
    "average-pool 4x5/1 4x5x24 -> 1x1x24",
    "max-pool 3x3/2 9x9x8 -> 5x5x8",
    "shortcut 1x1/2 8x8x8 -> 4x4x16",
    "rescale 1x1/1 6x6x8 -> 6x6x8 border 1",
    "picture 1x1/1 9x9x3 -> 9x9x3 border 1",
    "logits 1x1/1 1x1x10 -> 1x1x10",
)


def own_bits(shape: Shape) -> list[str]:
    convolution = shape.kind in ("conv", "depthwise", "grouped", "linear")
    return ["w8a8", "w4a4", "w2a8"] if convolution else ["a8", "a4"]
