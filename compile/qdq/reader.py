"""The integer graph while a file is read: its tensors and nodes so far, and the value behind each name of the file."""

from collections import defaultdict
from dataclasses import replace

import onnx

from compile.qdq.emit import Emitted, emit_moved
from compile.qdq.node import place_of
from compile.qdq.normalization import Normalization
from compile.qdq.values import (
    Constant,
    MapShape,
    Pending,
    PendingMaxPool,
    PendingShortcut,
    Real,
    Value,
    Weights,
    describe,
    refusal,
    require,
)
from targets.reference.nodes import Node, Tensor


class Reader:
    """The integer graph under construction.

    tensors, nodes: those of the graph. values: by name of the file. consumers: the file's nodes that read a name.
    unscaled_picture: the uint8 picture, until the DequantizeLinear that tells its scale is met.
    """

    def __init__(self, model: onnx.ModelProto, normalization: Normalization | None):
        self.model = model
        self.normalization = normalization
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}
        self.unscaled_picture: str | None = None
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self._names: set[str] = set()

    def take_name(self, node: onnx.NodeProto) -> str:
        """Returns a name for a node of the graph that no other one has; raises OnnxError where there is none."""
        name = node.name if node.name and node.name not in self._names else node.output[0]
        require(name not in self._names, place_of(node), "a name of its own", name)
        self._names.add(name)
        return name

    def free_name(self, name: str) -> None:
        """Gives a name back that no node of the graph bears."""
        self._names.discard(name)

    def append(self, emitted: Emitted) -> None:
        """Adds nodes with the tensors that they compute; raises OnnxError for a tensor whose name is taken."""
        for node, out in emitted:
            require(out.name not in self.tensors, f"tensor {out.name}", "a name of its own", "one that is taken")
            self.tensors[out.name] = out
            self.nodes.append(node)

    def shape_of(self, value: Value | None, where: str) -> MapShape:
        """Returns [H, W, C] of a feature map; raises OnnxError for a constant."""
        if value is None or isinstance(value, Constant | Weights):
            raise refusal(where, "a feature map", describe(value))
        return value.shape if isinstance(value, Pending) else self.tensors[value.name].shape

    def tensor_of(self, value: Value | None, where: str) -> Tensor:
        """Returns the graph's tensor [H, W, C] of a dequantized map; raises OnnxError for one that is not quantized.

        The result of a max pool or shortcut needs no QuantizeLinear: it keeps the scale of its input.
        """
        if not isinstance(value, Real | Pending):
            advice = "put QuantizeLinear and DequantizeLinear before it"
            raise refusal(where, "a dequantized feature map", describe(value), advice)
        require(value.layout != "NHWC", where, "a feature map in NCHW", value.layout)
        if isinstance(value, Real):
            return self.tensors[value.name]
        if not isinstance(value, PendingMaxPool | PendingShortcut) or value.clamped:
            advice = (
                "put QuantizeLinear and DequantizeLinear between them (onnxruntime: name the operator in "
                "op_types_to_quantize), or build from the float file with --calibrate PICTURES"
            )
            raise refusal(where, "a quantized input", describe(value), advice)
        if value.name not in self.tensors:
            out = replace(self.tensors[value.source], name=value.name, shape=value.shape)
            self.append([(emit_moved(value, out, where), out)])
        return self.tensors[value.name]
