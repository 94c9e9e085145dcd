"""The layers of a network as a target's costs know them: all that a layer's time depends on, and nothing else."""

import re
from dataclasses import dataclass

import numpy as np

from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Node, Rescale, Shortcut

CONVOLUTIONS = ("conv", "depthwise", "grouped", "linear")  # kinds with weights; linear: int32 logits
_TEXT = re.compile(
    r"(?P<kind>[a-z-]+)(:(?P<groups>\d+))? (?P<kernel>\d+x\d+)/(?P<stride>\d+) (?P<input>\d+x\d+x\d+)"
    r" -> (?P<output>\d+x\d+x\d+)(?P<skip> skip)?( border (?P<borders>\d+(\+\d+)*))?"
)


class ShapeError(ValueError):
    """Not the text of a shape or of bits; the message says what was expected."""


@dataclass(frozen=True, order=True)
class Shape:
    """All of a layer that its time depends on, but for bits.

    kind: one of CONVOLUTIONS, or add, average-pool, max-pool, shortcut, rescale, picture, logits. input, output
    (H, W, C). skip: with a residual operand. borders: the widest border of each tensor the layer writes, its own output
    first, then the copies in other widths (rescaled codes leave from the registers of the layer that computes them).
    """

    kind: str
    kernel: tuple[int, int]
    stride: int
    input: tuple[int, int, int]
    output: tuple[int, int, int]
    groups: int = 1
    skip: bool = False
    borders: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        """Such as "conv 3x3/1 32x32x16 -> 32x32x16 skip border 0+1"."""
        sizes = ("x".join(map(str, values)) for values in (self.kernel, self.input, self.output))
        kernel, source, output = sizes
        kind = f"{self.kind}:{self.groups}" if self.kind == "grouped" else self.kind
        border = f" border {'+'.join(map(str, self.borders))}" if self.borders != (0,) else ""
        return f"{kind} {kernel}/{self.stride} {source} -> {output}{' skip' * self.skip}{border}"

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Inverse of str()."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ShapeError(f"expected a shape such as 'conv 3x3/1 32x32x16 -> 32x32x16 skip border 1', got {text!r}")
        kernel, source, output = (tuple(map(int, found[k].split("x"))) for k in ("kernel", "input", "output"))
        groups = source[2] if found["kind"] == "depthwise" else int(found["groups"] or 1)
        borders = tuple(map(int, (found["borders"] or "0").split("+")))
        return cls(found["kind"], kernel, int(found["stride"]), source, output, groups, bool(found["skip"]), borders)

    @property
    def outputs(self) -> int:
        return int(np.prod(self.output))

    @property
    def work(self) -> int:
        """Multiply-adds of a convolution, and the like of others."""
        inputs = self.input[2] // self.groups if self.kind in CONVOLUTIONS else 1
        return self.outputs * self.kernel[0] * self.kernel[1] * inputs


@dataclass(frozen=True)
class Layer:
    """One call of a network; bits "w4a4" of a convolution, "a4" of anything else."""

    name: str
    shape: Shape
    bits: str


def bits_text(w_bits: int | None, a_bits: int) -> str:
    return f"a{a_bits}" if w_bits is None else f"w{w_bits}a{a_bits}"


def bits_of(text: str) -> tuple[int | None, int]:
    """(w_bits or None, a_bits): inverse of bits_text."""
    found = re.fullmatch(r"(?:w([2-8]))?a([2-8])", text)
    if found is None:
        raise ShapeError(f"expected bits such as w4a8, or a8 for a layer without weights, got {text!r}")
    return None if found[1] is None else int(found[1]), int(found[2])


def layers(graph: Graph) -> list[Layer]:
    """What a target runs for the graph, in order (compile/lowering/lower.py): a rescale of what a convolution or an
    addition computes is no call of its own."""
    border = dict.fromkeys(graph.tensors, 0)
    for conv in graph.convs():
        border[conv.input] = max(border[conv.input], *conv.padding)
    producers = {n.output for n in graph.nodes if isinstance(n, (Conv, Add))}
    merged = [n for n in graph.nodes if isinstance(n, Rescale) and n.input in producers and n.output != graph.output]
    picture, output = graph.tensors[graph.input], graph.tensors[graph.output]
    found = [
        Layer(
            "picture",
            Shape("picture", (1, 1), 1, picture.shape, picture.shape, borders=(border[graph.input],)),
            bits_text(None, picture.bits),
        )
    ]
    for node in graph.nodes:
        if node not in merged:
            copies = [m.output for m in merged if m.input == node.output]
            shape = _shape(graph, node, tuple(border[name] for name in (node.output, *copies)))
            w_bits = node.w_bits if isinstance(node, Conv) else None
            found.append(Layer(node.name, shape, bits_text(w_bits, graph.tensors[node.inputs[0]].bits)))
    if output.bits != 32:
        shape = Shape("logits", (1, 1), 1, output.shape, output.shape)
        found.append(Layer("logits", shape, bits_text(None, output.bits)))
    return found


def _shape(graph: Graph, node: Node, borders: tuple[int, ...]) -> Shape:
    source, output = graph.tensors[node.inputs[0]].shape, graph.tensors[node.output].shape
    stride = getattr(node, "stride", 1)
    if not isinstance(node, Conv):
        kinds = {Add: "add", AvgPool: "average-pool", MaxPool: "max-pool", Shortcut: "shortcut", Rescale: "rescale"}
        return Shape(kinds[type(node)], getattr(node, "kernel", (1, 1)), stride, source, output, borders=borders)
    kind = "conv" if node.groups == 1 else "depthwise" if node.groups == source[2] == output[2] else "grouped"
    kind = "linear" if node.requant is None else kind
    return Shape(kind, node.weight.shape[1:3], stride, source, output, node.groups, node.skip is not None, borders)
