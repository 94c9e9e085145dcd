"""Which function reads which ONNX operator.

It takes a node with the values of its inputs, and returns the value of its output.

A new operator is a function beside those of its kind (layers.py, pools.py, movement.py) and a row in READERS. Where
several nodes mean one thing, patterns.py says so; what a float result becomes once it is quantized stands in emit.py.
"""

from collections.abc import Callable

from compile.qdq.constants import read_tensor
from compile.qdq.layers import read_add, read_clip, read_conv, read_gemm, read_relu
from compile.qdq.movement import read_flatten, read_pad, read_reshape, read_slice, read_squeeze, read_transpose
from compile.qdq.node import FileNode
from compile.qdq.pools import read_avg_pool, read_global_avg_pool, read_max_pool, read_reduce_mean
from compile.qdq.quantizers import read_dequantize, read_quantize
from compile.qdq.reader import Reader
from compile.qdq.values import Constant, OnnxError, Value, require


def read_constant(_: Reader, node: FileNode) -> Constant:
    """Reads a Constant; raises OnnxError for one that holds no tensor."""
    require("value" in node.attributes, node.where, "a Constant with a tensor", list(node.attributes))
    return read_tensor(node.attributes["value"])


def read_identity(_: Reader, node: FileNode) -> Value | None:
    """Reads Identity and Dropout, which change nothing."""
    return node.inputs[0]


def refuse_batch_norm(_: Reader, node: FileNode) -> Value:
    """Raises OnnxError, which says how a BatchNormalization is folded into the convolution before it."""
    raise OnnxError(
        f"{node.where}: expected it folded into the convolution before it, got a BatchNormalization; fold "
        "it before quantizing (torch: fuse_conv_bn_eval; onnxruntime: quant_pre_process)"
    )


READERS: dict[str, Callable[[Reader, FileNode], Value | None]] = {
    "QuantizeLinear": read_quantize,
    "DequantizeLinear": read_dequantize,
    "Conv": read_conv,
    "Gemm": read_gemm,
    "MatMul": read_gemm,
    "Add": read_add,
    "Relu": read_relu,
    "Clip": read_clip,
    "GlobalAveragePool": read_global_avg_pool,
    "AveragePool": read_avg_pool,
    "ReduceMean": read_reduce_mean,
    "MaxPool": read_max_pool,
    "Slice": read_slice,
    "Pad": read_pad,
    "Transpose": read_transpose,
    "Flatten": read_flatten,
    "Reshape": read_reshape,
    "Squeeze": read_squeeze,
    "Identity": read_identity,
    "Dropout": read_identity,
    "Constant": read_constant,
    "BatchNormalization": refuse_batch_norm,
}
