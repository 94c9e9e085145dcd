"""Which function reads which TFLite operator, and which operators at the end are left to whoever uses the logits.

A new operator is a function beside those of its kind and a row in READERS; where its options say what it computes, it
gets a row in file.OPTIONS too.
"""

from collections.abc import Callable

import numpy as np

from compile.tflite.joining import read_concatenation, read_pack, read_split, read_split_v
from compile.tflite.layers import read_conv, read_depthwise, read_fully_connected
from compile.tflite.movement import (
    read_gather,
    read_mirror_pad,
    read_pad,
    read_reshape,
    read_resize_nearest,
    read_shape,
    read_slice,
    read_strided_slice,
    read_transpose,
)
from compile.tflite.pointwise import (
    elu,
    hard_swish,
    logistic,
    read_add,
    read_clamp,
    read_function,
    read_gelu,
    read_leaky_relu,
    read_mul,
    read_prelu,
    read_quantize,
    read_sub,
)
from compile.tflite.pools import read_avg_pool, read_max_pool, read_mean
from compile.tflite.reader import Reader, Value
from compile.tflite.records import FileOperator

READERS: dict[str, Callable[[Reader, FileOperator], Value | list[Value]]] = {
    "CONV_2D": read_conv,
    "DEPTHWISE_CONV_2D": read_depthwise,
    "FULLY_CONNECTED": read_fully_connected,
    "ADD": read_add,
    "SUB": read_sub,
    "MUL": read_mul,
    "MAXIMUM": read_clamp(np.maximum),
    "MINIMUM": read_clamp(np.minimum),
    "AVERAGE_POOL_2D": read_avg_pool,
    "MAX_POOL_2D": read_max_pool,
    "MEAN": read_mean,
    "QUANTIZE": read_quantize,
    "RELU": read_function(lambda x: np.maximum(x, 0)),
    "RELU6": read_function(lambda x: np.clip(x, 0, 6)),
    "RELU_N1_TO_1": read_function(lambda x: np.clip(x, -1, 1)),
    "LEAKY_RELU": read_leaky_relu,
    "PRELU": read_prelu,
    "LOGISTIC": read_function(logistic),
    "TANH": read_function(np.tanh),
    "HARD_SWISH": read_function(hard_swish),
    "ELU": read_function(elu),
    "GELU": read_gelu,
    "RESHAPE": read_reshape,
    "SQUEEZE": read_reshape,
    "EXPAND_DIMS": read_reshape,
    "TRANSPOSE": read_transpose,
    "PAD": read_pad,
    "PADV2": read_pad,
    "MIRROR_PAD": read_mirror_pad,
    "SLICE": read_slice,
    "STRIDED_SLICE": read_strided_slice,
    "SPLIT": read_split,
    "SPLIT_V": read_split_v,
    "GATHER": read_gather,
    "RESIZE_NEAREST_NEIGHBOR": read_resize_nearest,
    "CONCATENATION": read_concatenation,
    "SHAPE": read_shape,
    "PACK": read_pack,
}
