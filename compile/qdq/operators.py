"""How each ONNX operator is read: a function of the values of its inputs that returns the value of its output."""

from dataclasses import replace

import numpy as np

from compile.qdq.attributes import check_kernel, check_whole, limits, padding_of, window
from compile.qdq.emit import UNIT
from compile.qdq.values import Codes, Const, OnnxError, Pending, Weights, require

TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def conv(reader, node, inputs, attributes):
    where = reader.where(node)
    x, weights, bias = (inputs + [None])[:3]
    check_kernel(weights, where)
    require(weights.codes.ndim == 4, where, "a convolution over two dimensions", f"weights {list(weights.codes.shape)}")
    source, extra = reader.padded(x, where)
    strides = attributes.get("strides", [1, 1])
    require(len(set(strides)) == 1, where, "one stride for both directions", strides)
    require(set(attributes.get("dilations", [1])) == {1}, where, "no dilation", attributes.get("dilations"))
    kernel = weights.codes.shape[2:]
    shape = tuple(n + extra[k] + extra[k + 2] for k, n in enumerate(reader.tensors[source].shape[:2]))
    padding = tuple(p + e for p, e in zip(padding_of(attributes, shape, kernel, strides[0], where), extra, strict=True))
    parts = dict(
        codes=weights.codes.transpose(0, 2, 3, 1),
        w_scale=weights.channel_scale(0, where),
        w_bits=weights.bits,
        bias=bias,
        stride=int(strides[0]),
        padding=padding,
        groups=int(attributes.get("group", 1)),
        skip=None,
    )
    h, w = (
        (shape[k] + padding[k] + padding[k + 2] - extra[k] - extra[k + 2] - kernel[k]) // strides[0] + 1 for k in (0, 1)
    )
    return Pending("conv", reader.name(node), (source,), (h, w, len(weights.codes)), parts=parts)


def gemm(reader, node, inputs, attributes):
    """Gemm or MatMul: a convolution whose kernel is the whole map."""
    where = reader.where(node)
    x, weights, bias = (inputs + [None])[:3]
    check_kernel(weights, where)
    require(weights.codes.ndim == 2, where, "a matrix of weights", f"weights {list(weights.codes.shape)}")
    ones = [attributes.get("alpha", 1.0), attributes.get("beta", 1.0), attributes.get("transA", 0)]
    require(ones == [1.0, 1.0, 0], where, "alpha 1, beta 1, transA 0", ones)
    weights = weights if attributes.get("transB", 0) else weights.transposed([1, 0])
    source = reader.tensor(x, where)
    h, w, c = reader.tensors[source].shape
    require((h, w) == (1, 1) or getattr(x, "layout", "") == "flat", where, "a flattened input", f"a map {h}x{w}x{c}")
    o = len(weights.codes)
    require(weights.codes.size == o * h * w * c, where, f"{h * w * c} weights per output", list(weights.codes.shape))
    codes = weights.codes.reshape(o, c, h, w).transpose(0, 2, 3, 1)
    parts = dict(
        codes=codes,
        w_scale=weights.channel_scale(0, where),
        w_bits=weights.bits,
        bias=bias,
        stride=1,
        padding=(0, 0, 0, 0),
        groups=1,
        skip=None,
    )
    return Pending("conv", reader.name(node), (source,), (1, 1, o), "flat", parts=parts)


def add(reader, node, inputs, attributes):
    where, (a, b) = reader.where(node), inputs
    if isinstance(a, (Const, Weights)) or (isinstance(b, Pending) and b.kind == "conv"):
        a, b = b, a
    open_sum = isinstance(a, Pending) and a.kind == "conv"
    if isinstance(b, (Const, Weights)):
        if not open_sum:
            return _add_constant(reader, node, a, b, where)
        require(
            not a.clamped and a.parts["bias"] is None and a.parts["skip"] is None,
            where,
            "a constant as the bias of a Conv, Gemm or MatMul just before",
            "one more",
            "fold it into the layer before quantizing",
        )
        return replace(a, parts={**a.parts, "bias": b})
    if not open_sum:
        sources = tuple(reader.tensor(v, where) for v in (a, b))
        return Pending("add", reader.name(node), sources, reader.tensors[sources[0]].shape, a.layout)
    require(
        not (isinstance(b, Pending) and b.kind == "conv"),
        where,
        "at most one operand that is not quantized",
        "two open sums",
        "put a QuantizeLinear and DequantizeLinear on one of them",
    )
    require(
        not a.clamped and a.parts["skip"] is None,
        where,
        "an addition just after its Conv",
        "an activation or another Add between",
        "quantize the convolution's output",
    )
    source = reader.tensor(b, where)
    return replace(a, inputs=(*a.inputs, source), parts={**a.parts, "skip": source})


