"""Operators that only move values: reshapes, transposes, slices, pads and resizes.

Each is one function of an array, which is applied to a constant's values and to the places of a view alike.
"""

import math
from collections.abc import Callable

import numpy as np

from compile.tflite.errors import require
from compile.tflite.reader import Reader, Value, View
from compile.tflite.records import FileOperator

Move = Callable[[np.ndarray], np.ndarray]


def moved(reader: Reader, operator: FileOperator, move: Move, k: int = 0, output: int = 0) -> Value:
    """Returns an operator's k-th input [...] with its values moved; raises TfliteError for another shape."""
    value, source = reader.value(operator, k), reader.source(operator, k)
    declared = reader.file.tensors[operator.outputs[output]]
    require(source.same_codes(declared), operator.where, "one type, scale and zero point of both", "others")
    values = move(reader.places(value) if isinstance(value, View) else value)
    expected = f"a result {list(values.shape)}, as its input and options have it"
    require(values.shape == declared.shape and values.size > 0, operator.where, expected, list(declared.shape))
    if not isinstance(value, View):
        return values
    whole = value.places is None and values.size == math.prod(value.shape) and (np.diff(values.reshape(-1)) == 1).all()
    return View(value.tensor, values.shape, None if whole else values)


def read_reshape(reader: Reader, operator: FileOperator) -> Value:
    """Reads RESHAPE, SQUEEZE and EXPAND_DIMS, which keep the order of all values; raises TfliteError."""
    declared = reader.file.tensors[operator.outputs[0]].shape
    if operator.kind == "RESHAPE" and len(operator.inputs) > 1:
        shape = reader.integers(operator, 1, "shape")
        fits = len(shape) == len(declared) and all(n in (-1, d) for n, d in zip(shape, declared, strict=True))
        require(fits, operator.where, f"a result {shape}", list(declared))
    size = math.prod(shape_of(reader.value(operator, 0)))
    require(size == math.prod(declared), operator.where, f"a result of {size} values", list(declared))
    return moved(reader, operator, lambda values: values.reshape(declared))


def read_transpose(reader: Reader, operator: FileOperator) -> Value:
    """Reads a TRANSPOSE; raises TfliteError for one that is no permutation."""
    order = reader.integers(operator, 1, "order of dimensions")
    require(sorted(order) == list(range(len(order))), operator.where, "a permutation", order)
    return moved(reader, operator, lambda values: values.transpose(order))


def read_pad(reader: Reader, operator: FileOperator) -> Value:
    """Reads PAD, and PADV2 where it pads zeros; raises TfliteError for others."""
    x = reader.source(operator, 0)
    reader.view(operator, 0)
    if len(operator.inputs) > 2:
        filled = reader.constant(operator, 2, "padding value")
        zero = reader.source(operator, 2).same_codes(x) and filled.size == 1 and filled.item() == x.zero_point[0]
        require(zero, operator.where, f"padding with zeros (code {x.zero_point[0]})", filled.reshape(-1)[:4].tolist())
    pads = _pads(reader, operator)
    return moved(reader, operator, lambda places: np.pad(places, pads, constant_values=-1))


def read_mirror_pad(reader: Reader, operator: FileOperator) -> Value:
    """Reads a MIRROR_PAD with or without the edge; raises TfliteError for one larger than its map."""
    edge = operator.options.Mode()
    require(edge in (0, 1), operator.where, "REFLECT or SYMMETRIC", edge)
    pads = _pads(reader, operator)
    shape = reader.view(operator, 0).shape
    fits = all(max(pair) <= n - 1 + edge for pair, n in zip(pads, shape, strict=True))
    require(fits, operator.where, "padding within the map", pads)
    return moved(reader, operator, lambda places: np.pad(places, pads, ("reflect", "symmetric")[edge]))


def _pads(reader: Reader, operator: FileOperator) -> list[tuple[int, int]]:
    """(before, after) of each dimension, within what the declared result has room for."""
    flat = reader.integers(operator, 1, "pads")
    declared = reader.file.tensors[operator.outputs[0]].shape
    fits = len(flat) == 2 * len(declared) == 2 * len(reader.view(operator, 0).shape)
    require(fits, operator.where, f"two pads for each dimension of {list(declared)}", flat)
    pads = list(zip(flat[::2], flat[1::2], strict=True))
    inside = all(min(pair) >= 0 and sum(pair) < n for pair, n in zip(pads, declared, strict=True))
    require(inside, operator.where, f"pads that fit {list(declared)}", pads)
    return pads


