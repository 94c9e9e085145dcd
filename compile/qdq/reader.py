"""What the patterns of compile/qdq/operators.py may ask while a file is read: names, shapes, tensors made so far."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import onnx

from compile.qdq import emit
from compile.qdq.values import Const, Pending, Real, Weights, require
from targets.reference.nodes import Tensor

STATIC = (
    "quantize it with onnxruntime.quantization.quantize_static(..., quant_format=QuantFormat.QDQ, "
    "extra_options={'WeightSymmetric': True})"
)


class Reader:
    """The integer graph under construction: tensors by name, nodes in order, the value behind each name of the file."""

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.tensors: dict[str, Tensor] = {}
        self.nodes, self.names, self.values = [], set(), {}
        self.consumers = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.consumers[name].append(node)

    def where(self, node) -> str:
        return f"node {node.name or node.output[0]} ({node.op_type})"

    def name(self, node) -> str:
        """A name of its own for a node of the graph."""
        name = node.name if node.name and node.name not in self.names else node.output[0]
        require(name not in self.names, self.where(node), "a name of its own", name)
        self.names.add(name)
        return name

    def append(self, nodes, out: Tensor) -> None:
        require(out.name not in self.tensors, f"tensor {out.name}", "a name of its own", "one that is taken")
        self.tensors[out.name] = out
        self.nodes.extend(nodes)

    def shape(self, x, where: str) -> tuple[int, int, int]:
        """[H, W, C] of a value."""
        require(not isinstance(x, (Const, Weights)), where, "a feature map", "a constant")
        return x.shape if isinstance(x, Pending) else self.tensors[x.name].shape

    def tensor(self, x, where: str) -> str:
        """Name of the graph's tensor that holds a value; a pool's or shortcut's result keeps its input's scale."""
        require(
            isinstance(x, (Real, Pending)),
            where,
            "a dequantized feature map",
            type(x).__name__.lower(),
            "put QuantizeLinear and DequantizeLinear before it",
        )
        require(x.layout != "NHWC", where, "a feature map in NCHW", x.layout)
        if isinstance(x, Real):
            return x.name
        require(
            x.kind in ("max_pool", "shortcut") and not x.clamped,
            where,
            "a quantized input",
            f"the float result of {x.name}",
            "put QuantizeLinear and DequantizeLinear between them",
        )
        if x.name not in self.tensors:
            out = replace(self.tensors[x.inputs[0]], name=x.name, shape=x.shape)
            self.append([emit.moved(x, out, where)], out)
        return x.name

    def padded(self, x, where: str) -> tuple[str, tuple[int, int, int, int]]:
        """(tensor, pixels of zeros around it): a Pad in front of a convolution becomes its padding."""
        if isinstance(x, Pending) and x.kind == "shortcut" and any(x.parts["pads"]):
            source = self.tensors[x.inputs[0]]
            require(
                x.parts["stride"] == 1 and x.shape[2] == source.shape[2],
                where,
                "a Pad of pixels alone",
                "one with a Slice",
            )
            return source.name, x.parts["pads"]
        return self.tensor(x, where), (0, 0, 0, 0)


def require_qdq(nodes) -> None:
    """Raises OnnxError for a network that is not quantized, or in another way than QuantizeLinear, DequantizeLinear."""
    kinds = {node.op_type for node in nodes}
    dynamic = sorted(kinds & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
    expected = "QuantizeLinear and DequantizeLinear around float operators (QDQ)"
    require(
        not dynamic,
        "model",
        expected,
        ", ".join(dynamic),
        "dynamic quantization is not taken; use onnxruntime.quantization.quantize_static",
    )
    integer = sorted(kind for kind in kinds if kind.startswith("QLinear") or kind == "QGemm")
    require(
        not integer,
        "model",
        expected,
        f"the QOperator format ({', '.join(integer)})",
        "export with quant_format=QuantFormat.QDQ",
    )
    require(
        bool(kinds & {"QuantizeLinear", "DequantizeLinear"}),
        "model",
        expected,
        "a network that is not quantized",
        STATIC,
    )


def attributes_of(node) -> dict:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def quantizer(inputs, attributes, where: str) -> tuple[np.ndarray, Const]:
    """(scale, zero point) of a QuantizeLinear or DequantizeLinear on a feature map."""
    scale, zero = (inputs + [None])[1:3]
    require(
        isinstance(scale, Const) and (zero is None or isinstance(zero, Const)),
        where,
        "a constant scale and zero point",
        "computed ones",
        "dynamic quantization is not taken; use static quantization",
    )
    require(
        scale.array.size >= 1 and bool((np.isfinite(scale.array) & (scale.array > 0)).all()),
        where,
        "positive scales",
        scale.array,
    )
    require(not attributes.get("block_size"), where, "one scale", "scales per block")
    if zero is None:
        require(
            attributes.get("output_dtype", 0) in (0, onnx.TensorProto.UINT8),
            where,
            "a zero point that tells the type",
            "none",
        )
        zero = Const(np.int64(0), 8, False)
    require(
        zero.bits is not None and zero.bits <= 8 and zero.array.size in (1, scale.array.size),
        where,
        "zero points of 8 bits at most",
        zero.array,
    )
    return scale.array, zero
