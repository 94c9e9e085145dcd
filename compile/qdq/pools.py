"""Reads pools: means and largest values of windows, or of the whole map."""

from compile.qdq.node import FileNode
from compile.qdq.patterns import padded_source
from compile.qdq.reader import Reader
from compile.qdq.values import NO_PADDING, DataLayout, PendingAvgPool, PendingMaxPool, SlidingWindow, layout_of, require


def read_global_avg_pool(reader: Reader, node: FileNode) -> PendingAvgPool:
    """Reads the mean of the whole map; raises OnnxError for an input that is not quantized."""
    return _mean_of_map(reader, node, "NCHW")


def read_reduce_mean(reader: Reader, node: FileNode) -> PendingAvgPool:
    """Reads a ReduceMean over height and width; raises OnnxError for other axes."""
    axes = node.attributes.get("axes")
    if len(node.inputs) > 1:
        (array,) = node.constants("constant axes")[:1]
        axes = None if array is None else array.tolist()
    is_map = axes is not None and sorted(a % 4 for a in axes) == [2, 3]
    require(is_map, node.where, "a mean over height and width", axes)
    keeps_dimensions = node.attributes.get("keepdims", 1)
    return _mean_of_map(reader, node, layout_of(node.inputs[0], node.where) if keeps_dimensions else "flat")


def _mean_of_map(reader: Reader, node: FileNode, layout: DataLayout) -> PendingAvgPool:
    source = reader.tensor_of(node.inputs[0], node.where)
    window = SlidingWindow(source.shape[:2])
    shape = (1, 1, source.shape[2])
    name = reader.take_name(node.proto)
    return PendingAvgPool(name=name, shape=shape, layout=layout, source=source.name, window=window)


def read_avg_pool(reader: Reader, node: FileNode) -> PendingAvgPool:
    """Reads an AveragePool without padding; raises OnnxError for one with padding."""
    source = reader.tensor_of(node.inputs[0], node.where)
    size = source.shape[:2]
    window = node.pool_window(size)
    require(window.padding == NO_PADDING, node.where, "an average without padding", window.padding)
    node.require_whole_windows(window, size)
    shape = (*window.output_size(size), source.shape[2])
    return PendingAvgPool(name=reader.take_name(node.proto), shape=shape, source=source.name, window=window)


def read_max_pool(reader: Reader, node: FileNode) -> PendingMaxPool:
    """Reads a MaxPool; raises OnnxError for a Pad before it, and for an input that is not quantized."""
    source, around = padded_source(reader, node.inputs[0], node.where)
    require(around == NO_PADDING, node.where, "padding as an attribute of the pool", "a Pad before it")
    size = source.shape[:2]
    window = node.pool_window(size)
    node.require_whole_windows(window, size)
    shape = (*window.output_size(size), source.shape[2])
    return PendingMaxPool(name=reader.take_name(node.proto), shape=shape, source=source.name, window=window)
