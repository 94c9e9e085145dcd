"""The integer graph while a file is read: its tensors and nodes so far, and the value behind each name of the file."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import onnx

from compile.qdq.emit import Emitted, Output, emit
from compile.qdq.limits import require_moderate
from compile.qdq.node import place_of
from compile.qdq.normalization import Normalization
from compile.qdq.values import (
    Constant,
    MapShape,
    Pending,
    PendingConcat,
    PendingMaxPool,
    PendingMove,
    PendingRescale,
    Real,
    Value,
    Weights,
    describe,
    refusal,
    require,
)
from targets.reference.nodes import Node, Tensor

QUANTIZE = (
    "put QuantizeLinear and DequantizeLinear between them (onnxruntime: name the operator in op_types_to_quantize), or "
    "build from the float file with --calibrate PICTURES"
)


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
        """Adds nodes with the tensors that they compute; raises OnnxError for a taken name, or too large a map."""
        for node, out in emitted:
            require(out.name not in self.tensors, f"tensor {out.name}", "a name of its own", "one that is taken")
            require_moderate(out.shape, f"tensor {out.name}")
            self.tensors[out.name] = out
            self.nodes.append(node)

    def shape_of(self, value: Value | None, where: str) -> MapShape:
        """Returns [H, W, C] of a feature map; raises OnnxError for a constant."""
        if value is None or isinstance(value, Constant | Weights):
            raise refusal(where, "a feature map", describe(value))
        return value.shape if isinstance(value, Pending) else self.tensors[value.name].shape

    def tensor_of(self, value: Value | None, where: str) -> Tensor:
        """Returns the graph's tensor [H, W, C] of a dequantized map; raises OnnxError for one that is not quantized.

        A pool of largest values, a move, and a clamp at a code need no QuantizeLinear: they keep the scale of their
        input.
        """
        if value is not None and not isinstance(value, Constant | Weights):
            require(value.layout != "NHWC", where, "a feature map in NCHW", value.layout)
        return self.tensor_in_any_layout(value, where)

    def tensor_in_any_layout(self, value: Value | None, where: str) -> Tensor:
        """Returns the graph's tensor [H, W, C] as `tensor_of` does, of a map in NHWC too."""
        if not isinstance(value, Real | Pending):
            advice = "put QuantizeLinear and DequantizeLinear before it"
            raise refusal(where, "a dequantized feature map", describe(value), advice)
        if isinstance(value, Real):
            return self.tensors[value.name]
        if value.name not in self.tensors:
            self._append_unquantized(value, where)
        return self.tensors[value.name]

    def _append_unquantized(self, value: Pending, where: str) -> None:
        """Adds the nodes of a float result that tells its own scale; raises OnnxError for one that does not."""
        if isinstance(value, PendingMaxPool | PendingMove):
            value = replace(value, source=self._source_name(value.source, where))
            out = replace(self.tensors[str(value.source)], name=value.name, shape=value.shape)
        elif isinstance(value, PendingConcat):
            parts = [self._source_name(part, where) for part in value.sources]
            value = replace(value, sources=tuple(parts))
            out = replace(self._of_like_scales(parts, where), name=value.name, shape=value.shape)
        elif isinstance(value, PendingRescale):
            out = replace(self.tensors[value.source], name=value.name)
            limits = (value.low, value.high)
            require(_clamps_at_codes(value, out), where, "a clamp at a code of its input", limits, QUANTIZE)
        else:
            raise refusal(where, "a quantized input", describe(value), QUANTIZE)
        self.append(emit(self.tensors, value, Output(out, 0, out.qmax, where)))

    def _source_name(self, source: str | Pending, where: str) -> str:
        """The tensor of a source, which a float result becomes."""
        return source if isinstance(source, str) else self.tensor_in_any_layout(source, where).name

    def _of_like_scales(self, names: Sequence[str], where: str) -> Tensor:
        """The first of several tensors that share scale, zero point and width."""
        tensors = [self.tensors[name] for name in names]
        kinds = {(t.scale, t.zero_point, t.bits) for t in tensors}
        expected = "operands of one scale, or a QuantizeLinear behind the Concat"
        require(len(kinds) == 1, where, expected, f"{len(kinds)} scales", QUANTIZE)
        return tensors[0]


def _clamps_at_codes(value: PendingRescale, x: Tensor) -> bool:
    """Whether the limits of a clamp are values that codes of the tensor have, or lie beyond all of them."""
    codes = [limit / x.scale + x.zero_point[0] for limit in (value.low, value.high)]
    return all(code <= 0 or code >= x.qmax or abs(code - round(code)) < 2.0**-10 for code in codes)
