"""The layers of a network as a target's costs know them: all that a layer's time depends on, and nothing else."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from targets.kernel import Entry, Exit, Step, is_step_of
from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Concat, Conv, Gather, Lookup, MaxPool, Mul, Pair, Rescale, Shortcut
from targets.schedule import schedule

CONVOLUTIONS = ("conv", "depthwise", "grouped", "linear")  # kinds with weights; linear: int32 logits
KINDS = {
    Add: "add",
    AvgPool: "average-pool",
    MaxPool: "max-pool",
    Shortcut: "shortcut",
    Rescale: "rescale",
    Mul: "mul",
    Gather: "gather",
    Concat: "concat",
    Lookup: "lookup",
    Entry: "picture",
    Exit: "logits",
}
_TEXT = re.compile(
    r"(?P<kind>[a-z-]+)(:(?P<groups>\d+))? (?P<kernel>\d+x\d+)/(?P<stride>\d+(x\d+)?)( gap (?P<dilation>\d+x\d+))?"
    r" (?P<input>\d+x\d+x\d+) -> (?P<output>\d+x\d+x\d+)(?P<skip> skip)?( border (?P<borders>\d+(\+\d+)*))?"
)


class ShapeError(ValueError):
    """Not the text of a shape or of bits; the message says what was expected."""


@dataclass(frozen=True, order=True)
class Shape:
    """All of a layer that its time depends on, but for bits.

    kind: one of CONVOLUTIONS or of the values of KINDS. stride, dilation: of rows and columns. input, output (H, W, C).
    skip: with a residual operand. borders: the widest border of each tensor the layer writes, its own output first,
    then the copies in other widths (rescaled codes leave from the registers of the layer that computes them).
    """

    kind: str
    kernel: tuple[int, int]
    stride: Pair
    input: tuple[int, int, int]
    output: tuple[int, int, int]
    groups: int = 1
    skip: bool = False
    borders: tuple[int, ...] = (0,)
    dilation: Pair = (1, 1)

    def __str__(self) -> str:
        """Such as "conv 3x3/1 32x32x16 -> 32x32x16 skip border 0+1"."""
        sizes = ("x".join(map(str, values)) for values in (self.kernel, self.input, self.output))
        kernel, source, output = sizes
        kind = f"{self.kind}:{self.groups}" if self.kind == "grouped" else self.kind
        border = f" border {'+'.join(map(str, self.borders))}" if self.borders != (0,) else ""
        stride = "x".join(map(str, self.stride[: 1 if self.stride[0] == self.stride[1] else 2]))
        gap = " gap " + "x".join(map(str, self.dilation)) if self.dilation != (1, 1) else ""
        return f"{kind} {kernel}/{stride}{gap} {source} -> {output}{' skip' * self.skip}{border}"

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Returns the shape of its str(). Raises ShapeError for any other text."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ShapeError(f"expected a shape such as 'conv 3x3/1 32x32x16 -> 32x32x16 skip border 1', got {text!r}")
        kernel, source, output, stride, dilation = (
            [int(number) for number in (match[key] or "1x1").split("x")]
            for key in ("kernel", "input", "output", "stride", "dilation")
        )
        groups = source[2] if match["kind"] == "depthwise" else int(match["groups"] or 1)
        borders = tuple(map(int, (match["borders"] or "0").split("+")))
        skip = bool(match["skip"])
        return cls(
            match["kind"],
            (kernel[0], kernel[1]),
            (stride[0], stride[-1]),
            (source[0], source[1], source[2]),
            (output[0], output[1], output[2]),
            groups,
            skip,
            borders,
            (dilation[0], dilation[1]),
        )

    @property
    def outputs(self) -> int:
        """Elements of the output."""
        return int(np.prod(self.output))

    @property
    def work(self) -> int:
        """Multiply-adds of a convolution, and the like of others."""
        inputs = self.input[2] // self.groups if self.kind in CONVOLUTIONS else 1
        return self.outputs * self.kernel[0] * self.kernel[1] * inputs


@dataclass(frozen=True)
class LayerCall:
    """One call of a network; bits "w4a4" of a convolution, "a4" of anything else."""

    name: str
    shape: Shape
    bits: str


def format_bits(w_bits: int | None, a_bits: int) -> str:
    """Returns text such as "w4a8", or "a8" for a layer without weights."""
    return f"a{a_bits}" if w_bits is None else f"w{w_bits}a{a_bits}"


def parse_bits(text: str) -> tuple[int | None, int]:
    """Returns (w_bits or None, a_bits): the inverse of format_bits. Raises ShapeError for any other text."""
    match = re.fullmatch(r"(?:w([2-9]))?a([2-8])", text)
    if match is None:
        raise ShapeError(f"expected bits such as w4a8, or a8 for a layer without weights, got {text!r}")
    return None if match[1] is None else int(match[1]), int(match[2])


def layer_calls(graph: Graph) -> list[LayerCall]:
    """Returns what a target that joins rescales to kernels runs for the graph, in order (targets/schedule.py)."""
    return [_layer_call(step) for step in schedule(graph, fuses_rescales=True)]


def _layer_call(step: Step[Any]) -> LayerCall:
    node, source, output = step.node, step.reads[0].tensor, step.write.tensor.shape
    output_bits = step.write.tensor.bits
    borders = tuple(max(layout.border) for layout in step.writes)
    kernel, stride = getattr(node, "kernel", (1, 1)), getattr(node, "stride", (1, 1))
    dilation = getattr(node, "dilation", (1, 1))
    if not is_step_of(step, Conv):
        shape = Shape(KINDS[type(node)], kernel, stride, source.shape, output, borders=borders, dilation=dilation)
        return LayerCall(node.name, shape, format_bits(None, source.bits))
    conv = step.node
    kind = "conv" if conv.groups == 1 else "depthwise" if conv.groups == source.shape[2] == output[2] else "grouped"
    kind = "linear" if output_bits == 32 else kind
    kernel, skip = (conv.weight.shape[1], conv.weight.shape[2]), conv.skip is not None
    shape = Shape(kind, kernel, stride, source.shape, output, conv.groups, skip, borders, dilation)
    return LayerCall(conv.name, shape, format_bits(conv.w_bits, source.bits))
