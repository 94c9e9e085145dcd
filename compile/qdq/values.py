"""What a value of an ONNX file can be while the file is read, and the error for a file that cannot be taken.

Real values between a DequantizeLinear and the next QuantizeLinear are of the kinds that begin with "Pending": each
becomes one node of the integer graph once its QuantizeLinear tells the scale of the result (compile/qdq/emit.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from targets.reference.nodes import NO_PADDING, Padding, Pair, reach

DataLayout = Literal["NCHW", "NHWC", "flat"]  # flat: [N, everything], in the order of NCHW
MapShape = tuple[int, int, int]  # height, width, channels
MapSize = tuple[int, int]  # height, width


@dataclass(frozen=True)
class SlidingWindow:
    """The window of a convolution or pool, and how it moves over the map."""

    kernel: MapSize
    stride: Pair = (1, 1)
    padding: Padding = NO_PADDING
    dilation: Pair = (1, 1)

    @property
    def reach(self) -> Pair:
        """Rows and columns from the first tap to the last."""
        return reach(self.kernel, self.dilation)

    def output_size(self, size: MapSize) -> MapSize:
        """Returns the height and width of what comes out for a map of that size."""
        rows, columns = (
            (n - k) // s + 1 for n, k, s in zip(padded_size(size, self.padding), self.reach, self.stride, strict=True)
        )
        return rows, columns


def padded_size(size: MapSize, padding: Padding) -> MapSize:
    """Returns the height and width of a map with its padding."""
    top, left, bottom, right = padding
    return size[0] + top + bottom, size[1] + left + right


class OnnxError(ValueError):
    """The file cannot be taken; the message names the node, what was expected, what it has and what to do.

    It is one line, whatever onnx's checker and numpy's arrays wrote into it.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def refusal(where: str, expected: str, actual: Any, advice: str = "") -> OnnxError:
    """Returns the error for a node or tensor (where) that is not what was expected; advice: what the user can do."""
    return OnnxError(f"{where}: expected {expected}, got {actual}" + (f"; {advice}" if advice else ""))


def require(fits: bool, where: str, expected: str, actual: Any, advice: str = "") -> None:
    """Raises the OnnxError of `refusal` unless `fits`."""
    if not fits:
        raise refusal(where, expected, actual, advice)


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant; integers are int64 with the width and sign of their type, or of the Clip that narrowed them.

    bits: None for floats.
    """

    array: np.ndarray
    bits: int | None = None
    signed: bool = True


@dataclass(frozen=True, eq=False)
class Weights:
    """Dequantized constant: real = codes * scale along `axis`; codes int64 are centred (zero point subtracted).

    scale: float32 [1], or one for each index of the axis. bits: of the signed codes; above 8 where an asymmetric zero
    point moved them out of int8.
    """

    codes: np.ndarray
    scale: np.ndarray
    axis: int
    bits: int

    def transposed(self, permutation: list[int]) -> "Weights":
        """Returns the same weights with their dimensions in another order."""
        axis = list(permutation).index(self.axis)
        return Weights(self.codes.transpose(permutation), self.scale, axis, self.bits)

    @property
    def real(self) -> np.ndarray:
        """The real values, float64 [the shape of the codes]."""
        return self.codes * along_axis(self.scale.astype(np.float64), self.axis, max(1, self.codes.ndim))

    def channel_scale(self, axis: int, where: str) -> np.ndarray:
        """Returns float32 [codes.shape[axis]]; raises OnnxError for scales along another axis."""
        channels = self.codes.shape[axis]
        require(
            self.scale.size == 1 or (self.axis == axis and self.scale.shape == (channels,)),
            where,
            f"one weight scale, or one for each of {channels} output channels",
            f"{self.scale.shape} along axis {self.axis}",
        )
        return np.broadcast_to(self.scale.reshape(-1), (channels,)).astype(np.float32)


def along_axis(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Returns scales or zero points [n], shaped to broadcast along an axis of an array of `ndim` dimensions."""
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if k == axis % ndim else 1 for k in range(ndim)])


