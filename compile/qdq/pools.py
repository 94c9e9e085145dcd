"""Reads pools: means and largest values of windows, or of the whole map."""

from compile.qdq.node import FileNode
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Codes,
    DataLayout,
    Pending,
    PendingAvgPool,
    PendingMaxPool,
    Real,
    SlidingWindow,
    describe,
    layout_of,
    refusal,
    require,
)
from targets.reference.nodes import NO_PADDING


def read_global_avg_pool(reader: Reader, node: FileNode) -> PendingAvgPool:
    """Reads the mean of the whole map; raises OnnxError for an input that is not quantized."""
    return _mean_of_map(reader, node, "NCHW")


def read_reduce_mean(reader: Reader, node: FileNode) -> PendingAvgPool:
    """Reads a ReduceMean over height and width; raises OnnxError for other axes."""
    return _mean_of_map(reader, node, _layout_without_pixels(node))


def read_global_max_pool(reader: Reader, node: FileNode) -> PendingMaxPool:
    """Reads the largest values of the whole map; raises OnnxError for a constant."""
    return _max_of_map(reader, node, "NCHW")


def read_reduce_max(reader: Reader, node: FileNode) -> PendingMaxPool:
    """Reads a ReduceMax over height and width; raises OnnxError for other axes."""
    return _max_of_map(reader, node, _layout_without_pixels(node))


def _layout_without_pixels(node: FileNode) -> DataLayout:
    """The layout of what a reduction over height and width leaves."""
    axes = node.attributes.get("axes")
    if len(node.inputs) > 1:
        (array,) = node.constants("constant axes")[:1]
        axes = None if array is None else array.tolist()
    layout = layout_of(node.inputs[0], node.where)
    pixels = {"NCHW": [2, 3], "NHWC": [1, 2], "flat": None}[layout]
    is_map = axes is not None and sorted(a % 4 for a in axes) == pixels
    require(is_map, node.where, "a reduction over height and width", axes)
    return layout if node.attributes.get("keepdims", 1) else "flat"


def _mean_of_map(reader: Reader, node: FileNode, layout: DataLayout) -> PendingAvgPool:
    source = reader.tensor_in_any_layout(node.inputs[0], node.where)
    window = SlidingWindow(source.shape[:2])
    shape = (1, 1, source.shape[2])
    name = reader.take_name(node.proto)
    return PendingAvgPool(name=name, shape=shape, layout=layout, source=source.name, window=window)


def _max_of_map(reader: Reader, node: FileNode, layout: DataLayout) -> PendingMaxPool:
    height, width, channels = reader.shape_of(node.inputs[0], node.where)
    source = _source(node)
    name, window = reader.take_name(node.proto), SlidingWindow((height, width))
    return PendingMaxPool(name=name, shape=(1, 1, channels), layout=layout, source=source, window=window)


def _source(node: FileNode) -> str | Pending:
    """What a pool of largest values reads: a tensor, or a float result."""
    x = node.inputs[0]
    if isinstance(x, Real):
        return x.name
    if isinstance(x, Codes) or not isinstance(x, Pending):
        raise refusal(node.where, "a dequantized feature map", describe(x))
    return x


def read_avg_pool(reader: Reader, node: FileNode) -> PendingAvgPool:
    """Reads an AveragePool; raises OnnxError for one that no kernel computes."""
    source = reader.tensor_of(node.inputs[0], node.where)
    size = source.shape[:2]
    window = node.pool_window(size)
    require(window.dilation == (1, 1), node.where, "an average of neighbouring pixels", window.dilation)
    counted = window.padding if node.attributes.get("count_include_pad", 0) else NO_PADDING
    window = node.with_last_windows(window, size)
    return PendingAvgPool(
        name=reader.take_name(node.proto),
        shape=(*window.output_size(size), source.shape[2]),
        source=source.name,
        window=window,
        counted=counted,
    )


def read_max_pool(reader: Reader, node: FileNode) -> PendingMaxPool:
    """Reads a MaxPool; raises OnnxError for one that no kernel computes, or whose indices are used."""
    used = len(node.proto.output) > 1 and bool(reader.consumers[node.proto.output[1]])
    require(not used, node.where, "a MaxPool whose indices nothing reads", "indices that are read")
    require(layout_of(node.inputs[0], node.where) == "NCHW", node.where, "a feature map in NCHW", "another layout")
    height, width, channels = reader.shape_of(node.inputs[0], node.where)
    size = (height, width)
    window = node.with_last_windows(node.pool_window(size), size)
    name, shape = reader.take_name(node.proto), (*window.output_size(size), channels)
    return PendingMaxPool(name=name, shape=shape, source=_source(node), window=window)
