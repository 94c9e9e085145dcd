"""Writes an integer graph as a standard QDQ ONNX model whose float inference equals the integers.

Every tensor of the graph is a QuantizeLinear (and a Clip, where its width has no type of its own) named like the
tensor, followed by one DequantizeLinear; between them stand ordinary float operators. The integers of requantization
are not written: they follow from the float32 scales, and compile/qdq/derivable.py refuses a graph where they do not.
"""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper

from compile.qdq.derivable import derived
from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool, Node, Rescale, Shortcut, Tensor

FORMAT = 1
UNSIGNED = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}
SIGNED = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}
# (opset, IR version): the oldest that have the types. Two-bit types came with opset 25.
FOUR_BIT, TWO_BIT = (21, 10), (25, 13)


def to_onnx(graph: Graph, metadata: dict | None = None) -> onnx.ModelProto:
    """The model: input uint8 [N, H, W, C], output float32 [N, classes] = int32 logits * scale.

    metadata: str -> anything JSON can hold, kept in metadata_props under "bitgrade.<key>". The same graph gives the
    same bytes. Raises ExportError where a scale is not exact in float32 or a requantization not that of its scales.
    """
    derived(graph)
    writer = _Writer(graph)
    for node in graph.nodes:
        _NODES[type(node)](writer, node)
    output = writer.finish()
    opset, ir_version = TWO_BIT if writer.two_bit else FOUR_BIT
    shape = graph.tensors[graph.input].shape
    body = helper.make_graph(
        writer.nodes,
        graph.name,
        [helper.make_tensor_value_info(graph.input, TensorProto.UINT8, ["N", *shape])],
        [
            helper.make_tensor_value_info(
                output, TensorProto.FLOAT, ["N", int(np.prod(graph.tensors[graph.output].shape))]
            )
        ],
        writer.initializers,
    )
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="bitgrade"
    )
    fields = {"format": FORMAT, **(metadata or {})}
    helper.set_model_props(
        model, {f"bitgrade.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
    )
    return model


class _Writer:
    """Nodes and initializers of the model, in the order of the graph."""

    def __init__(self, graph: Graph):
        self.graph, self.nodes, self.initializers, self.two_bit = graph, [], [], False
        x = graph.tensors[graph.input]
        codes = self.op("Transpose", f"{x.name}/nchw", [x.name], perm=[0, 3, 1, 2])
        per_channel = (x.shape[2],) if len(x.zero_point) > 1 else ()
        scale = self.constant(f"{x.name}/scale", np.full(per_channel, x.scale, np.float32))
        zero = self.constant(f"{x.name}/zero_point", np.reshape(x.zero_point, per_channel), TensorProto.UINT8)
        self.op("DequantizeLinear", f"{x.name}/real", [codes, scale, zero], axis=1)

    def op(self, kind: str, output: str, inputs: list[str], name: str | None = None, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name or output, **attributes))
        return output

    def constant(self, name: str, values, data_type: int | None = None) -> str:
        """An initializer; `data_type` packs integers into ONNX's sub-byte types."""
        values = np.asarray(values)
        if data_type is None:
            self.initializers.append(onnx.numpy_helper.from_array(values, name))
            return name
        self.two_bit |= data_type in (TensorProto.INT2, TensorProto.UINT2)
        array = values.astype(helper.tensor_dtype_to_np_dtype(data_type))
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def weight(self, conv: Conv, codes: np.ndarray) -> str:
        """Dequantized weights [O, ...]: real sub-byte storage; a width between types is told by a Clip of its range."""
        held = next(bits for bits in SIGNED if conv.w_bits <= bits)
        name = self.constant(f"{conv.name}/weight", codes, SIGNED[held])
        if held != conv.w_bits:
            half = 1 << (conv.w_bits - 1)
            if held < 8:  # Clip takes no type below 8 bits
                name = self.op("Cast", f"{conv.name}/weight_int8", [name], to=TensorProto.INT8)
            limits = [
                self.constant(f"{conv.name}/weight_{k}", np.int8(v)) for k, v in (("min", -half), ("max", half - 1))
            ]
            name = self.op("Clip", f"{conv.name}/weight_clipped", [name, *limits])
        scale = self.constant(f"{conv.name}/w_scale", conv.w_scale)
        return self.op("DequantizeLinear", f"{conv.name}/weight_real", [name, scale], axis=0)

    def bias(self, conv: Conv) -> str:
        left = 0 if conv.requant is None else conv.requant.left
        unit = np.float64(self.graph.tensors[conv.input].scale) * conv.w_scale.astype(np.float64) / np.exp2(left)
        codes = self.constant(f"{conv.name}/bias", conv.bias.astype(np.int32))
        scale = self.constant(f"{conv.name}/bias_scale", unit.astype(np.float32))
        return self.op("DequantizeLinear", f"{conv.name}/bias_real", [codes, scale], axis=0)

    def quantize(self, node: Node, real: str, name: str | None = None) -> None:
        """Clamp, codes and their real values: `real` float -> tensor node.output and `<output>/real`."""
        t = self.graph.tensors[node.output]
        real = self._clamp(node, t, real)
        held = t.bits if t.bits in UNSIGNED else 8
        scale = self.constant(f"{t.name}/scale", np.float32(t.scale))
        zero = self.constant(f"{t.name}/zero_point", t.zero_point[0], UNSIGNED[held])
        codes = t.name if held == t.bits else f"{t.name}/wide"
        self.op("QuantizeLinear", codes, [real, scale, zero], name or f"{node.name}/quantize")
        if held != t.bits:
            limits = [self.constant(f"{t.name}/{k}", np.uint8(v)) for k, v in (("min", 0), ("max", t.qmax))]
            self.op("Clip", t.name, [codes, *limits], f"{node.name}/clip_codes")
        self.op("DequantizeLinear", f"{t.name}/real", [t.name, scale, zero])

    def _clamp(self, node: Node, t: Tensor, real: str) -> str:
        qmin, qmax, zero = getattr(node, "qmin", 0), getattr(node, "qmax", t.qmax), t.zero_point[0]
        # onnxruntime merges a bare DequantizeLinear, QuantizeLinear into the quantizer before: so Rescale always clamps
        explicit = isinstance(node, Rescale)
        if qmax == t.qmax and qmin == zero and (qmin > 0 or explicit or isinstance(node, (Conv, Add))):
            return self.op("Relu", f"{node.name}/relu", [real])
        if qmax == t.qmax and qmin == 0 and not explicit:
            return real
        limits = [
            self.constant(f"{node.name}/{k}", np.float32((q - zero) * t.scale))
            for k, q in (("min", qmin), ("max", qmax))
        ]
        return self.op("Clip", f"{node.name}/clip", [real, *limits])

    def finish(self) -> str:
        """Name of the float output [N, classes]."""
        t = self.graph.tensors[self.graph.output]
        if t.bits == 32 and any(n.output[0] == t.name for n in self.nodes):
            return t.name
        flat = self.op("Transpose", f"{t.name}/nhwc", [f"{t.name}/real"], perm=[0, 2, 3, 1])
        return self.op("Flatten", t.name if t.bits == 32 else f"{t.name}/flat", [flat], axis=1)


