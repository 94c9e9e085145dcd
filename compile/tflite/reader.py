"""The integer graph while a .tflite file is read: its tensors and nodes so far, and what each tensor of the file is."""

from dataclasses import dataclass, replace

import numpy as np

from compile.qdq.places import is_whole, separated
from compile.tflite.errors import refusal, require
from compile.tflite.records import FileModel, FileOperator, FileTensor
from targets.reference.nodes import NO_PADDING, Gather, Node, Padding, Tensor

MapShape = tuple[int, int, int]  # height, width, channels


@dataclass(frozen=True, eq=False)
class View:
    """Values of one of the graph's tensors, in the shape and order that the file gives them.

    Reshapes, slices, pads and resizes only move values: they change `places`, and the network's next real operator says
    what that costs. places: int32 of `shape`, the place of each value in the tensor [H, W, C] laid flat, -1 for the
    zero point; None: all of them in order.
    """

    tensor: str
    shape: tuple[int, ...]
    places: np.ndarray | None = None


Value = View | np.ndarray  # an array: a constant's values


def map_shape(shape: tuple[int, ...], where: str) -> MapShape:
    """Returns [H, W, C] of a file's shape: [1, H, W, C], [1, W, C], [1, C] or [C]; raises TfliteError for others."""
    inner = shape[1:] if len(shape) > 1 else shape
    fits = len(shape) <= 4 and bool(inner) and min(inner) >= 1 and (len(shape) == 1 or shape[0] == 1)
    require(fits, where, "a map [1, H, W, C] or [1, C] of one picture", list(shape), "export it with a batch of one")
    height, width, channels = (1, 1, 1, *inner)[-3:]
    return height, width, channels


class Reader:
    """The integer graph under construction; values: what is known of each tensor of the file, by its number."""

    def __init__(self, file: FileModel):
        self.file = file
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.values: dict[int, Value] = {t.index: t.data for t in file.tensors if t.data is not None}

    def append(self, node: Node, out: Tensor) -> str:
        """Adds a node with the tensor [H, W, C] that it computes, and returns the tensor's name."""
        require(out.name not in self.tensors, f"tensor {out.name}", "a name of its own", "one that is taken")
        self.tensors[out.name] = out
        self.nodes.append(node)
        return out.name

    def source(self, operator: FileOperator, k: int) -> FileTensor:
        """Returns the file's k-th input tensor of an operator; raises TfliteError where there is none."""
        present = k < len(operator.inputs) and operator.inputs[k] >= 0
        require(present, operator.where, f"at least {k + 1} inputs", len(operator.inputs))
        return self.file.tensors[operator.inputs[k]]

    def value(self, operator: FileOperator, k: int) -> Value:
        """Returns what an operator's k-th input is; raises TfliteError where nothing computes it."""
        tensor = self.source(operator, k)
        if tensor.index not in self.values:
            raise refusal(operator.where, "inputs computed before it, or constants", f"neither in {tensor.where}")
        return self.values[tensor.index]

    def view(self, operator: FileOperator, k: int) -> View:
        """Returns an operator's k-th input, which is no constant; raises TfliteError otherwise."""
        value = self.value(operator, k)
        if not isinstance(value, View):
            raise refusal(operator.where, "a map that the network computes", f"the constant {operator.inputs[k]}")
        self.source(operator, k).require_map(operator.where)
        return value

    def constant(self, operator: FileOperator, k: int, what: str) -> np.ndarray:
        """Returns the values of an operator's k-th input [its shape], a constant; raises TfliteError otherwise."""
        value = self.value(operator, k)
        if isinstance(value, View):
            raise refusal(operator.where, f"constant {what}", "computed ones", "export with fixed shapes and weights")
        return value

    def integers(self, operator: FileOperator, k: int, what: str) -> list[int]:
        """Returns a constant input of whole numbers (axes, sizes, pads); raises TfliteError otherwise."""
        values = self.constant(operator, k, what)
        require(values.dtype.kind == "i" and values.size <= 1 << 16, operator.where, f"whole {what}", values.dtype)
        return [int(v) for v in values.reshape(-1)]

    def result(self, operator: FileOperator) -> tuple[FileTensor, Tensor]:
        """Returns the file's output tensor of an operator, and the graph's [H, W, C] for it; raises TfliteError."""
        tensor = self.file.tensors[operator.outputs[0]]
        tensor.require_map(operator.where)
        return tensor, codes_of(tensor, f"tensor_{tensor.index}", map_shape(tensor.shape, operator.where))

    def places(self, view: View) -> np.ndarray:
        """Returns int32 [the view's shape], the place of each of its values."""
        if view.places is not None:
            return view.places
        return np.arange(int(np.prod(view.shape)), dtype=np.int32).reshape(view.shape)

    def map_of(self, view: View, where: str) -> Tensor:
        """Returns the graph's tensor [H, W, C] whose values are those of a view; a Gather brings them in order.

        Raises TfliteError where no Gather can: values that changed places across rows, columns and channels.
        """
        shape = map_shape(view.shape, where)
        source = self.tensors[view.tensor]
        if view.places is None and shape == source.shape:
            return source
        places = separated(self.places(view).reshape(shape), source.shape)
        if places is None:
            advice = "only a FULLY_CONNECTED may follow a reshape or transpose that mixes rows, columns and channels"
            raise refusal(where, "rows, columns and channels that keep together", list(view.shape), advice)
        if is_whole(places, source.shape):
            return source
        name = next(n for k in range(len(self.tensors) + 1) if (n := f"{view.tensor}/moved_{k}") not in self.tensors)
        out = replace(source, name=name, shape=shape)
        self.append(Gather(name, source.name, name, places.rows, places.columns, places.channels), out)
        return out

    def padded_map_of(self, view: View, where: str) -> tuple[Tensor, Padding]:
        """Returns the tensor [H, W, C] of a view without the zero points around it, and how many those are."""
        if view.places is None or len(view.shape) != 4 or view.shape[0] != 1:
            return self.map_of(view, where), NO_PADDING
        inside = (view.places[0] >= 0).any(-1)
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        if not rows.size:
            return self.map_of(view, where), NO_PADDING
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        inner = view.places[:, top:bottom, left:right]
        padding = (int(top), int(left), view.shape[1] - int(bottom), view.shape[2] - int(right))
        return self.map_of(View(view.tensor, inner.shape, inner), where), padding


def codes_of(tensor: FileTensor, name: str, shape: MapShape) -> Tensor:
    """Returns the graph's tensor [H, W, C] for the codes of a file's."""
    return Tensor(name, shape, 8, float(tensor.scale[0]), (int(tensor.zero_point[0]) + tensor.offset,))
