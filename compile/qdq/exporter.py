"""Writes an integer graph as a standard QDQ ONNX model whose float inference equals the integers.

Every tensor of the graph is a QuantizeLinear (and a Clip, where its width has no type of its own) named like the
tensor, followed by one DequantizeLinear; between them stand ordinary float operators. The integers of requantization
are not written: they follow from the float32 scales, and compile/qdq/derivable.py refuses a graph where they do not.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from compile.qdq.derivable import require_derivable
from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Node, Rescale, Shortcut, Tensor

QDQ_FORMAT = 1  # of the files that bitgrade writes, in their metadata
UNSIGNED = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}
SIGNED = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}
# (opset, IR version): the oldest that have the types. Two-bit types came with opset 25.
FOUR_BIT = (21, 10)
TWO_BIT = (25, 13)


def to_onnx(graph: Graph, metadata: Mapping[str, Any] | None = None) -> onnx.ModelProto:
    """Returns the model: input uint8 [N, H, W, C], output float32 [N, classes] = int32 logits * scale.

    metadata: anything JSON can hold by name, kept in metadata_props under "bitgrade.<name>". The same graph gives the
    same bytes. Raises ExportError where a scale is not exact in float32 or a requantization not that of its scales.
    """
    require_derivable(graph)
    writer = _ModelWriter(graph)
    writer.write_picture()
    for node in graph.nodes:
        WRITERS[type(node)](writer, node)
    output = writer.write_output()
    shape = graph.tensors[graph.input].shape
    classes = int(np.prod(graph.tensors[graph.output].shape))
    body = helper.make_graph(
        writer.nodes,
        graph.name,
        [helper.make_tensor_value_info(graph.input, TensorProto.UINT8, ["N", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", classes])],
        writer.initializers,
    )
    opset, ir_version = TWO_BIT if writer.has_two_bit_types else FOUR_BIT
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="bitgrade"
    )
    members = {"format": QDQ_FORMAT, **(metadata or {})}
    texts = {f"bitgrade.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in members.items()}
    helper.set_model_props(model, texts)
    return model


class _ModelWriter:
    """Nodes and initializers of the model, in the order of the graph; its methods return names of values."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.has_two_bit_types = False

    def add_node(self, kind: str, output: str, inputs: list[str], name: str | None = None, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name or output, **attributes))
        return output

    def add_constant(self, name: str, values: Any, data_type: int | None = None) -> str:
        """An initializer; `data_type` packs integers into ONNX's sub-byte types."""
        array = np.asarray(values)
        if data_type is not None:
            self.has_two_bit_types |= data_type in (TensorProto.INT2, TensorProto.UINT2)
            array = array.astype(helper.tensor_dtype_to_np_dtype(data_type))
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def add_limits(self, prefix: str, low: Any, high: Any) -> list[str]:
        """The two limits of a Clip, in the type that they have."""
        return [self.add_constant(f"{prefix}min", low), self.add_constant(f"{prefix}max", high)]

    def write_picture(self) -> None:
        """uint8 [N, H, W, C] -> real values [N, C, H, W]."""
        x = self.graph.tensors[self.graph.input]
        codes = self.add_node("Transpose", f"{x.name}/nchw", [x.name], perm=[0, 3, 1, 2])
        per_channel = (x.shape[2],) if len(x.zero_point) > 1 else ()
        scale = self.add_constant(f"{x.name}/scale", np.full(per_channel, x.scale, np.float32))
        zero = self.add_constant(f"{x.name}/zero_point", np.reshape(x.zero_point, per_channel), TensorProto.UINT8)
        self.add_node("DequantizeLinear", f"{x.name}/real", [codes, scale, zero], axis=1)

    def write_weight(self, conv: Conv, codes: np.ndarray) -> str:
        """Dequantized weights of codes [O, ...], stored in the smallest type; a Clip tells a width between types."""
        stored_bits = next(bits for bits in SIGNED if conv.w_bits <= bits)
        name = self.add_constant(f"{conv.name}/weight", codes, SIGNED[stored_bits])
        if stored_bits != conv.w_bits:
            half = 1 << (conv.w_bits - 1)
            if stored_bits < 8:  # Clip takes no type below 8 bits
                name = self.add_node("Cast", f"{conv.name}/weight_int8", [name], to=TensorProto.INT8)
            limits = self.add_limits(f"{conv.name}/weight_", np.int8(-half), np.int8(half - 1))
            name = self.add_node("Clip", f"{conv.name}/weight_clipped", [name, *limits])
        scale = self.add_constant(f"{conv.name}/w_scale", conv.w_scale)
        return self.add_node("DequantizeLinear", f"{conv.name}/weight_real", [name, scale], axis=0)

    def write_bias(self, conv: Conv) -> str:
        left = 0 if conv.requant is None else conv.requant.left
        unit = np.float64(self.graph.tensors[conv.input].scale) * conv.w_scale.astype(np.float64) / np.exp2(left)
        codes = self.add_constant(f"{conv.name}/bias", conv.bias.astype(np.int32))
        scale = self.add_constant(f"{conv.name}/bias_scale", unit.astype(np.float32))
        return self.add_node("DequantizeLinear", f"{conv.name}/bias_real", [codes, scale], axis=0)

    def quantize(self, node: Node, real: str, name: str | None = None) -> None:
        """Clamp, codes and their real values: `real` float -> tensor node.output and `<output>/real`."""
        t = self.graph.tensors[node.output]
        real = self._clamp(node, t, real)
        stored_bits = t.bits if t.bits in UNSIGNED else 8
        scale = self.add_constant(f"{t.name}/scale", np.float32(t.scale))
        zero = self.add_constant(f"{t.name}/zero_point", t.zero_point[0], UNSIGNED[stored_bits])
        codes = t.name if stored_bits == t.bits else f"{t.name}/wide"
        self.add_node("QuantizeLinear", codes, [real, scale, zero], name or f"{node.name}/quantize")
        if stored_bits != t.bits:
            limits = self.add_limits(f"{t.name}/", np.uint8(0), np.uint8(t.qmax))
            self.add_node("Clip", t.name, [codes, *limits], f"{node.name}/clip_codes")
        self.add_node("DequantizeLinear", f"{t.name}/real", [t.name, scale, zero])

    def _clamp(self, node: Node, t: Tensor, real: str) -> str:
        if not isinstance(node, Conv | Add | AvgPool | Rescale):
            return real
        qmin, qmax, zero = node.qmin, node.qmax, t.zero_point[0]
        # onnxruntime merges a bare DequantizeLinear, QuantizeLinear into the quantizer before: so Rescale always clamps
        explicit = isinstance(node, Rescale)
        if qmax == t.qmax and qmin == zero and (qmin > 0 or explicit or isinstance(node, Conv | Add)):
            return self.add_node("Relu", f"{node.name}/relu", [real])
        if qmax == t.qmax and qmin == 0 and not explicit:
            return real
        low, high = (np.float32((q - zero) * t.scale) for q in (qmin, qmax))
        return self.add_node("Clip", f"{node.name}/clip", [real, *self.add_limits(f"{node.name}/", low, high)])

    def write_output(self) -> str:
        """The float output [N, classes]."""
        t = self.graph.tensors[self.graph.output]
        if t.bits == 32 and any(n.output[0] == t.name for n in self.nodes):
            return t.name
        flat = self.add_node("Transpose", f"{t.name}/nhwc", [f"{t.name}/real"], perm=[0, 2, 3, 1])
        return self.add_node("Flatten", t.name if t.bits == 32 else f"{t.name}/flat", [flat], axis=1)


