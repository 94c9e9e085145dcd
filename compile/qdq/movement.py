"""Reads operators that only move values: Slice, Split, Gather, Pad, Transpose, Reshape, Resize and their like.

Each does to an array of places what it would do to the values (compile/qdq/moves.py).
"""

from collections.abc import Sequence

import numpy as np

from compile.qdq.moves import moved, places_of
from compile.qdq.node import FileNode
from compile.qdq.reader import Reader
from compile.qdq.resizing import resized_places
from compile.qdq.values import DataLayout, OnnxError, Value, layout_of, require

TO_NHWC = [0, 2, 3, 1]  # permutation of a Transpose to [N, H, W, C]


def read_slice(reader: Reader, node: FileNode) -> Value:
    """Reads a Slice with constant limits; raises OnnxError for others."""
    index = places_of(reader, node.inputs[0], node.where)
    starts, ends = node.integers("starts", 1), node.integers("ends", 2)
    require(starts is not None and ends is not None, node.where, "constant starts and ends", "none")
    axes = node.integers("axes", 3) or list(range(len(starts or ())))
    steps = node.integers("steps", 4) or [1] * len(axes)
    cuts = [slice(None)] * index.ndim
    for start, end, axis, step in zip(starts or (), ends or (), axes, steps, strict=True):
        place = _place_of_axis(node, axis, index.ndim)
        before_first = step < 0 and end < -index.shape[place]
        cuts[place] = slice(start, None if before_first else end, step)
    return moved(reader, node, index[tuple(cuts)], _layout(node))


