"""Sums and products of maps, and functions of one value, which become tables of all 256 codes."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from compile.tflite.errors import refusal, require
from compile.tflite.functions import Function, clamp_of, table_of
from compile.tflite.reader import Reader, View, codes_of
from compile.tflite.records import FileOperator
from targets.reference.nodes import Add, Lookup, Mul, Rescale, Tensor
from targets.reference.scales import add_integers, requant_from_ratio, rescale_requant

Pair = Callable[[np.ndarray, np.ndarray], np.ndarray]


def read_add(reader: Reader, operator: FileOperator) -> View:
    """Reads an ADD of two maps, or of a map and a constant; raises TfliteError for others."""
    return _sum(reader, operator, np.add, 1)


def read_sub(reader: Reader, operator: FileOperator) -> View:
    """Reads a SUB of two maps, or of a map and a constant; raises TfliteError for others."""
    return _sum(reader, operator, np.subtract, -1)


def _sum(reader: Reader, operator: FileOperator, function: Pair, sign: int) -> View:
    tensor = reader.result(operator)[0]
    clamp = clamp_of(operator.options.FusedActivationFunction(), tensor, operator.where)
    if _has_constant(reader, operator):
        return _with_constant(reader, operator, function, clamp)
    (a, b), out = _maps(reader, operator, tensor.shape), reader.result(operator)[1]
    (first, second), requant = add_integers(a.scale, b.scale, out.scale)
    node = Add(operator.name, a.name, b.name, out.name, (first, sign * second), requant, *clamp)
    return View(reader.append(node, out), tensor.shape)


def read_mul(reader: Reader, operator: FileOperator) -> View:
    """Reads a MUL of two maps (one may have a single pixel), or of a map and a constant; raises TfliteError."""
    tensor, out = reader.result(operator)
    clamp = clamp_of(operator.options.FusedActivationFunction(), tensor, operator.where)
    if _has_constant(reader, operator):
        return _with_constant(reader, operator, np.multiply, clamp)
    views = [reader.view(operator, k) for k in range(2)]
    pixels = [k for k, view in enumerate(views) if view.shape[:-1] == (1,) * (len(view.shape) - 1)]
    whole = [k for k, view in enumerate(views) if view.shape == tensor.shape]
    if whole and pixels and views[pixels[-1]].shape[-1] == out.shape[2]:
        small = pixels[-1]
        a, b = (reader.map_of(views[k], operator.where) for k in (1 - small, small))
        require(a.shape == out.shape, operator.where, f"a factor {list(out.shape)}", list(a.shape))
    else:
        a, b = _maps(reader, operator, tensor.shape)
    requant = requant_from_ratio(np.float64(a.scale) * b.scale / out.scale)
    return View(reader.append(Mul(operator.name, a.name, b.name, out.name, requant, *clamp), out), tensor.shape)


def _maps(reader: Reader, operator: FileOperator, shape: tuple[int, ...]) -> list[Tensor]:
    """Both operands [H, W, C], repeated along dimensions of 1 as numpy does."""
    operands = []
    for k in range(2):
        require(reader.source(operator, k).kind == reader.result(operator)[0].kind, operator.where, "one type", "two")
        view = reader.view(operator, k)
        if view.shape != shape:
            places = np.broadcast_to(reader.places(view), shape)
            view = View(view.tensor, shape, places)
        operands.append(reader.map_of(view, operator.where))
    return operands


def _has_constant(reader: Reader, operator: FileOperator) -> bool:
    return any(not isinstance(reader.value(operator, k), View) for k in range(2))


def _with_constant(reader: Reader, operator: FileOperator, function: Pair, clamp: tuple[int, int] = (0, 255)) -> View:
    """The table of a function of a map and a constant for all values, or one for each channel."""
    k = next(k for k in range(2) if not isinstance(reader.value(operator, k), View))
    values = _channel_values(reader, operator, k, reader.view(operator, 1 - k).shape[-1])
    return tabulate(reader, operator, lambda x: function(values, x) if k == 0 else function(x, values), clamp, 1 - k)


def _channel_values(reader: Reader, operator: FileOperator, k: int, channels: int) -> np.ndarray:
    """float64 [1 or C, 1]: the real values of a quantized constant."""
    tensor, values = reader.source(operator, k), reader.constant(operator, k, "values")
    tensor.require_map(operator.where)
    kind = reader.source(operator, 1 - k).kind
    require(tensor.kind == kind, operator.where, f"a constant of type {kind}, as its map", tensor.kind)
    fits = values.size == 1 or (values.size == channels and values.shape[-1] == channels)
    expected = f"a constant of one value, or of one for each of {channels} channels"
    require(fits, operator.where, expected, list(values.shape))
    codes = values.reshape(-1, 1).astype(np.float64) - int(tensor.zero_point[0])
    return codes * np.float64(tensor.scale[0])


def tabulate(
    reader: Reader, operator: FileOperator, function: Function, clamp: tuple[int, int] = (0, 255), k: int = 0
) -> View:
    """Adds the table of a function of the operator's k-th input; raises TfliteError. See functions.table_of."""
    x, view, (tensor, out) = reader.source(operator, k), reader.view(operator, k), reader.result(operator)
    require(x.kind == tensor.kind, operator.where, "codes of one type in and out", f"{x.kind} and {tensor.kind}")
    require(view.shape == tensor.shape, operator.where, f"a result {list(view.shape)}", list(tensor.shape))
    table = table_of(function, x, tensor, clamp)
    if len(table) == 1 and view.places is not None and (view.places >= 0).all():
        source = reader.tensors[view.tensor]
        inner = codes_of(tensor, f"{out.name}/of_{view.tensor}", source.shape)
        name = reader.append(Lookup(operator.name, source.name, inner.name, table), inner)
        return View(name, view.shape, view.places)
    source = reader.map_of(view, operator.where)
    return View(reader.append(Lookup(operator.name, source.name, out.name, table), out), tensor.shape)


