"""What a kernel is to the compiler: a step of the network, where its data lies, and the code one rule makes for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

from targets.reference.nodes import Node, Rescale, Tensor


@dataclass(frozen=True)
class Entry:
    """The step that brings the picture into the workspace, with the border its readers need."""

    output: str
    name: str = "picture"


@dataclass(frozen=True)
class Exit:
    """The step that makes int32 logits, code - zero_point, of a network whose last tensor holds codes."""

    output: str
    name: str = "logits"


N = TypeVar("N", bound=Node | Entry | Exit, covariant=True)


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
        """Rows of pixels, the border's among them."""
        return self.border[0] + self.tensor.shape[0] + self.border[2]

    @property
    def row_stride(self) -> int:
        """Elements from one row to the next."""
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
        """The type of an element."""
        return "int32" if self.tensor.bits == 32 else "uint8"

    def at(self, y: Any, x: Any, c: Any = 0) -> Any:
        """Returns the index of a code; y, x, c may be integers or TIR expressions, and may reach into the border."""
        return self.origin + y * self.row_stride + x * self.tensor.shape[2] + c


@dataclass(frozen=True)
class RescaledCopy:
    """A step's result in another width, written by its kernel while it has the values in registers."""

    node: Rescale
    write: Layout


@dataclass(frozen=True)
class Step(Generic[N]):
    """One node with the layouts of what it reads and writes, and the copies it makes: all that a rule may look at."""

    node: N
    reads: tuple[Layout, ...]
    write: Layout
    copies: tuple[RescaledCopy, ...] = ()

    @property
    def writes(self) -> tuple[Layout, ...]:
        """Layouts of everything the step's kernel writes, its own tensor first."""
        return (self.write, *(copy.write for copy in self.copies))


def is_step_of(step: Step[Any], kind: type[N]) -> TypeGuard[Step[N]]:
    """Returns whether the step's node is of that kind."""
    return isinstance(step.node, kind)


@dataclass(frozen=True)
class Buffers:
    """Flat TIR buffers of one kernel: the tensors it reads and writes, its weights (int8) and its table (int32)."""

    reads: Sequence[Any]
    writes: Sequence[Any]
    weights: Any
    table: Any


@dataclass(frozen=True)
class Span:
    """A vector's place in a tensor: `count` channels from `channel` on of pixel (y, x); all may be TIR expressions.

    lanes: how many the vector has, of which the first `count` are real. column: where the channels lie in a row of the
    table, if elsewhere than `channel`.
    """

    y: Any
    x: Any
    channel: Any
    count: int
    lanes: int
    column: Any = None

    @property
    def table_column(self) -> Any:
        """Where the channels lie in a row of the table."""
        return self.channel if self.column is None else self.column


@dataclass(frozen=True, eq=False)
class Origin:
    """What weights are made of where they are loaded, so that bundles hold the codes themselves.

    The Kronecker product of down and across, int [P, T], times codes int8 [O, T, I] gives U [P, O, I]; with zeros
    behind O up to whole blocks and behind I up to whole steps it lies as [blocks, P, K, block, group], one or two bytes
    (little-endian) each.
    """

    codes: npt.NDArray[np.int8]
    down: npt.NDArray[Any]
    across: npt.NDArray[Any]
    block: int
    step: int
    group: int
    bytes: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """A rule's answer to a step.

    weights: int8 [n] codes in the order the kernel reads them, stored at w_bits. table: int32 [m] biases, multipliers
    and shifts. emit(buffers, (first, end)) adds the code for those units to the current IR frame; whoever has unit 0
    writes the borders as well. units: how many parts the work falls into that may run in any order or at the same time
    (rows of the output, as a rule). origin: what is stored in place of weights that are not plain codes; w_bits is then
    its width.
    """

    rule: str
    weights: npt.NDArray[np.int8]
    w_bits: int
    table: npt.NDArray[np.int32]
    emit: Callable[[Buffers, tuple[Any, Any]], None]
    units: int = 1
    origin: Origin | None = None


Rule = Callable[[Step[Any]], Kernel | None]


def choose(step: Step[Any], rules: Sequence[Rule]) -> Kernel:
    """Returns the kernel of the first rule that applies. Raises ValueError where none does.

    Every family ends its list with portable rules that always apply.
    """
    for rule in rules:
        kernel = rule(step)
        if kernel is not None:
            return kernel
    raise ValueError(
        f"{step.node.name}: expected a kernel rule that takes a {type(step.node).__name__} of "
        f"{step.write.tensor.shape}, found none"
    )


@dataclass(frozen=True, eq=False)
class Call:
    """A kernel with its place in the variant's buffers.

    reads, writes: byte offsets into the workspace, or None for the caller's picture and logits. weights: byte offset
    into the unpacked weights. table: int32 offset into the table.
    """

    name: str
    step: Step[Any]
    kernel: Kernel
    reads: tuple[int | None, ...]
    writes: tuple[int | None, ...]
    weights: int
    table: int


@dataclass(frozen=True)
class Sizes:
    """Elements of main's buffers: picture (uint8), weights (int8), table (int32), workspace (uint8), logits (int32)."""

    picture: int
    weights: int
    table: int
    workspace: int
    logits: int