def read_split(reader: Reader, node: FileNode) -> tuple[Value, ...]:
    """Reads a Split into parts of one axis; raises OnnxError for parts that do not add up."""
    index = places_of(reader, node.inputs[0], node.where)
    axis = _place_of_axis(node, node.attributes.get("axis", 0), index.ndim)
    outputs, size = len(node.proto.output), index.shape[axis]
    sizes = node.integers("split", 1)
    if sizes is None:
        part = -(-size // outputs)
        sizes = [part] * (outputs - 1) + [size - part * (outputs - 1)]
    fits = len(sizes) == outputs and sum(sizes) == size and min(sizes) >= 1
    require(fits, node.where, f"{outputs} parts of {size}", sizes)
    ends = np.cumsum(sizes)[:-1]
    parts = []
    for number, part_index in enumerate(np.split(index, ends, axis)):
        parts.append(moved(reader, node.of_output(number), part_index, _layout(node)))
    return tuple(parts)


def read_gather(reader: Reader, node: FileNode) -> Value:
    """Reads a Gather along one axis by constant places; raises OnnxError for others."""
    index = places_of(reader, node.inputs[0], node.where)
    axis = _place_of_axis(node, node.attributes.get("axis", 0), index.ndim)
    (places,) = node.constants("constant places")[:1]
    require(places is not None, node.where, "constant places", "none")
    wanted = np.asarray(places).astype(np.int64)
    inside = bool(((-index.shape[axis] <= wanted) & (wanted < index.shape[axis])).all())
    require(inside, node.where, f"places below {index.shape[axis]}", wanted.reshape(-1)[:8].tolist())
    return moved(reader, node, index.take(wanted, axis), _layout(node))


def read_pad(reader: Reader, node: FileNode) -> Value:
    """Reads a Pad with zeros, or by values of the map; raises OnnxError for other values."""
    index = places_of(reader, node.inputs[0], node.where)
    pads, axes = node.integers("pads", 1), node.integers("axes", 3)
    require(pads is not None, node.where, "constant pads", "none")
    value = node.constant(2)
    require(value is None or not np.any(value), node.where, "padding with zeros", value)
    rank = index.ndim + 1
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    sizes = pads or []
    require(len(sizes) == 2 * len(axes), node.where, f"{2 * len(axes)} pads", sizes)
    around = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        around[axis] = (sizes[k], sizes[k + len(axes)])
    require(around[0] == (0, 0), node.where, "no padding of the batch", around[0])
    cuts = tuple(slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(around[1:], index.shape, strict=True))
    width = [(max(0, a), max(0, b)) for a, b in around[1:]]
    return moved(reader, node, _padded(node, index[cuts], width), _layout(node))


def _padded(node: FileNode, index: np.ndarray, width: Sequence[tuple[int, int]]) -> np.ndarray:
    """Places with padding by the mode of the node."""
    mode = node.attributes.get("mode", b"constant")
    if mode == b"constant":
        return np.pad(index, width, constant_values=-1)
    require(mode in (b"edge", b"reflect", b"wrap"), node.where, "mode constant, edge, reflect or wrap", mode)
    return np.pad(index, width, mode=mode.decode())


def read_transpose(reader: Reader, node: FileNode) -> Value:
    """Reads a Transpose that leaves the batch in front; raises OnnxError for others."""
    index = places_of(reader, node.inputs[0], node.where)
    permutation = list(node.attributes.get("perm", range(index.ndim + 1)[::-1]))
    keeps_batch = sorted(permutation) == list(range(index.ndim + 1)) and permutation[0] == 0
    require(keeps_batch, node.where, f"a permutation of {index.ndim + 1} axes with the batch in front", permutation)
    layout: DataLayout = "NHWC" if permutation == TO_NHWC else "NCHW"
    return moved(reader, node, index.transpose([axis - 1 for axis in permutation[1:]]), layout)


def read_flatten(reader: Reader, node: FileNode) -> Value:
    """Reads a Flatten of everything but the batch; raises OnnxError for another axis."""
    index = places_of(reader, node.inputs[0], node.where)
    axis = node.attributes.get("axis", 1) % (index.ndim + 1)
    require(axis == 1, node.where, "axis 1", node.attributes.get("axis"))
    return moved(reader, node, index.reshape(-1), "flat")


def read_reshape(reader: Reader, node: FileNode) -> Value:
    """Reads a Reshape to constant sizes that leaves the batch alone; raises OnnxError for others."""
    index = places_of(reader, node.inputs[0], node.where)
    target = node.integers("shape", 1)
    if target is None:
        raise OnnxError(f"{node.where}: expected a constant shape, got a computed one; fold it (onnxsim does)")
    before = (1, *index.shape)
    sizes = [before[k] if n == 0 and k < len(before) else n for k, n in enumerate(target)]
    sizes = [1, *sizes[1:]] if sizes[:1] == [-1] and -1 not in sizes[1:] else sizes
    known = int(np.prod([n for n in sizes if n != -1]))
    fits = sizes.count(-1) <= 1 and known > 0 and index.size % known == 0 and sizes[:1] == [1]
    fits = fits and (-1 in sizes or known == index.size)
    require(fits, node.where, f"[N, ...] of {index.size} values", target)
    shape = [index.size // known if n == -1 else n for n in sizes[1:]]
    return moved(reader, node, index.reshape(shape), _layout(node) if len(shape) == 3 else "NCHW")


def read_squeeze(reader: Reader, node: FileNode) -> Value:
    """Reads a Squeeze of axes of size 1; raises OnnxError for others."""
    index = places_of(reader, node.inputs[0], node.where)
    axes = node.integers("axes", 1)
    if axes is None:
        axes = [axis for axis, size in enumerate(index.shape, 1) if size == 1]
    places = tuple(_place_of_axis(node, axis, index.ndim) for axis in axes)
    sizes = [index.shape[place] for place in places]
    require(set(sizes) <= {1}, node.where, "axes of size 1", sizes)
    return moved(reader, node, index.squeeze(places), _layout(node))


def read_unsqueeze(reader: Reader, node: FileNode) -> Value:
    """Reads an Unsqueeze behind the batch; raises OnnxError for others."""
    index = places_of(reader, node.inputs[0], node.where)
    axes = node.integers("axes", 1) or []
    rank = index.ndim + 1 + len(axes)
    places = sorted(axis % rank - 1 for axis in axes)
    require(bool(places) and places[0] >= 0, node.where, "axes behind the batch", axes)
    return moved(reader, node, np.expand_dims(index, tuple(places)), "NCHW")


def read_depth_to_space(reader: Reader, node: FileNode) -> Value:
    """Reads a DepthToSpace; raises OnnxError for a map that it does not divide."""
    index = places_of(reader, node.inputs[0], node.where)
    block = int(node.attributes["blocksize"])
    require(
        index.ndim == 3 and index.shape[0] % block**2 == 0, node.where, f"channels in blocks of {block}²", index.shape
    )
    channels, height, width = index.shape
    if node.attributes.get("mode", b"DCR") == b"DCR":
        parts = index.reshape(block, block, -1, height, width).transpose(2, 3, 0, 4, 1)
    else:
        parts = index.reshape(-1, block, block, height, width).transpose(0, 3, 1, 4, 2)
    return moved(reader, node, parts.reshape(channels // block**2, height * block, width * block), "NCHW")


def read_space_to_depth(reader: Reader, node: FileNode) -> Value:
    """Reads a SpaceToDepth; raises OnnxError for a map that it does not divide."""
    index = places_of(reader, node.inputs[0], node.where)
    block = int(node.attributes["blocksize"])
    fits = index.ndim == 3 and index.shape[1] % block == index.shape[2] % block == 0
    require(fits, node.where, f"a map of blocks of {block} pixels", index.shape)
    channels, height, width = index.shape
    parts = index.reshape(channels, height // block, block, width // block, block).transpose(2, 4, 0, 1, 3)
    return moved(reader, node, parts.reshape(-1, height // block, width // block), "NCHW")


def read_resize(reader: Reader, node: FileNode) -> Value:
    """Reads a Resize or Upsample to the nearest pixels; raises OnnxError for other interpolations."""
    index = places_of(reader, node.inputs[0], node.where)
    for axis, places in enumerate(resized_places(node, index.shape)):
        index = index.take(places, axis)
    return moved(reader, node, index, _layout(node))


def _layout(node: FileNode) -> DataLayout:
    """The layout that the node's input has, which operators that keep the axes leave as it is."""
    return layout_of(node.inputs[0], node.where)


def _place_of_axis(node: FileNode, axis: int, ndim: int) -> int:
    """The axis of places for one of the file, whose first is the batch."""
    place = axis + ndim if axis < 0 else axis - 1
    require(0 <= place < ndim, node.where, f"an axis behind the batch, in 1..{ndim}", axis)
    return place
