"""Which function reads which ONNX operator.

It takes a node with the values of its inputs, and returns the value of its output, or a tuple of values.

A new operator is a function beside those of its kind (layers.py, arithmetic.py, functions.py, pools.py, movement.py)
and a row in READERS. Where several nodes mean one thing, patterns.py says so; what a float result becomes once it is
quantized stands in emit.py.
"""

from collections.abc import Callable

from compile.qdq import movement
from compile.qdq.arithmetic import read_add, read_div, read_mul, read_sub
from compile.qdq.constants import read_tensor
from compile.qdq.functions import FUNCTIONS, read_function, read_function_of_two
from compile.qdq.layers import read_batch_norm, read_clip, read_concat, read_conv, read_gemm, read_relu
from compile.qdq.node import FileNode
from compile.qdq.pools import (
    read_avg_pool,
    read_global_avg_pool,
    read_global_max_pool,
    read_max_pool,
    read_reduce_max,
    read_reduce_mean,
)
from compile.qdq.quantizers import read_dequantize, read_quantize
from compile.qdq.reader import Reader
from compile.qdq.values import Constant, Value, require


def read_constant(_: Reader, node: FileNode) -> Constant:
    """Reads a Constant; raises OnnxError for one that holds no tensor."""
    require("value" in node.attributes, node.where, "a Constant with a tensor", list(node.attributes))
    return read_tensor(node.attributes["value"])


def read_identity(_: Reader, node: FileNode) -> Value | None:
    """Reads Identity and Dropout, which change nothing."""
    return node.inputs[0]


READERS: dict[str, Callable[[Reader, FileNode], Value | tuple[Value, ...] | None]] = {
    "QuantizeLinear": read_quantize,
    "DequantizeLinear": read_dequantize,
    "Conv": read_conv,
    "Gemm": read_gemm,
    "MatMul": read_gemm,
    "BatchNormalization": read_batch_norm,
    "Add": read_add,
    "Sub": read_sub,
    "Mul": read_mul,
    "Div": read_div,
    "Concat": read_concat,
    "Relu": read_relu,
    "Clip": read_clip,
    **dict.fromkeys(FUNCTIONS, read_function),
    **dict.fromkeys(("Pow", "Min", "Max", "PRelu"), read_function_of_two),
    "GlobalAveragePool": read_global_avg_pool,
    "GlobalMaxPool": read_global_max_pool,
    "AveragePool": read_avg_pool,
    "MaxPool": read_max_pool,
    "ReduceMean": read_reduce_mean,
    "ReduceMax": read_reduce_max,
    "Slice": movement.read_slice,
    "Split": movement.read_split,
    "Gather": movement.read_gather,
    "Pad": movement.read_pad,
    "Transpose": movement.read_transpose,
    "Flatten": movement.read_flatten,
    "Reshape": movement.read_reshape,
    "Squeeze": movement.read_squeeze,
    "Unsqueeze": movement.read_unsqueeze,
    "DepthToSpace": movement.read_depth_to_space,
    "SpaceToDepth": movement.read_space_to_depth,
    "Resize": movement.read_resize,
    "Upsample": movement.read_resize,
    "Identity": read_identity,
    "Dropout": read_identity,
    "Constant": read_constant,
}