def read_quantize(reader: Reader, operator: FileOperator) -> View:
    """Reads a QUANTIZE of codes, which gives them another scale; raises TfliteError for one of floats."""
    view, (tensor, out) = reader.view(operator, 0), reader.result(operator)
    require(view.shape == tensor.shape, operator.where, f"a result {list(view.shape)}", list(tensor.shape))
    source = reader.tensors[view.tensor]
    if (source.scale, source.zero_point) == (out.scale, out.zero_point):
        return view
    in_order = view.places is None and source.shape == out.shape
    out = out if in_order else replace(out, name=f"{out.name}/of_{view.tensor}", shape=source.shape)
    node = Rescale(operator.name, source.name, out.name, rescale_requant(source.scale, out.scale))
    return View(reader.append(node, out), view.shape, view.places)


def read_clamp(function: Pair) -> Callable[[Reader, FileOperator], View]:
    """Returns the reader of MINIMUM or MAXIMUM with a constant, over tensors of one scale."""

    def read(reader: Reader, operator: FileOperator) -> View:
        tensors = [reader.source(operator, 0), reader.source(operator, 1), reader.result(operator)[0]]
        alike = all(t.same_codes(tensors[0]) for t in tensors)
        require(alike, operator.where, "one scale and zero point of inputs and output", "others")
        if not _has_constant(reader, operator):
            raise refusal(operator.where, "a constant limit", "two maps that the network computes")
        return _with_constant(reader, operator, function)

    return read


def read_function(function: Function) -> Callable[[Reader, FileOperator], View]:
    """Returns the reader of an operator that is one function of each value."""
    return lambda reader, operator: tabulate(reader, operator, function)


def read_leaky_relu(reader: Reader, operator: FileOperator) -> View:
    """Reads a LEAKY_RELU; raises TfliteError where a scale is missing."""
    alpha = operator.options.Alpha()
    require(math.isfinite(alpha), operator.where, "a finite slope", alpha)
    return tabulate(reader, operator, lambda x: np.where(x >= 0, x, alpha * x))


def read_prelu(reader: Reader, operator: FileOperator) -> View:
    """Reads a PRELU, whose slopes are constants; raises TfliteError for others."""
    slopes = _channel_values(reader, operator, 1, reader.view(operator, 0).shape[-1])
    return tabulate(reader, operator, lambda x: np.where(x >= 0, x, slopes * x))


def read_gelu(reader: Reader, operator: FileOperator) -> View:
    """Reads a GELU, by the error function or by its approximation with tanh, as the operator says."""
    if operator.options.Approximate():
        return tabulate(
            reader, operator, lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        )
    erf = np.vectorize(math.erf, otypes=[np.float64])
    return tabulate(reader, operator, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))))


def logistic(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)) of float64 [256] without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def hard_swish(x: np.ndarray) -> np.ndarray:
    """Returns x * relu6(x + 3) / 6 of float64 [256]."""
    return x * np.clip(x + 3, 0, 6) / 6


def elu(x: np.ndarray) -> np.ndarray:
    """Returns x, below 0 exp(x) - 1, of float64 [256]."""
    return np.where(x >= 0, x, np.expm1(np.minimum(x, 0)))