def _conv(w: _Writer, node: Conv) -> None:
    x, out = w.graph.tensors[node.input], w.graph.tensors[node.output]
    o, kh, kw, i = node.weight.shape
    if node.requant is None and x.shape[:2] == out.shape[:2] == (kh, kw) == (1, 1) and node.groups == 1:
        flat = w.op("Flatten", f"{node.name}/flat", [f"{node.input}/real"], axis=1)
        inputs = [flat, w.weight(node, node.weight.reshape(o, i)), w.bias(node)]
        w.op("Gemm", node.output, inputs, node.name, transB=1)
        return
    inputs = [f"{node.input}/real", w.weight(node, node.weight.transpose(0, 3, 1, 2)), w.bias(node)]
    real = w.op(
        "Conv",
        f"{node.name}/sum" if node.requant else f"{node.output}/real",
        inputs,
        node.name,
        group=node.groups,
        kernel_shape=[kh, kw],
        strides=[node.stride] * 2,
        pads=list(node.padding),
    )
    if node.requant is None:
        return
    if node.skip is not None:
        real = w.op("Add", f"{node.name}/add", [real, f"{node.skip}/real"])
    w.quantize(node, real)


def _add(w: _Writer, node: Add) -> None:
    w.quantize(node, w.op("Add", f"{node.name}/add", [f"{node.a}/real", f"{node.b}/real"], node.name))


def _avg_pool(w: _Writer, node: AvgPool) -> None:
    inputs, name = [f"{node.input}/real"], f"{node.name}/mean"
    if node.kernel == w.graph.tensors[node.input].shape[:2] and node.stride == 1:
        w.quantize(node, w.op("GlobalAveragePool", name, inputs, node.name))
        return
    w.quantize(
        node, w.op("AveragePool", name, inputs, node.name, kernel_shape=list(node.kernel), strides=[node.stride] * 2)
    )


def _max_pool(w: _Writer, node: MaxPool) -> None:
    w.quantize(
        node,
        w.op(
            "MaxPool",
            f"{node.name}/max",
            [f"{node.input}/real"],
            node.name,
            kernel_shape=list(node.kernel),
            strides=[node.stride] * 2,
            pads=list(node.padding),
        ),
    )


def _shortcut(w: _Writer, node: Shortcut) -> None:
    x, out = w.graph.tensors[node.input], w.graph.tensors[node.output]
    bounds = {"starts": [0, 0], "ends": list(x.shape[:2]), "axes": [2, 3], "steps": [node.stride] * 2}
    inputs = [w.constant(f"{node.name}/{k}", np.array(v, np.int64)) for k, v in bounds.items()]
    sliced = w.op("Slice", f"{node.name}/sliced", [f"{node.input}/real", *inputs])
    pads = np.array([0, node.before, 0, 0, 0, out.shape[2] - node.before - x.shape[2], 0, 0], np.int64)
    w.quantize(node, w.op("Pad", f"{node.name}/padded", [sliced, w.constant(f"{node.name}/pads", pads)], node.name))


def _rescale(w: _Writer, node: Rescale) -> None:
    w.quantize(node, f"{node.input}/real", node.name)


_NODES = {Conv: _conv, Add: _add, AvgPool: _avg_pool, MaxPool: _max_pool, Shortcut: _shortcut, Rescale: _rescale}
