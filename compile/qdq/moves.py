"""Values in other places, followed as an array of places: whatever a file does to its shapes is done to that array."""

from dataclasses import replace

import numpy as np

from compile.qdq.node import FileNode
from compile.qdq.reader import Reader
from compile.qdq.values import Codes, DataLayout, MapShape, Pending, PendingMove, Real, Value, describe, refusal


def places_of(reader: Reader, value: Value | None, where: str) -> np.ndarray:
    """Returns int64 of the file's shape without the batch, the place of each value in the map [H, W, C] behind it.

    Raises OnnxError for a constant.
    """
    if isinstance(value, PendingMove) and not value.clamped:
        return value.index
    h, w, c = reader.shape_of(value, where)
    if not isinstance(value, Codes | Real | Pending):
        raise refusal(where, "a feature map", describe(value))
    places = np.arange(h * w * c).reshape(h, w, c)
    if value.layout == "NHWC":
        return places
    channels_first = places.transpose(2, 0, 1)
    return channels_first.reshape(-1) if value.layout == "flat" else channels_first


def moved(reader: Reader, node: FileNode, index: np.ndarray, layout: DataLayout) -> Value:
    """Returns a node's first input with its values at the places of `index` (see places_of).

    index: int64 [...] of any shape. layout: of the index where it has three dimensions. Where every value keeps its
    place it is the same value in another layout. Raises OnnxError for codes that move.
    """
    source, shape = _origin(reader, node.inputs[0], node.where)
    layout = "flat" if index.ndim == 1 else layout
    same = _layouts_of_whole(index, shape)
    if same:
        return replace(source, layout=layout if layout in same else same[0])
    if isinstance(source, Codes):
        raise refusal(node.where, "a DequantizeLinear before values move", "codes")
    return PendingMove(
        name=reader.take_name(node.proto),
        shape=_map_shape(index, layout),
        layout=layout,
        source=source.name if isinstance(source, Real) else source,
        source_shape=shape,
        index=index,
    )


def _layouts_of_whole(index: np.ndarray, shape: MapShape) -> list[DataLayout]:
    """Layouts of a whole map in which every value keeps its place; both where a map has one pixel."""
    places = np.arange(int(np.prod(shape))).reshape(shape)
    channels_first = places.transpose(2, 0, 1)
    wholes: list[tuple[DataLayout, np.ndarray]] = [
        ("NCHW", channels_first),
        ("NHWC", places),
        ("flat", channels_first.reshape(-1)),
    ]
    return [layout for layout, whole in wholes if np.array_equal(index, whole)]


def _origin(reader: Reader, value: Value | None, where: str) -> tuple[Codes | Real | Pending, MapShape]:
    """What is moved, through moves before, and its shape."""
    if isinstance(value, PendingMove) and not value.clamped:
        source = value.source
        return (Real(source, "NCHW") if isinstance(source, str) else source), value.source_shape
    if not isinstance(value, Codes | Real | Pending):
        raise refusal(where, "a feature map", describe(value))
    return value, reader.shape_of(value, where)


def _map_shape(index: np.ndarray, layout: DataLayout) -> MapShape:
    """[H, W, C]; an index of other dimensions is no map yet, and counts as one pixel."""
    if index.ndim != 3:
        return 1, 1, index.size
    height, width, channels = index.shape if layout == "NHWC" else (*index.shape[1:], index.shape[0])
    return height, width, channels
