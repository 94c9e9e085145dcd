"""Reads functions of one value: each becomes a table of its result for every code, however a file spells it out.

Activations that exporters write as several operators on one tensor (x * sigmoid(x), x * clip(x + 3, 0, 6) / 6, forms of
GELU with Erf or Tanh) are composed into one function while none of them is quantized.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from compile.qdq.node import FileNode
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Constant,
    DataLayout,
    Pending,
    PendingFunction,
    PendingMaxPool,
    PendingMove,
    PendingRescale,
    Real,
    Value,
    Weights,
    require,
)

Array = np.ndarray
Attributes = dict[str, Any]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _gelu(x: Array, approximate: bytes) -> Array:
    if approximate == b"tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _selu(x: Array, alpha: float, gamma: float) -> Array:
    return gamma * _elu(x, alpha)


# How ONNX defines them, with the defaults of their attributes.
FUNCTIONS: dict[str, Callable[[Array, Attributes], Array]] = {
    "Abs": lambda x, _: np.abs(x),
    "Celu": lambda x, a: np.maximum(x, 0) + np.minimum(0, _elu(x / a.get("alpha", 1.0), 1.0) * a.get("alpha", 1.0)),
    "Elu": lambda x, a: _elu(x, a.get("alpha", 1.0)),
    "Erf": lambda x, _: _erf(x),
    "Exp": lambda x, _: np.exp(x),
    "Gelu": lambda x, a: _gelu(x, a.get("approximate", b"none")),
    "HardSigmoid": lambda x, a: np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1),
    "HardSwish": lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1),
    "LeakyRelu": lambda x, a: np.where(x < 0, a.get("alpha", 0.01) * x, x),
    "Mish": lambda x, _: x * np.tanh(_softplus(x)),
    "Neg": lambda x, _: -x,
    "Reciprocal": lambda x, _: 1 / x,
    "Selu": lambda x, a: _selu(x, a.get("alpha", 1.67326319217681884765625), a.get("gamma", 1.05070102214813232421875)),
    "Sigmoid": lambda x, _: _sigmoid(x),
    "Softplus": lambda x, _: _softplus(x),
    "Softsign": lambda x, _: x / (1 + np.abs(x)),
    "Sqrt": lambda x, _: np.sqrt(x),
    "Swish": lambda x, a: x * _sigmoid(a.get("alpha", 1.0) * x),
    "Tanh": lambda x, _: np.tanh(x),
    "ThresholdedRelu": lambda x, a: np.where(x > a.get("alpha", 1.0), x, 0),
}

OPERATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Min": np.minimum,
    "Max": np.maximum,
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
}


def read_function(reader: Reader, node: FileNode) -> PendingFunction:
    """Reads an operator of FUNCTIONS; raises OnnxError for an input that is not quantized."""
    x = function_of(reader, node, node.inputs[0])
    own, before = FUNCTIONS[node.kind], x.function
    return _renamed(reader, node, x, lambda values: own(before(values), node.attributes))


def read_function_of_two(reader: Reader, node: FileNode) -> PendingFunction:
    """Reads an operator of OPERATIONS on a tensor and constants, or on functions of one tensor; raises OnnxError."""
    require(len(node.inputs) == 2, node.where, "two operands", len(node.inputs))
    first, second = node.inputs
    operation = OPERATIONS[node.kind]
    if isinstance(first, Constant | Weights):
        x = function_of(reader, node, second)
        left, before = constant_operand(node, first, x), x.function
        return _renamed(reader, node, x, lambda values: operation(left, before(values)))
    x = function_of(reader, node, first)
    if isinstance(second, Constant | Weights):
        right, before = constant_operand(node, second, x), x.function
        return _renamed(reader, node, x, lambda values: operation(before(values), right))
    y = function_of(reader, node, second)
    one_tensor = x.source == y.source and x.layout == y.layout
    require(one_tensor, node.where, "operands that are functions of one tensor", (x.source, y.source))
    both = (x.function, y.function)
    return _renamed(reader, node, x, lambda values: operation(both[0](values), both[1](values)))


def are_functions_of_one(node: FileNode) -> bool:
    """Whether both operands are float functions of one tensor, at least one of which nothing has quantized."""
    sources = [_source_of(value) for value in node.inputs]
    unquantized = any(isinstance(value, Pending) for value in node.inputs)
    return unquantized and None not in sources and len(set(sources)) == 1


def _source_of(value: Value | None) -> str | None:
    if isinstance(value, Real):
        return value.name
    return value.source if isinstance(value, PendingFunction | PendingRescale) else None


def function_of(reader: Reader, node: FileNode, value: Value | None) -> PendingFunction:
    """Returns a value as a function of the tensor behind it, its clamps within; raises OnnxError."""
    if isinstance(value, PendingFunction | PendingRescale):
        before = value.function if isinstance(value, PendingFunction) else _identity
        low, high = value.low, value.high
        return PendingFunction(
            name=value.name,
            shape=value.shape,
            layout=value.layout,
            source=value.source,
            function=lambda values: np.clip(before(values), low, high),
        )
    if isinstance(value, PendingMove | PendingMaxPool) and not value.clamped:
        reader.tensor_in_any_layout(value, node.where)  # values move first, where their tensor has a scale
    tensor = reader.tensor_in_any_layout(value, node.where)
    layout: DataLayout = value.layout if isinstance(value, Real | Pending) else "NCHW"
    return PendingFunction(name="", shape=tensor.shape, layout=layout, source=tensor.name, function=_identity)


def _identity(values: Array) -> Array:
    return values


def _renamed(reader: Reader, node: FileNode, x: PendingFunction, function: Callable[[Array], Array]) -> PendingFunction:
    return replace(x, name=reader.take_name(node.proto), function=function)


def constant_operand(node: FileNode, constant: Constant | Weights, x: Pending) -> Array:
    """Returns float64 [1, 1], or [C, 1] of a constant that broadcasts along the channels of `x`; raises OnnxError."""
    real = np.asarray(constant.real if isinstance(constant, Weights) else constant.array, np.float64)
    channels = x.shape[2]
    if real.size == 1:
        return real.reshape(1, 1)
    axis = -3 if x.layout == "NCHW" else -1
    ones = [n for k, n in enumerate(real.shape, -real.ndim) if k != axis]
    along_channels = real.ndim >= -axis and real.shape[axis] == channels and set(ones) <= {1}
    expected = f"a constant, or one for each of {channels} channels"
    require(along_channels, node.where, expected, list(real.shape))
    return real.reshape(-1, 1)
