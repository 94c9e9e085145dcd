"""What a kernel is to the compiler: a step of the network, where its data lies, and the code one rule makes for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from targets.reference.nodes import Node, Rescale, Tensor


@dataclass(frozen=True)
class Entry:
    """The step that brings the picture into the workspace, with the border its readers need."""

    output: str
    name: str = "picture"


@dataclass(frozen=True)
class Exit:
    """The step that makes int32 logits of a network whose last tensor holds codes: code - zero_point."""

    output: str
    name: str = "logits"


@dataclass(frozen=True)
class Layout:
    """How a tensor's codes lie in memory: rows of pixels of channels, with a physical border of its zero point.

    Where several pictures run together, their maps follow one another.
    """

    tensor: Tensor
    border: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    pictures: int = 1

    @property
    def rows(self) -> int:
        return self.border[0] + self.tensor.shape[0] + self.border[2]

    @property
    def row_stride(self) -> int:
        return (self.border[1] + self.tensor.shape[1] + self.border[3]) * self.tensor.shape[2]

    @property
    def size(self) -> int:
        """Elements (bytes of codes, or int32 logits) of all pictures."""
        return self.pictures * self.picture_size

    @property
    def picture_size(self) -> int:
        """Elements of one picture's map."""
        return self.rows * self.row_stride

    @property
    def origin(self) -> int:
        """Index of pixel (0, 0), channel 0."""
        return self.border[0] * self.row_stride + self.border[1] * self.tensor.shape[2]

    @property
    def dtype(self) -> str:
        return "int32" if self.tensor.bits == 32 else "uint8"

    def at(self, y, x, c=0):
        """Index of a code; y, x, c may be integers or TIR expressions, and may reach into the border."""
        return self.origin + y * self.row_stride + x * self.tensor.shape[2] + c


@dataclass(frozen=True)
class Also:
    """The same values in another width, written by the kernel that computes them while it has them in registers."""

    node: Rescale
    write: Layout


@dataclass(frozen=True)
class Step:
    """One node with the layouts of what it reads and writes, and what else it writes: all that a rule may look at."""

    node: Node | Entry | Exit
    reads: tuple[Layout, ...]
    write: Layout
    also: tuple[Also, ...] = ()

    @property
    def writes(self) -> tuple[Layout, ...]:
        return (self.write, *(a.write for a in self.also))


@dataclass(frozen=True, eq=False)
class Origin:
    """What weights are made of where they are loaded, so that bundles hold the codes themselves.

    The Kronecker product of down and across, int [P, T], times codes int8 [O, T, I] gives U [P, O, I]; with zeros
    behind O up to whole blocks and behind I up to whole steps it lies as [blocks, P, K, block, group], one or two bytes
    (little-endian) each.
    """

    codes: np.ndarray
    down: np.ndarray
    across: np.ndarray
    block: int
    step: int
    group: int
    bytes: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """A rule's answer to a step.

    weights: int8 [n] codes in the order the kernel reads them, stored at w_bits. table: int32 [m] biases, multipliers
    and shifts. units: how many parts the work falls into that may run in any order or at the same time (rows of the
    output, as a rule). emit(reads, writes, weights, table, units) adds the code for the units (first, end), over flat
    TIR buffers, to the current IR frame; whoever has unit 0 writes the borders as well. origin: what is stored instead
    of weights that are not plain codes; w_bits is then its width.
    """

    rule: str
    weights: np.ndarray
    w_bits: int
    table: np.ndarray
    emit: Callable[[Sequence[Any], Sequence[Any], Any, Any, tuple[Any, Any]], None]
    units: int = 1
    origin: Origin | None = None


Rule = Callable[[Step], Kernel | None]


def choose(step: Step, rules: Sequence[Rule]) -> Kernel:
    """The kernel of the first rule that applies; every family ends its list with portable rules that always do."""
    for rule in rules:
        kernel = rule(step)
        if kernel is not None:
            return kernel
    raise ValueError(
        f"{step.node.name}: no kernel rule takes a {type(step.node).__name__} of {step.write.tensor.shape}"
    )


@dataclass(frozen=True, eq=False)
class Call:
    """A kernel with its place in the variant's buffers; `reads` and `writes` are byte offsets into the workspace, or
    None for the caller's picture and logits."""

    name: str
    step: Step
    kernel: Kernel
    reads: tuple[int | None, ...]
    writes: tuple[int | None, ...]
    weights: int  # byte offset into the unpacked weights
    table: int  # int32 offset into the table


@dataclass(frozen=True)
class Sizes:
    """Elements of main's buffers: picture (uint8), weights (int8), table (int32), workspace (uint8), logits (int32)."""

    picture: int
    weights: int
    table: int
    workspace: int
    logits: int
