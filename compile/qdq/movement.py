"""Reads operators that only move values: Slice, Pad, Transpose, Flatten, Reshape, Squeeze."""

from dataclasses import replace

import numpy as np

from compile.qdq.node import FileNode
from compile.qdq.patterns import TO_NCHW, TO_NHWC
from compile.qdq.reader import Reader
from compile.qdq.values import Codes, DataLayout, Pending, PendingShortcut, Real, Value, describe, refusal, require


def read_slice(reader: Reader, node: FileNode) -> PendingShortcut:
    """Reads a Slice that takes every k-th pixel (ResNet's shortcut of option A); raises OnnxError for others."""
    source = reader.tensor_of(node.inputs[0], node.where)
    h, w, c = source.shape
    arrays = node.constants("constant starts, ends, axes and steps")
    complete = len(arrays) == 4 and all(array is not None for array in arrays)
    require(complete, node.where, "constant starts, ends, axes and steps", f"{len(arrays)} inputs")
    starts, ends, axes, steps = (np.asarray(array).tolist() for array in arrays)
    cut = {a % 4: (s, e, k) for s, e, a, k in zip(starts, ends, axes, steps, strict=True)}
    whole_map = set(cut) == {2, 3} and all(cut[a][0] == 0 and cut[a][1] >= n for a, n in ((2, h), (3, w)))
    every_kth = whole_map and cut[2][2] == cut[3][2] >= 1
    require(every_kth, node.where, "every k-th pixel of the whole map (ResNet's option A)", cut)
    stride = (int(cut[2][2]), int(cut[3][2]))
    shape = (-(-h // stride[0]), -(-w // stride[1]), c)
    return PendingShortcut(name=reader.take_name(node.proto), shape=shape, source=source.name, stride=stride)


def read_pad(reader: Reader, node: FileNode) -> PendingShortcut:
    """Reads zero channels (a shortcut of option A), or zero pixels in front of a convolution; raises OnnxError."""
    mode = node.attributes.get("mode", b"constant")
    require(mode == b"constant", node.where, "constant padding", mode)
    require(node.optional_input(3) is None, node.where, "pads without axes", "an axes input")
    pads_array, value = [*node.constants("constant pads"), None, None][:2]
    require(value is None or not np.any(value), node.where, "padding with zeros", value)
    pads = list(node.attributes.get("pads", [])) if pads_array is None else pads_array.tolist()
    maps_alone = len(pads) == 8 and min(pads) >= 0 and pads[0] == pads[4] == 0
    require(maps_alone, node.where, "pads of height, width and channels", pads)
    x = node.inputs[0]
    if not isinstance(x, PendingShortcut):
        source = reader.tensor_of(x, node.where)
        x = PendingShortcut(name="", shape=source.shape, source=source.name)
    _, before, top, left, _, after, bottom, right = (int(p) for p in pads)
    h, w, c = x.shape
    name = reader.take_name(node.proto)
    return replace(x, name=name, shape=(h, w, c + before + after), before=before, pads=(top, left, bottom, right))


def read_transpose(_: Reader, node: FileNode) -> Value:
    """Reads a Transpose between [N, H, W, C] and [N, C, H, W]; raises OnnxError for others."""
    permutation = node.attributes.get("perm")
    require(permutation in (TO_NCHW, TO_NHWC), node.where, f"perm {TO_NCHW} or {TO_NHWC}", permutation)
    before: DataLayout = "NHWC" if permutation == TO_NCHW else "NCHW"
    after: DataLayout = "NCHW" if permutation == TO_NCHW else "NHWC"
    x = node.inputs[0]
    if not isinstance(x, Codes | Real | Pending):
        raise refusal(node.where, f"an input in {before}", describe(x))
    require(x.layout == before, node.where, f"an input in {before}", x.layout)
    return replace(x, layout=after)


def read_flatten(reader: Reader, node: FileNode) -> Value:
    """Reads a Flatten of everything but the batch; raises OnnxError for another axis."""
    require(node.attributes.get("axis", 1) == 1, node.where, "axis 1", node.attributes.get("axis"))
    return _flattened(reader, node)


def read_reshape(reader: Reader, node: FileNode) -> Value:
    """Reads a Reshape to [N, everything]; raises OnnxError for other shapes."""
    size = int(np.prod(reader.shape_of(node.inputs[0], node.where)))
    (array,) = node.constants("a constant shape")[:1]
    target = None if array is None else array.tolist()
    is_flat = target is not None and len(target) == 2 and target[1] in (-1, size)
    require(is_flat, node.where, f"[N, {size}]", target)
    return _flattened(reader, node)


def read_squeeze(reader: Reader, node: FileNode) -> Value:
    """Reads a Squeeze of a map of one pixel; raises OnnxError for larger maps."""
    shape = reader.shape_of(node.inputs[0], node.where)
    require(shape[:2] == (1, 1), node.where, "a 1x1 map to squeeze", shape)
    return _flattened(reader, node)


def _flattened(reader: Reader, node: FileNode) -> Value:
    """The same value as [N, everything]; a larger map in NHWC keeps that mark, for the output only."""
    x = node.inputs[0]
    one_pixel = reader.shape_of(x, node.where)[:2] == (1, 1)
    if not isinstance(x, Codes | Real | Pending):
        raise refusal(node.where, "a feature map", describe(x))
    return replace(x, layout="NHWC" if not one_pixel and x.layout == "NHWC" else "flat")