def _add_constant(reader, node, x, values, where):
    """A constant added to quantized values, as a 1x1 depthwise convolution whose one weight is 1."""
    source = reader.tensor(x, where)
    h, w, c = reader.tensors[source].shape
    real = values.real if isinstance(values, Weights) else values.array
    require(real.size in (1, c), where, f"a constant, or one for each of {c} channels", list(real.shape))
    parts = dict(
        codes=np.full((c, 1, 1, 1), UNIT),
        w_scale=np.full(c, 1 / UNIT, np.float32),
        w_bits=8,
        bias=Const(real.reshape(-1)),
        stride=1,
        padding=(0, 0, 0, 0),
        groups=c,
        skip=None,
    )
    return Pending("conv", reader.name(node), (source,), (h, w, c), x.layout, parts=parts)


def clamp(reader, node, inputs, attributes):
    """Relu, and Clip with constant limits."""
    where, x = reader.where(node), inputs[0]
    low, high = (0.0, np.inf) if node.op_type == "Relu" else limits(inputs, attributes, where)
    if isinstance(x, Codes):
        raise OnnxError(f"{where}: expected a Clip of codes as the only user of a QuantizeLinear, got one elsewhere")
    if not isinstance(x, Pending):
        source = reader.tensor(x, where)
        x = Pending("rescale", reader.name(node), (source,), reader.tensors[source].shape, x.layout)
    require(x.kind != "picture", where, "a QuantizeLinear on the picture first", node.op_type)
    bounds = {k: min(max(getattr(x, k), low), high) for k in ("low", "high")}
    return replace(x, **bounds, clamped=True)


