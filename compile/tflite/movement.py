"""Operators that only move values: reshapes, transposes, slices, pads, resizes, and joining.

Each is one function of an array, which is applied to a constant's values and to the places of a view alike.
"""

import math
from collections.abc import Callable

import numpy as np

from compile.tflite.errors import refusal, require
from compile.tflite.reader import Reader, Value, View
from compile.tflite.records import FileOperator, FileTensor
from targets.reference.nodes import Concat, Rescale, Tensor
from targets.reference.scales import rescale_requant

Move = Callable[[np.ndarray], np.ndarray]


def _moved(reader: Reader, operator: FileOperator, move: Move, k: int = 0, output: int = 0) -> Value:
    """An operator's k-th input with its values moved; raises TfliteError unless the shape is the declared one."""
    value, source = reader.value(operator, k), reader.source(operator, k)
    declared = reader.file.tensors[operator.outputs[output]]
    require(source.same_codes(declared), operator.where, "one type, scale and zero point of both", "others")
    moved = move(reader.places(value) if isinstance(value, View) else value)
    expected = f"a result {list(moved.shape)}, as its input and options have it"
    require(moved.shape == declared.shape and moved.size > 0, operator.where, expected, list(declared.shape))
    if not isinstance(value, View):
        return moved
    whole = value.places is None and moved.size == math.prod(value.shape) and (np.diff(moved.reshape(-1)) == 1).all()
    return View(value.tensor, moved.shape, None if whole else moved)


def read_reshape(reader: Reader, operator: FileOperator) -> Value:
    """Reads RESHAPE, SQUEEZE and EXPAND_DIMS, which keep the order of all values."""
    declared = reader.file.tensors[operator.outputs[0]].shape
    return _moved(reader, operator, lambda values: values.reshape(declared))


def read_transpose(reader: Reader, operator: FileOperator) -> Value:
    """Reads a TRANSPOSE; raises TfliteError for one that is no permutation."""
    order = reader.integers(operator, 1, "order of dimensions")
    require(sorted(order) == list(range(len(order))), operator.where, "a permutation", order)
    return _moved(reader, operator, lambda values: values.transpose(order))


def read_pad(reader: Reader, operator: FileOperator) -> Value:
    """Reads PAD, and PADV2 where it pads zeros; raises TfliteError for others."""
    x = reader.source(operator, 0)
    reader.view(operator, 0)
    if len(operator.inputs) > 2:
        filled = reader.constant(operator, 2, "padding value")
        zero = reader.source(operator, 2).same_codes(x) and filled.size == 1 and filled.item() == x.zero_point[0]
        require(zero, operator.where, f"padding with zeros (code {x.zero_point[0]})", filled.reshape(-1)[:4].tolist())
    pads = _pads(reader, operator)
    return _moved(reader, operator, lambda places: np.pad(places, pads, constant_values=-1))


def read_mirror_pad(reader: Reader, operator: FileOperator) -> Value:
    """Reads a MIRROR_PAD with or without the edge; raises TfliteError for one larger than its map."""
    edge = operator.options.Mode()
    require(edge in (0, 1), operator.where, "REFLECT or SYMMETRIC", edge)
    pads = _pads(reader, operator)
    shape = reader.view(operator, 0).shape
    fits = all(max(pair) <= n - 1 + edge for pair, n in zip(pads, shape, strict=True))
    require(fits, operator.where, "padding within the map", pads)
    return _moved(reader, operator, lambda places: np.pad(places, pads, ("reflect", "symmetric")[edge]))


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
    shape = _shape(reader.value(operator, 0))
    require(len(begins) == len(sizes) == len(shape), operator.where, f"{len(shape)} begins and sizes", (begins, sizes))
    ends = [n if s == -1 else b + s for b, s, n in zip(begins, sizes, shape, strict=True)]
    inside = all(0 <= b < e <= n for b, e, n in zip(begins, ends, shape, strict=True))
    require(inside, operator.where, f"a part of {list(shape)}", (begins, sizes))
    part = tuple(slice(b, e) for b, e in zip(begins, ends, strict=True))
    return _moved(reader, operator, lambda values: values[part])


