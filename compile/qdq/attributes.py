"""Attributes and constant operands of ONNX operators: weights, clamps, padding and windows, checked."""

import numpy as np

from compile.qdq.values import Const, Weights, require


def check_kernel(weights, where) -> None:
    came = "nothing" if weights is None else type(weights).__name__.lower()
    require(
        isinstance(weights, Weights),
        where,
        "weights that are a DequantizeLinear of constants",
        came,
        "quantize this node too (onnxruntime.quantization.quantize_static)",
    )
    require(
        weights.bits <= 8,
        where,
        "weights that fit 8 signed bits once their zero point is subtracted",
        f"{weights.codes.min()}..{weights.codes.max()}",
        "quantize weights symmetrically (onnxruntime: extra_options={'WeightSymmetric': True})",
    )


def limits(inputs, attributes, where):
    require(all(v is None or isinstance(v, Const) for v in inputs[1:]), where, "constant limits", "computed ones")
    given = [None if v is None else float(v.array) for v in (inputs[1:] + [None, None])[:2]]
    low, high = (
        attributes.get(k, d) if v is None else v for k, v, d in (("min", given[0], -np.inf), ("max", given[1], np.inf))
    )
    require(low <= high, where, "min <= max", (low, high))
    return low, high


def padding_of(attributes, shape, kernel, stride, where) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) from pads or auto_pad."""
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b"VALID"):
        pads = attributes.get("pads", [0, 0, 0, 0]) if auto == b"NOTSET" else [0, 0, 0, 0]
        require(len(pads) == 4, where, "four pads", pads)
        return tuple(int(p) for p in pads)
    require(auto in (b"SAME_UPPER", b"SAME_LOWER"), where, "auto_pad NOTSET, VALID or SAME", auto)
    total = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(shape, kernel, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return tuple(small + large) if auto == b"SAME_UPPER" else tuple(large + small)


def window(attributes, shape, where):
    kernel, strides = attributes.get("kernel_shape", ()), attributes.get("strides", [1, 1])
    require(len(kernel) == 2, where, "a pool over two dimensions", kernel)
    require(len(set(strides)) == 1, where, "one stride for both directions", strides)
    require(set(attributes.get("dilations", [1])) == {1}, where, "no dilation", attributes.get("dilations"))
    kernel, stride = tuple(int(k) for k in kernel), int(strides[0])
    require(min(kernel) >= 1 and stride >= 1, where, "a positive window and stride", (kernel, stride))
    return kernel, stride, padding_of(attributes, shape, kernel, stride, where)


def check_whole(attributes, shape, kernel, stride, where) -> None:
    """ceil_mode is taken where it changes nothing."""
    rest = [(n - k) % stride for n, k in zip(shape, kernel, strict=True)]
    require(not attributes.get("ceil_mode", 0) or not any(rest), where, "ceil_mode 0", "windows beyond the edge")
