"""The float32 network inside a QDQ file of ours, for engines that quantize it in their own way."""

import copy

import numpy as np
import onnx
from onnx import helper, numpy_helper


def as_floats(model: onnx.ModelProto, pictures: np.ndarray) -> np.ndarray:
    """Returns float32 [N, C, H, W]: what the file's first DequantizeLinear makes of pictures uint8 [N, H, W, C]."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in constants)
    scale, zero = (constants[name].astype(np.float32) for name in first.input[1:3])
    return np.ascontiguousarray(((pictures - zero) * scale).transpose(0, 3, 1, 2), np.float32)


def float_network(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the network with weights dequantized, activations never quantized, and a float input.

    Raises ValueError for a file whose picture is not bytes, as other tools make them.
    """
    if model.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        raise ValueError(
            f"{model.graph.name}: expected a file that takes a uint8 picture, which bitgrade's training "
            "makes; build the bundle from such a run to compare it with other engines"
        )
    stripper = _Stripper(model)
    for node in model.graph.node:
        stripper.add(node)
    used = {name for node in stripper.nodes for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used] + stripper.weights
    _, h, w, c = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    entry = helper.make_tensor_value_info(model.graph.input[0].name, onnx.TensorProto.FLOAT, [1, c, h, w])
    graph = helper.make_graph(stripper.nodes, "float", [entry], list(model.graph.output), kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


class _Stripper:
    """Takes a file's nodes in order and leaves those of the float network; names of left-out values are aliases."""

    def __init__(self, model: onnx.ModelProto):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._constants = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}
        self._aliases: dict[str, str] = {}

    def add(self, node: onnx.NodeProto) -> None:
        source = self._aliases.get(node.input[0], node.input[0])
        if node.op_type == "DequantizeLinear" and source in self._constants:
            real = _dequantized(self._constants[source], self._constants[node.input[1]])
            self.weights.append(numpy_helper.from_array(real, node.output[0]))
        elif self._is_left_out(node, source):
            self._aliases[node.output[0]] = source
        else:
            kept = copy.copy(node)
            kept.input[:] = [self._aliases.get(name, name) for name in node.input]
            self.nodes.append(kept)

    def _is_left_out(self, node: onnx.NodeProto, source: str) -> bool:
        """Quantizers, changes of layout and type, and clamps of a Rescale or of codes in too wide a container."""
        if node.op_type in ("Transpose", "Cast", "QuantizeLinear", "DequantizeLinear"):
            return True
        return node.op_type in ("Clip", "Relu") and (source in self._constants or source != node.input[0])


def _dequantized(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (codes * scale.reshape(scale.shape + (1,) * (codes.ndim - scale.ndim))).astype(np.float32)