def avg_pool(reader, node, inputs, attributes):
    """GlobalAveragePool, AveragePool without padding, ReduceMean over height and width."""
    where = reader.where(node)
    source = reader.tensor(inputs[0], where)
    h, w, c = reader.tensors[source].shape
    kernel, stride, layout = (h, w), 1, "NCHW"
    if node.op_type == "ReduceMean":
        axes = inputs[1].array.tolist() if len(inputs) > 1 else attributes.get("axes")
        require(axes is not None and sorted(a % 4 for a in axes) == [2, 3], where, "a mean over height and width", axes)
        layout = inputs[0].layout if attributes.get("keepdims", 1) else "flat"
    elif node.op_type == "AveragePool":
        kernel, stride, padding = window(attributes, (h, w), where)
        require(not any(padding), where, "an average without padding", padding)
        check_whole(attributes, (h, w), kernel, stride, where)
    shape = ((h - kernel[0]) // stride + 1, (w - kernel[1]) // stride + 1, c)
    return Pending("avg_pool", reader.name(node), (source,), shape, layout, parts=dict(kernel=kernel, stride=stride))


def max_pool(reader, node, inputs, attributes):
    where = reader.where(node)
    source, extra = reader.padded(inputs[0], where)
    require(not any(extra), where, "padding as an attribute of the pool", "a Pad before it")
    h, w, c = reader.tensors[source].shape
    kernel, stride, padding = window(attributes, (h, w), where)
    check_whole(attributes, (h + padding[0] + padding[2], w + padding[1] + padding[3]), kernel, stride, where)
    shape = (
        (h + padding[0] + padding[2] - kernel[0]) // stride + 1,
        (w + padding[1] + padding[3] - kernel[1]) // stride + 1,
        c,
    )
    return Pending(
        "max_pool", reader.name(node), (source,), shape, parts=dict(kernel=kernel, stride=stride, padding=padding)
    )


def slice_pixels(reader, node, inputs, attributes):
    """Every stride-th pixel from the first."""
    where = reader.where(node)
    source = reader.tensor(inputs[0], where)
    h, w, c = reader.tensors[source].shape
    require(
        len(inputs) == 5 and all(isinstance(v, Const) for v in inputs[1:]),
        where,
        "constant starts, ends, axes and steps",
        f"{len(inputs) - 1} inputs",
    )
    starts, ends, axes, steps = (v.array.tolist() for v in inputs[1:])
    cut = {a % 4: (s, e, k) for s, e, a, k in zip(starts, ends, axes, steps, strict=True)}
    full = set(cut) == {2, 3} and all(cut[a][0] == 0 and cut[a][1] >= n for a, n in ((2, h), (3, w)))
    require(full and cut[2][2] == cut[3][2] >= 1, where, "every k-th pixel of the whole map (ResNet's option A)", cut)
    stride = int(cut[2][2])
    return Pending(
        "shortcut",
        reader.name(node),
        (source,),
        (-(-h // stride), -(-w // stride), c),
        parts=dict(stride=stride, before=0, pads=(0, 0, 0, 0)),
    )


def pad(reader, node, inputs, attributes):
    """Zero channels (option-A shortcut), or zero pixels in front of a convolution."""
    where, x = reader.where(node), inputs[0]
    mode = attributes.get("mode", b"constant")
    require(mode == b"constant", where, "constant padding", mode)
    require(len(inputs) < 4 or inputs[3] is None, where, "pads without axes", "an axes input")
    value = inputs[2].array if len(inputs) > 2 and inputs[2] is not None else np.float32(0)
    require(not np.any(value), where, "padding with zeros", value)
    pads = inputs[1].array.tolist() if len(inputs) > 1 else list(attributes.get("pads", []))
    require(
        len(pads) == 8 and min(pads) >= 0 and pads[0] == pads[4] == 0, where, "pads of height, width and channels", pads
    )
    if not (isinstance(x, Pending) and x.kind == "shortcut"):
        source = reader.tensor(x, where)
        x = Pending(
            "shortcut", "", (source,), reader.tensors[source].shape, parts=dict(stride=1, before=0, pads=(0, 0, 0, 0))
        )
    h, w, c = x.shape
    spatial = (pads[2], pads[3], pads[6], pads[7])
    parts = {**x.parts, "before": int(pads[1]), "pads": tuple(int(p) for p in spatial)}
    return replace(x, name=reader.name(node), shape=(h, w, c + pads[1] + pads[5]), parts=parts)


def transpose(reader, node, inputs, attributes):
    where, x, perm = reader.where(node), inputs[0], attributes.get("perm")
    to = {str(TO_NCHW): ("NHWC", "NCHW"), str(TO_NHWC): ("NCHW", "NHWC")}.get(str(perm))
    require(to is not None, where, f"perm {TO_NCHW} or {TO_NHWC}", perm)
    require(
        not isinstance(x, Const) and x.layout == to[0],
        where,
        f"an input in {to[0]}",
        getattr(x, "layout", "a constant"),
    )
    return replace(x, layout=to[1])


def flatten(reader, node, inputs, attributes):
    """Flatten, Reshape, Squeeze to [N, everything]; a larger map in NHWC keeps that mark, for the output only."""
    where, x = reader.where(node), inputs[0]
    shape = reader.shape(x, where)
    if node.op_type == "Flatten":
        require(attributes.get("axis", 1) == 1, where, "axis 1", attributes.get("axis"))
    elif node.op_type == "Reshape":
        target = inputs[1].array.tolist()
        require(
            len(target) == 2 and (target[1] in (-1, int(np.prod(shape)))), where, f"[N, {int(np.prod(shape))}]", target
        )
    else:
        require(shape[:2] == (1, 1), where, "a 1x1 map to squeeze", shape)
    return replace(x, layout="NHWC" if shape[:2] != (1, 1) and x.layout == "NHWC" else "flat")


def same(reader, node, inputs, attributes):
    return inputs[0]


def fold_first(reader, node, inputs, attributes):
    raise OnnxError(
        f"{reader.where(node)}: expected it folded into the convolution before it, got a BatchNormalization; fold "
        "it before quantizing (torch: fuse_conv_bn_eval; onnxruntime: quant_pre_process)"
    )


OPS = {
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": gemm,
    "Add": add,
    "Relu": clamp,
    "Clip": clamp,
    "GlobalAveragePool": avg_pool,
    "AveragePool": avg_pool,
    "ReduceMean": avg_pool,
    "MaxPool": max_pool,
    "Slice": slice_pixels,
    "Pad": pad,
    "Transpose": transpose,
    "Flatten": flatten,
    "Reshape": flatten,
    "Squeeze": flatten,
    "Identity": same,
    "Dropout": same,
    "BatchNormalization": fold_first,
}
