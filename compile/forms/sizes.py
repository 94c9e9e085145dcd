"""Dimensions of the picture: a batch of one, and the height and width that files with free dimensions leave open."""

import numpy as np
import onnx

from compile.forms.graph import FileGraph, FormError, input_of, is_standard
from compile.forms.options import Size

CHANNELS = (1, 3, 4)


def set_sizes(graph: FileGraph, size: Size | None) -> None:
    """Sets the picture's batch to 1 and its free dimensions to `size`; the shapes that follow are told anew.

    Raises FormError where height or width are free and no size is given, or where they are others.
    """
    if len(graph.inputs) != 1:
        return  # the importer says what it expects
    entry = graph.inputs[0]
    dims = entry.type.tensor_type.shape.dim
    if len(dims) != 4:
        return
    batch = dims[0].dim_value
    _set_height_and_width(entry, size)
    dims[0].ClearField("dim_param")
    dims[0].dim_value = 1
    for output in graph.outputs:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    if batch > 1:
        _reshape_one(graph, batch)
    graph.changed()


def _set_height_and_width(entry: onnx.ValueInfoProto, size: Size | None) -> None:
    dims = entry.type.tensor_type.shape.dim
    first = _first_of_map(entry)
    shown = f"[{', '.join(str(dim.dim_value or dim.dim_param or '?') for dim in dims)}]"
    where = f"input tensor {entry.name!r}"
    for k, name in enumerate(("height", "width")):
        dim = dims[first + k]
        if size is None and dim.dim_value < 1:
            raise FormError(
                f"{where}: expected a height and width, got {shown}; give them with --size, such as --size 224 or "
                "--size 192x256"
            )
        if size is not None and dim.dim_value not in (0, size[k]):
            raise FormError(f"{where}: expected a {name} of {size[k]} as --size says, got {shown}; leave --size out")
        if size is not None:
            dim.dim_value = size[k]


def _first_of_map(entry: onnx.ValueInfoProto) -> int:
    """The index of the height: 2 in [N, C, H, W], 1 in [N, H, W, C]."""
    dims = entry.type.tensor_type.shape.dim
    return 1 if dims[3].dim_value in CHANNELS and dims[1].dim_value not in CHANNELS else 2


def _reshape_one(graph: FileGraph, batch: int) -> None:
    """Targets of Reshape that name the file's own batch get 1 instead."""
    for node in graph.nodes:
        if not is_standard(node, "Reshape"):
            continue
        target = graph.array(input_of(node, 1))
        if target is not None and target.size and target[0] == batch:
            one = np.concatenate([[1], target[1:]]).astype(np.int64)
            node.input[1] = graph.add_constant(f"{node.input[1]}/one", one)