def read_strided_slice(reader: Reader, operator: FileOperator) -> Value:
    """Reads a STRIDED_SLICE with its masks; raises TfliteError for an ellipsis or a new axis."""
    options = operator.options
    plain = not options.EllipsisMask() and not options.NewAxisMask() and not options.Offset()
    require(plain, operator.where, "no ellipsis, new axis or offset", "one", "write the slice out")
    begins, ends, steps = (reader.integers(operator, k, "begins, ends and strides") for k in (1, 2, 3))
    rank = len(_shape(reader.value(operator, 0)))
    fits = len(begins) == len(ends) == len(steps) <= rank and 0 not in steps
    require(fits, operator.where, f"begins, ends and strides of {rank} dimensions", (begins, ends, steps))
    part: list[slice | int] = []
    for k, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        if options.ShrinkAxisMask() >> k & 1:
            part.append(begin)
            continue
        first = None if options.BeginMask() >> k & 1 else begin
        part.append(slice(first, None if options.EndMask() >> k & 1 else end, step))
    return _moved(reader, operator, lambda values: np.asarray(values[tuple(part)]))


def read_split(reader: Reader, operator: FileOperator) -> list[Value]:
    """Reads a SPLIT into equal parts; raises TfliteError where they are not."""
    (axis,) = reader.integers(operator, 0, "axis")[:1] or [0]
    count = len(operator.outputs)
    return _parts(reader, operator, 1, axis, [_shape(reader.value(operator, 1))[_axis(axis, reader, operator, 1)] // count] * count)


def read_split_v(reader: Reader, operator: FileOperator) -> list[Value]:
    """Reads a SPLIT_V into parts of constant sizes; raises TfliteError where they do not add up."""
    sizes = reader.integers(operator, 1, "sizes")
    (axis,) = reader.integers(operator, 2, "axis")[:1] or [0]
    return _parts(reader, operator, 0, axis, sizes)


def _axis(axis: int, reader: Reader, operator: FileOperator, k: int) -> int:
    """A dimension of the operator's k-th input, counted from the front."""
    rank = len(_shape(reader.value(operator, k)))
    require(-rank <= axis < rank, operator.where, f"an axis of {rank} dimensions", axis)
    return axis % rank


def _parts(reader: Reader, operator: FileOperator, k: int, axis: int, sizes: list[int]) -> list[Value]:
    axis = _axis(axis, reader, operator, k)
    length = _shape(reader.value(operator, k))[axis]
    rest = length - sum(s for s in sizes if s != -1)
    sizes = [rest if s == -1 else s for s in sizes]
    fits = len(sizes) == len(operator.outputs) and min(sizes, default=0) >= 1 and sum(sizes) == length
    require(fits, operator.where, f"parts of {length} for {len(operator.outputs)} outputs", sizes)
    values: list[Value] = []
    for output, size in enumerate(sizes):
        first = sum(sizes[:output])
        part = (slice(None),) * axis + (slice(first, first + size),)
        values.append(_moved(reader, operator, lambda values, part=part: values[part], k, output))  # type: ignore[misc]
    return values


def read_gather(reader: Reader, operator: FileOperator) -> Value:
    """Reads a GATHER of constant places along one axis; raises TfliteError for places outside."""
    require(operator.options.BatchDims() == 0, operator.where, "no batch dimensions", operator.options.BatchDims())
    axis = _axis(operator.options.Axis(), reader, operator, 0)
    length = _shape(reader.value(operator, 0))[axis]
    index = np.array(reader.integers(operator, 1, "places")).reshape(_shape(reader.value(operator, 1)))
    fits = index.size > 0 and index.min() >= 0 and index.max() < length
    require(fits, operator.where, f"places in 0..{length - 1}", index.reshape(-1)[:8].tolist())
    shape = _shape(reader.value(operator, 0))
    expected = (*shape[:axis], *index.shape, *shape[axis + 1 :])
    declared = reader.file.tensors[operator.outputs[0]].shape
    require(expected == declared, operator.where, f"a result {list(expected)}", list(declared))
    return _moved(reader, operator, lambda values: values.take(index, axis))


def read_resize_nearest(reader: Reader, operator: FileOperator) -> Value:
    """Reads a RESIZE_NEAREST_NEIGHBOR, whose rows and columns are found in float32 as TFLite does."""
    shape, size = reader.view(operator, 0).shape, reader.integers(operator, 1, "size")
    declared = reader.file.tensors[operator.outputs[0]].shape
    require(len(shape) == len(declared) == 4, operator.where, "maps [1, H, W, C]", (shape, declared))
    require(list(declared[1:3]) == size, operator.where, f"a result of size {size}", list(declared))
    rows, columns = (_nearest(shape[k], declared[k], operator) for k in (1, 2))
    return _moved(reader, operator, lambda places: places[:, rows][:, :, columns])


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
    return np.array(_shape(reader.value(operator, 0)), np.int32)


def read_pack(reader: Reader, operator: FileOperator) -> Value:
    """Reads a PACK of constants; raises TfliteError for one of maps."""
    values = [reader.constant(operator, k, "numbers") for k in range(len(operator.inputs))]
    require(sum(v.size for v in values) <= 1 << 16, operator.where, "few numbers", len(values))
    return np.stack(values, operator.options.Axis())


def read_concatenation(reader: Reader, operator: FileOperator) -> Value:
    """Reads a CONCATENATION of channels, of parts of one map, or of constants; raises TfliteError for others."""
    where, options = operator.where, operator.options
    require(options.FusedActivationFunction() == 0, where, "no fused activation", options.FusedActivationFunction())
    values = [reader.value(operator, k) for k in range(len(operator.inputs))]
    axis = _axis(options.Axis(), reader, operator, 0)
    declared = reader.file.tensors[operator.outputs[0]]
    sizes = sum(math.prod(_shape(v)) for v in values)
    require(sizes == math.prod(declared.shape), where, f"a result of {sizes} values", list(declared.shape))
    sources = [reader.source(operator, k) for k in range(len(values))]
    if all(isinstance(v, np.ndarray) for v in values):
        return np.concatenate(values, axis)
    views = [reader.view(operator, k) for k in range(len(values))]
    if len({v.tensor for v in views}) == 1 and all(s.same_codes(declared) for s in sources):
        places = np.concatenate([reader.places(v) for v in views], axis)
        require(places.shape == declared.shape, where, f"a result {list(places.shape)}", list(declared.shape))
        return View(views[0].tensor, places.shape, places)
    if axis != len(declared.shape) - 1:
        raise refusal(where, "maps that are joined along their channels", f"axis {axis} of {list(declared.shape)}")
    return _joined(reader, operator, views, sources)


def _joined(reader: Reader, operator: FileOperator, views: list[View], sources: list[FileTensor]) -> View:
    tensor, out = reader.result(operator)
    inputs = []
    for k, (view, source) in enumerate(zip(views, sources, strict=True)):
        require(source.kind == tensor.kind, operator.where, f"{tensor.kind} codes", source.kind)
        x = reader.map_of(view, operator.where)
        if (x.scale, x.zero_point) != (out.scale, out.zero_point):
            scaled = Tensor(f"{out.name}/part_{k}", x.shape, 8, out.scale, out.zero_point)
            node = Rescale(f"{operator.name}/rescale_{k}", x.name, scaled.name, rescale_requant(x.scale, out.scale))
            reader.append(node, scaled)
            x = scaled
        inputs.append(x.name)
    return View(reader.append(Concat(operator.name, tuple(inputs), out.name), out), tensor.shape)


def _shape(value: Value) -> tuple[int, ...]:
    return tuple(value.shape)


