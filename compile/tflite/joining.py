"""Operators that cut a map into parts, and that join parts of one map, channels of several, or constants."""

import math
from operator import itemgetter

import numpy as np

from compile.tflite.errors import refusal, require
from compile.tflite.movement import axis_of, moved, shape_of
from compile.tflite.reader import Reader, Value, View
from compile.tflite.records import FileOperator, FileTensor
from targets.reference.nodes import Concat, Rescale, Tensor
from targets.reference.scales import rescale_requant


def read_split(reader: Reader, operator: FileOperator) -> list[Value]:
    """Reads a SPLIT into equal parts; raises TfliteError where they are not."""
    axis = axis_of(_one(reader, operator, 0), reader, operator, 1)
    count = len(operator.outputs)
    return _parts(reader, operator, 1, axis, [shape_of(reader.value(operator, 1))[axis] // count] * count)


def read_split_v(reader: Reader, operator: FileOperator) -> list[Value]:
    """Reads a SPLIT_V into parts of constant sizes; raises TfliteError where they do not add up."""
    axis = axis_of(_one(reader, operator, 2), reader, operator, 0)
    return _parts(reader, operator, 0, axis, reader.integers(operator, 1, "sizes"))


def _one(reader: Reader, operator: FileOperator, k: int) -> int:
    numbers = reader.integers(operator, k, "axis")
    require(len(numbers) == 1, operator.where, "one axis", numbers)
    return numbers[0]


def _parts(reader: Reader, operator: FileOperator, k: int, axis: int, sizes: list[int]) -> list[Value]:
    length = shape_of(reader.value(operator, k))[axis]
    rest = length - sum(s for s in sizes if s != -1)
    sizes = [rest if s == -1 else s for s in sizes]
    fits = len(sizes) == len(operator.outputs) and min(sizes, default=0) >= 1 and sum(sizes) == length
    require(fits, operator.where, f"parts of {length} for {len(operator.outputs)} outputs", sizes)
    values: list[Value] = []
    for output, size in enumerate(sizes):
        first = sum(sizes[:output])
        part = (slice(None),) * axis + (slice(first, first + size),)
        values.append(moved(reader, operator, itemgetter(part), k, output))
    return values


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
    axis = axis_of(options.Axis(), reader, operator, 0)
    declared = reader.file.tensors[operator.outputs[0]]
    sizes = sum(math.prod(shape_of(v)) for v in values)
    require(sizes == math.prod(declared.shape), where, f"a result of {sizes} values", list(declared.shape))
    sources = [reader.source(operator, k) for k in range(len(values))]
    constants = [v for v in values if isinstance(v, np.ndarray)]
    if len(constants) == len(values):
        require(all(s.same_codes(declared) for s in sources), where, "one type, scale and zero point", "others")
        return np.concatenate(constants, axis)
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