def _write_conv(writer: _ModelWriter, node: Conv) -> None:
    x, out = writer.graph.tensors[node.input], writer.graph.tensors[node.output]
    outputs, height, width, inputs = node.weight.shape
    real = f"{node.input}/real"
    if node.requant is None and x.shape[:2] == out.shape[:2] == (height, width) == (1, 1) and node.groups == 1:
        flat = writer.add_node("Flatten", f"{node.name}/flat", [real], axis=1)
        operands = [flat, writer.write_weight(node, node.weight.reshape(outputs, inputs)), writer.write_bias(node)]
        writer.add_node("Gemm", node.output, operands, node.name, transB=1)
        return
    operands = [real, writer.write_weight(node, node.weight.transpose(0, 3, 1, 2)), writer.write_bias(node)]
    sums = writer.add_node(
        "Conv",
        f"{node.name}/sum" if node.requant else f"{node.output}/real",
        operands,
        node.name,
        group=node.groups,
        kernel_shape=[height, width],
        strides=list(node.stride),
        pads=list(node.padding),
    )
    if node.requant is None:
        return
    if node.skip is not None:
        sums = writer.add_node("Add", f"{node.name}/add", [sums, f"{node.skip}/real"])
    writer.quantize(node, sums)


def _write_add(writer: _ModelWriter, node: Add) -> None:
    operands = [f"{node.a}/real", f"{node.b}/real"]
    writer.quantize(node, writer.add_node("Add", f"{node.name}/add", operands, node.name))


def _write_avg_pool(writer: _ModelWriter, node: AvgPool) -> None:
    operands = [f"{node.input}/real"]
    mean = f"{node.name}/mean"
    if node.kernel == writer.graph.tensors[node.input].shape[:2] and node.stride == (1, 1):
        writer.add_node("GlobalAveragePool", mean, operands, node.name)
    else:
        window = {"kernel_shape": list(node.kernel), "strides": list(node.stride)}
        writer.add_node("AveragePool", mean, operands, node.name, **window)
    writer.quantize(node, mean)


def _write_max_pool(writer: _ModelWriter, node: MaxPool) -> None:
    window = {"kernel_shape": list(node.kernel), "strides": list(node.stride), "pads": list(node.padding)}
    writer.quantize(node, writer.add_node("MaxPool", f"{node.name}/max", [f"{node.input}/real"], node.name, **window))


def _write_shortcut(writer: _ModelWriter, node: Shortcut) -> None:
    x, out = writer.graph.tensors[node.input], writer.graph.tensors[node.output]
    bounds = {"starts": [0, 0], "ends": list(x.shape[:2]), "axes": [2, 3], "steps": list(node.stride)}
    limits = [writer.add_constant(f"{node.name}/{k}", np.array(v, np.int64)) for k, v in bounds.items()]
    sliced = writer.add_node("Slice", f"{node.name}/sliced", [f"{node.input}/real", *limits])
    after = out.shape[2] - node.before - x.shape[2]
    pads = writer.add_constant(f"{node.name}/pads", np.array([0, node.before, 0, 0, 0, after, 0, 0], np.int64))
    writer.quantize(node, writer.add_node("Pad", f"{node.name}/padded", [sliced, pads], node.name))


def _write_rescale(writer: _ModelWriter, node: Rescale) -> None:
    writer.quantize(node, f"{node.input}/real", node.name)


WRITERS: dict[type, Callable[[_ModelWriter, Any], None]] = {
    Conv: _write_conv,
    Add: _write_add,
    AvgPool: _write_avg_pool,
    MaxPool: _write_max_pool,
    Shortcut: _write_shortcut,
    Rescale: _write_rescale,
}
