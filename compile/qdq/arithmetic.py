"""Reads Add, Sub, Mul and Div: of a layer's sums and constants, of functions of one tensor, and of two tensors."""

from compile.qdq.functions import are_functions_of_one, read_function_of_two
from compile.qdq.node import FileNode
from compile.qdq.patterns import is_open_sum, scaled_by_constant, with_bias, with_residual
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Constant,
    Pending,
    PendingAdd,
    PendingConv,
    PendingMul,
    Value,
    Weights,
    layout_of,
    require,
)


def read_add(reader: Reader, node: FileNode) -> Pending:
    """Reads an addition: of a bias, a residual operand, a constant, or two quantized tensors; raises OnnxError."""
    a, b = _ordered(node)
    if isinstance(b, Constant | Weights):
        return with_bias(node, a, b) if isinstance(a, PendingConv) else read_function_of_two(reader, node)
    if isinstance(a, PendingConv):
        return with_residual(reader, node, a, b)
    if are_functions_of_one(node):
        return read_function_of_two(reader, node)
    return _sum(reader, node, a, b)


def read_sub(reader: Reader, node: FileNode) -> Pending:
    """Reads a difference of a tensor and a constant, or of two quantized tensors; raises OnnxError."""
    a, b = node.inputs
    is_function = isinstance(a, Constant | Weights) or isinstance(b, Constant | Weights)
    if is_function or are_functions_of_one(node):
        return read_function_of_two(reader, node)
    return _sum(reader, node, a, b, subtracts=True)


def read_mul(reader: Reader, node: FileNode) -> Pending:
    """Reads a product: of sums and a constant, a function of one tensor, or two quantized tensors; raises OnnxError."""
    a, b = _ordered(node)
    if isinstance(b, Constant | Weights):
        return scaled_by_constant(node, a, b) if isinstance(a, PendingConv) else read_function_of_two(reader, node)
    if are_functions_of_one(node):
        return read_function_of_two(reader, node)
    first, second = (reader.tensor_in_any_layout(value, node.where) for value in (a, b))
    if first.shape[:2] == (1, 1) and second.shape[:2] != (1, 1):
        a, first, second = b, second, first
    fits = second.shape in (first.shape, (1, 1, first.shape[2]))
    require(fits, node.where, "maps of one shape, or one value a channel", (first.shape, second.shape))
    layout = layout_of(a, node.where)
    return PendingMul(name=reader.take_name(node.proto), shape=first.shape, layout=layout, a=first.name, b=second.name)


def read_div(reader: Reader, node: FileNode) -> Pending:
    """Reads a quotient by a constant, or of functions of one tensor; raises OnnxError for others."""
    a, b = node.inputs
    if isinstance(a, PendingConv) and isinstance(b, Constant):
        return scaled_by_constant(node, a, Constant(1 / b.array))
    return read_function_of_two(reader, node)


def _ordered(node: FileNode) -> tuple[Value | None, Value | None]:
    """The operands of an operator that may swap them: a constant behind, open sums in front."""
    a, b = node.inputs
    return (b, a) if isinstance(a, Constant | Weights) or is_open_sum(b) else (a, b)


def _sum(reader: Reader, node: FileNode, a: Value | None, b: Value | None, subtracts: bool = False) -> PendingAdd:
    first, second = (reader.tensor_in_any_layout(value, node.where) for value in (a, b))
    layouts = {layout_of(value, node.where) for value in (a, b)}
    fits = first.shape == second.shape and (len(layouts) == 1 or first.shape[:2] == (1, 1))
    require(fits, node.where, "maps of one shape", (first.shape, second.shape))
    layout = layout_of(a, node.where)
    name = reader.take_name(node.proto)
    return PendingAdd(name=name, shape=first.shape, layout=layout, a=first.name, b=second.name, subtracts=subtracts)