def read_slice(reader: Reader, operator: FileOperator) -> Value:
    """Reads a SLICE; raises TfliteError for one that leaves its input."""
    begins, sizes = (reader.integers(operator, k, what) for k, what in ((1, "begins"), (2, "sizes")))
    shape = shape_of(reader.value(operator, 0))
    require(len(begins) == len(sizes) == len(shape), operator.where, f"{len(shape)} begins and sizes", (begins, sizes))
    ends = [n if s == -1 else b + s for b, s, n in zip(begins, sizes, shape, strict=True)]
    inside = all(0 <= b < e <= n for b, e, n in zip(begins, ends, shape, strict=True))
    require(inside, operator.where, f"a part of {list(shape)}", (begins, sizes))
    part = tuple(slice(b, e) for b, e in zip(begins, ends, strict=True))
    return moved(reader, operator, lambda values: values[part])


def read_strided_slice(reader: Reader, operator: FileOperator) -> Value:
    """Reads a STRIDED_SLICE with its masks; raises TfliteError for an ellipsis or a new axis."""
    options = operator.options
    plain = not options.EllipsisMask() and not options.NewAxisMask() and not options.Offset()
    require(plain, operator.where, "no ellipsis, new axis or offset", "one", "write the slice out")
    begins, ends, steps = (reader.integers(operator, k, "begins, ends and strides") for k in (1, 2, 3))
    rank = len(shape_of(reader.value(operator, 0)))
    fits = len(begins) == len(ends) == len(steps) <= rank and 0 not in steps
    require(fits, operator.where, f"begins, ends and strides of {rank} dimensions", (begins, ends, steps))
    part: list[slice | int] = []
    for k, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        if options.ShrinkAxisMask() >> k & 1:
            part.append(begin)
            continue
        first = None if options.BeginMask() >> k & 1 else begin
        part.append(slice(first, None if options.EndMask() >> k & 1 else end, step))
    return moved(reader, operator, lambda values: np.asarray(values[tuple(part)]))


def read_gather(reader: Reader, operator: FileOperator) -> Value:
    """Reads a GATHER of constant places along one axis; raises TfliteError for places outside."""
    require(operator.options.BatchDims() == 0, operator.where, "no batch dimensions", operator.options.BatchDims())
    axis = axis_of(operator.options.Axis(), reader, operator, 0)
    length = shape_of(reader.value(operator, 0))[axis]
    index = np.array(reader.integers(operator, 1, "places")).reshape(shape_of(reader.value(operator, 1)))
    fits = index.size > 0 and index.min() >= 0 and index.max() < length
    require(fits, operator.where, f"places in 0..{length - 1}", index.reshape(-1)[:8].tolist())
    shape = shape_of(reader.value(operator, 0))
    expected = (*shape[:axis], *index.shape, *shape[axis + 1 :])
    declared = reader.file.tensors[operator.outputs[0]].shape
    require(expected == declared, operator.where, f"a result {list(expected)}", list(declared))
    return moved(reader, operator, lambda values: values.take(index, axis))


def read_resize_nearest(reader: Reader, operator: FileOperator) -> Value:
    """Reads a RESIZE_NEAREST_NEIGHBOR, whose rows and columns are found in float32 as TFLite does."""
    shape, size = reader.view(operator, 0).shape, reader.integers(operator, 1, "size")
    declared = reader.file.tensors[operator.outputs[0]].shape
    require(len(shape) == len(declared) == 4, operator.where, "maps [1, H, W, C]", (shape, declared))
    require(list(declared[1:3]) == size, operator.where, f"a result of size {size}", list(declared))
    rows, columns = (_nearest(shape[k], declared[k], operator) for k in (1, 2))
    return moved(reader, operator, lambda places: places[:, rows][:, :, columns])


def _nearest(length: int, target: int, operator: FileOperator) -> np.ndarray:
    """int64 [target]."""
    corners, half = operator.options.AlignCorners(), np.float32(0.5 if operator.options.HalfPixelCenters() else 0)
    stretched = corners and target > 1
    scale = np.float32(length - 1) / np.float32(target - 1) if stretched else np.float32(length) / np.float32(target)
    at = (np.arange(target, dtype=np.float32) + half) * scale
    nearest = np.floor(at + np.float32(0.5)) if corners else np.floor(at)
    return nearest.astype(np.int64).clip(0, length - 1)


def read_shape(reader: Reader, operator: FileOperator) -> Value:
    """Reads a SHAPE, which is a constant."""
    return np.array(shape_of(reader.value(operator, 0)), np.int32)


def axis_of(axis: int, reader: Reader, operator: FileOperator, k: int) -> int:
    """Returns a dimension of the operator's k-th input, counted from the front; raises TfliteError for none."""
    rank = len(shape_of(reader.value(operator, k)))
    require(-rank <= axis < rank, operator.where, f"an axis of {rank} dimensions", axis)
    return axis % rank


def shape_of(value: Value) -> tuple[int, ...]:
    """Returns the shape that the file gives a value."""
    return tuple(value.shape)