@dataclass(frozen=True, eq=False)
class Codes:
    """Integer codes of the graph's tensor `name`: the file's code = ours - offset (0, or 128 for int8).

    move: where they lie in the file's shape, while that is no map. scales: float32 [C] where channels have scales of
    their own, of which the tensor has the largest.
    """

    name: str
    offset: int
    layout: DataLayout
    move: "PendingMove | None" = None
    scales: np.ndarray | None = None


@dataclass(frozen=True)
class Real:
    """Dequantized values of the graph's tensor `name`."""

    name: str
    layout: DataLayout


@dataclass(frozen=True, eq=False, kw_only=True)
class Pending:
    """A float result that waits for its QuantizeLinear, under the name of the node that it becomes.

    low, high: the clamps (Relu, Clip) met so far; clamped: whether there were any.
    """

    name: str
    shape: MapShape
    layout: DataLayout = "NCHW"
    low: float = -np.inf
    high: float = np.inf
    clamped: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingPicture(Pending):
    """The float picture that the network takes, before its first QuantizeLinear."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingConv(Pending):
    """The sums of a Conv, Gemm or MatMul over tensor `source`; codes int64 [O, kH, kW, I / groups].

    w_scale: float32 [O]. w_bits: 9 for uint8 weights less their zero point. skip: the tensor that is added to the sums
    (a residual connection).
    """

    source: str
    codes: np.ndarray
    w_scale: np.ndarray
    w_bits: int
    bias: Constant | Weights | None = None
    stride: Pair = (1, 1)
    padding: Padding = NO_PADDING
    dilation: Pair = (1, 1)
    groups: int = 1
    skip: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingAdd(Pending):
    """The sum of two quantized tensors, or their difference."""

    a: str
    b: str
    subtracts: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingRescale(Pending):
    """A tensor's own values, which get another scale, width or range."""

    source: str


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingMul(Pending):
    """The product of two quantized tensors, of which the second may have one pixel."""

    a: str
    b: str


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingFunction(Pending):
    """A function of each value of a tensor.

    function: takes real values float64 [1, n] and returns float64 [1, n], or [C, n] where channels differ.
    """

    source: str
    function: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingScaled(PendingFunction):
    """A tensor whose channels are multiplied by `shares`, float64 [C]."""

    shares: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingAvgPool(Pending):
    """Means over windows of a tensor; of the padding only `counted` belongs to a window's area."""

    source: str
    window: SlidingWindow
    counted: Padding = NO_PADDING


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingMaxPool(Pending):
    """Largest values of windows of a tensor, or of a float result: quantizing it before or after is the same."""

    source: "str | Pending"
    window: SlidingWindow


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingMove(Pending):
    """Values of a tensor, or of a float result, in other places; quantizing them before or after is the same.

    index: int64 of the shape that the file has without the batch; each is a place in the source [H, W, C] counted
    through, or -1 for a zero. shape: of the map where the index has three dimensions ([C, H, W]), or one.
    """

    source: "str | Pending"
    source_shape: MapShape
    index: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class PendingConcat(Pending):
    """Channels of several tensors or float results one after the other, all quantized as the result is."""

    sources: "tuple[str | Pending, ...]"


Value = Constant | Weights | Codes | Real | Pending


def describe(value: Value | None) -> str:
    """Returns what a value is in plain words, for error messages."""
    if value is None:
        return "nothing"
    if isinstance(value, Pending):
        return f"the float result of {value.name}"
    names = {Constant: "a constant", Weights: "weights", Codes: "integer codes", Real: "a dequantized feature map"}
    return names[type(value)]


def layout_of(value: Value | None, where: str) -> DataLayout:
    """Returns the layout of a feature map; raises OnnxError for a constant."""
    if value is None or isinstance(value, Constant | Weights):
        raise refusal(where, "a feature map", describe(value))
    return value.layout
