"""Reads a QDQ ONNX file, ours or another tool's, into an integer graph.

Real values between a DequantizeLinear and the next QuantizeLinear are followed operator by operator
(compile/qdq/operators.py); at the QuantizeLinear they become one node of the graph (compile/qdq/emit.py). Files of
train/integers/export.py come back with every integer equal. int8 activations become unsigned by a shift of their zero
point."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from compile.qdq import emit
from compile.qdq.operators import OPS, TO_NCHW
from compile.qdq.reader import Reader, attributes_of, quantizer, require_qdq
from compile.qdq.values import Codes, Const, OnnxError, Pending, Real, Weights, constant, fold, require
from targets.reference.graph import Graph
from targets.reference.nodes import GraphError, Tensor
from targets.reference.scales import float32

__all__ = ["OnnxError", "from_model", "load"]

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std of x = (u8 / 255 - mean) / std, per channel


def load(path: str | Path, normalization: Normalization | None = None) -> Graph:
    """The graph of a file; see `from_model`. Raises OnnxError for whatever cannot be taken, or read."""
    try:
        model = onnx.load(path)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise OnnxError(f"{path}: expected an ONNX file, got one that cannot be read ({error})") from error
    try:
        return from_model(model, model.graph.name or Path(path).stem, normalization)
    except OnnxError as error:
        raise OnnxError(f"{path}: {error}") from error


def from_model(model: onnx.ModelProto, name: str | None = None, normalization: Normalization | None = None) -> Graph:
    """The integer graph of a QDQ model with one picture input and one output.

    The picture is uint8 [N, H, W, C] (followed by a Transpose) or [N, C, H, W]. A float picture needs `normalization`,
    (mean, std) per channel of x = (u8 / 255 - mean) / std, because the file does not tell it: ((0,), (1,)) for x in
    0..1, ((0,), (1 / 255,)) for x in 0..255. Raises OnnxError naming the node, what was expected, what came and what
    to do.
    """
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        raise OnnxError(f"model: expected one that onnx.checker accepts, got: {error}") from error
    try:
        return _Walk(model, normalization).graph(name or model.graph.name or "network")
    except GraphError as error:
        raise OnnxError(f"model: its integers cannot be computed exactly: {error}") from error


class _Walk(Reader):
    """Follows the nodes that the output needs, in order."""

    def __init__(self, model: onnx.ModelProto, normalization: Normalization | None):
        super().__init__(model)
        self.normalization = normalization
        self.unscaled = None  # the uint8 picture, until its DequantizeLinear is met
        self.values = {t.name: self._guarded(f"initializer {t.name}", constant, t) for t in model.graph.initializer}

    def graph(self, name: str) -> Graph:
        require_qdq(self.model.graph.node)
        outputs = [o.name for o in self.model.graph.output]
        require(len(outputs) == 1, "model", "one output", outputs)
        input_name = self._input()
        for node in self._needed(outputs[0]):
            if node.output[0] not in self.values:
                self.values[node.output[0]] = self._guarded(self.where(node), self._read, node)
        output = self._guarded("output", self._output, outputs[0])
        return self._guarded("model", Graph, name, self.tensors, tuple(self.nodes), input_name, output)

    def _guarded(self, where: str, function, *arguments):
        """Values of the wrong type or shape, which only a damaged file has, are reported by node."""
        try:
            return function(*arguments)
        except (OnnxError, GraphError):
            raise
        except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
            raise OnnxError(
                f"{where}: expected operands and attributes as ONNX defines them, got {type(error).__name__}: "
                f"{error}; check the file with onnx.checker.check_model(model, full_check=True)"
            ) from error

    def _needed(self, output: str) -> list:
        """Nodes the output depends on, in the file's (topological) order."""
        wanted, needed = {output}, []
        for node in reversed(self.model.graph.node):
            if wanted & set(node.output):
                needed.append(node)
                wanted |= set(node.input)
        return needed[::-1]

    def _input(self) -> str:
        inputs = [i for i in self.model.graph.input if i.name not in self.values]
        require(len(inputs) == 1, "model", "one input, the picture", [i.name for i in inputs])
        kind, name = inputs[0].type.tensor_type, inputs[0].name
        dims, where = [d.dim_value for d in kind.shape.dim], f"input tensor {name!r}"
        require(
            len(dims) == 4 and min(dims[1:]) >= 1,
            where,
            "[N, H, W, C] or [N, C, H, W] with H, W and C given",
            dims,
            "fix its dimensions (onnxruntime.tools.make_dynamic_shape_fixed)",
        )
        layout = self._input_layout(name)
        require(layout == "NHWC" or dims[1] in (1, 3, 4), where, "1, 3 or 4 channels, or a Transpose after it", dims)
        shape = tuple(dims[1:]) if layout == "NHWC" else (dims[2], dims[3], dims[1])
        if kind.elem_type == onnx.TensorProto.UINT8:
            require(
                self.normalization is None,
                where,
                "no normalization, since its picture is uint8",
                "one",
                "leave --mean and --std out",
            )
            self.tensors[name] = Tensor(name, shape)
            self.values[name], self.unscaled = Codes(name, 0, layout), name
            return name
        require(kind.elem_type == onnx.TensorProto.FLOAT, where, "uint8 or float32", kind.elem_type)
        require(
            self.normalization is not None,
            where,
            "uint8, or the normalization of a float picture",
            "float32 alone",
            "give --mean and --std (normalization=(mean, std)) of x = (u8 / 255 - mean) / std: 0 and 1 for x in 0..1",
        )
        self.values[name] = Pending("picture", name, (), shape, layout)
        return name

    def _input_layout(self, name: str) -> str:
        """NHWC where the first operator that is not a quantizer is a Transpose to NCHW."""
        users = self.consumers[name]
        while len(users) == 1 and users[0].op_type in ("QuantizeLinear", "DequantizeLinear", "Identity", "Clip"):
            users = self.consumers[users[0].output[0]]
        first = users[0] if users else None
        turned = (
            first is not None and first.op_type == "Transpose" and list(attributes_of(first).get("perm", ())) == TO_NCHW
        )
        return "NHWC" if turned else "NCHW"

    def _read(self, node):
        where, attributes = self.where(node), attributes_of(node)
        require(node.domain in ("", "ai.onnx"), where, "an operator of standard ONNX", f"domain {node.domain}")
        for name in node.input:
            require(
                not name or name in self.values, where, "inputs computed before it", f"{name!r}, which nothing computes"
            )
        inputs = [self.values[name] if name else None for name in node.input]
        if node.op_type == "Constant":
            require("value" in attributes, where, "a Constant with a tensor", list(attributes))
            return constant(attributes["value"])
        if inputs and all(v is None or isinstance(v, (Const, Weights)) for v in inputs):
            return fold(node, inputs, attributes, where)
        if node.op_type == "QuantizeLinear":
            return self._quantize(node, inputs, attributes)
        if node.op_type == "DequantizeLinear":
            return self._dequantize(node, inputs, attributes)
        require(
            node.op_type in OPS,
            where,
            f"one of QuantizeLinear, DequantizeLinear, {', '.join(OPS)}",
            node.op_type,
            "rewrite the network without it, or leave it out of the exported part",
        )
        return OPS[node.op_type](self, node, inputs, attributes)

    def _quantize(self, node, inputs, attributes):
        """Emits the nodes of a pending result; a Clip of the codes right after narrows their width."""
        where, x = self.where(node), inputs[0]
        require(isinstance(x, (Pending, Real)), where, "a real value", type(x).__name__.lower())
        scale, zero = quantizer(inputs, attributes, where)
        require(scale.size == zero.array.size == 1, where, "one scale and zero point for activations", scale.shape)
        name, low, high = self._code_range(node, zero)
        offset = -low if zero.signed else 0
        low, high, zero_point = low + offset, high + offset, int(zero.array.reshape(-1)[0]) + offset
        bits = max(2, high.bit_length())
        shape = self.shape(x, where)
        out = Tensor(name, shape, bits, float32(scale.reshape(-1)[0]), (zero_point,))
        if isinstance(x, Pending) and x.kind == "picture":
            codes = Codes(self._picture(x, out, low, high, where), offset, x.layout)
        elif isinstance(x, Real) and self._unchanged(x, out, low, high):
            codes = Codes(x.name, offset, x.layout)
        else:
            self._emit(self._named(node, x), out, low, high, where)
            codes = Codes(name, offset, x.layout)
        self.values[name] = codes
        return codes

    def _unchanged(self, x: Real, out: Tensor, low: int, high: int) -> bool:
        source = self.tensors[x.name]
        return (source.scale, source.zero_point, source.bits, 0, source.qmax) == (
            out.scale,
            out.zero_point,
            out.bits,
            low,
            high,
        )

    def _named(self, node, x) -> Pending:
        """A Rescale is named after its QuantizeLinear; a clamp before it is only part of it."""
        if isinstance(x, Real):
            return Pending("rescale", self.name(node), (x.name,), self.tensors[x.name].shape, x.layout)
        if x.kind == "rescale":
            self.names.discard(x.name)
            return replace(x, name=self.name(node))
        return x

    def _emit(self, pending: Pending, out: Tensor, low: int, high: int, where: str) -> None:
        self.append(emit.quantized(self.tensors, pending, out, low, high, where), out)

    def _code_range(self, node, zero: Const) -> tuple[str, int, int]:
        """(name of the codes, smallest, largest code) after the Clip that may follow."""
        low = -(1 << (zero.bits - 1)) if zero.signed else 0
        high, users = low + (1 << zero.bits) - 1, self.consumers[node.output[0]]
        if len(users) != 1 or users[0].op_type != "Clip":
            return node.output[0], low, high
        clip = users[0]
        limits = [self.values.get(n) for n in clip.input[1:3]]
        require(
            len(limits) == 2 and all(isinstance(v, Const) and v.array.size == 1 for v in limits),
            self.where(clip),
            "two constant limits of codes",
            list(clip.input[1:]),
        )
        low, high = max(low, int(limits[0].array)), min(high, int(limits[1].array))
        require(low < high, self.where(clip), "a range of codes", (low, high))
        return clip.output[0], low, high

    def _dequantize(self, node, inputs, attributes):
        where, codes = self.where(node), inputs[0]
        require(isinstance(codes, Codes), where, "codes", type(codes).__name__.lower())
        scale, zero = quantizer(inputs, attributes, where)
        require(len(set(scale.reshape(-1).tolist())) == 1, where, "one scale for all channels", scale.tolist())
        value, zero_point = float32(scale.reshape(-1)[0]), tuple(int(z) + codes.offset for z in zero.array.reshape(-1))
        if codes.name == self.unscaled:
            self._scale_picture(codes, where, attributes, value, zero_point)
        tensor = self.tensors[codes.name]
        require(
            (tensor.scale, tensor.zero_point) == (value, zero_point),
            where,
            f"scale and zero point of its QuantizeLinear, {tensor.scale} and {tensor.zero_point}",
            (value, zero_point),
        )
        return Real(codes.name, codes.layout)

    def _scale_picture(self, codes: Codes, where: str, attributes, scale: float, zero_point: tuple) -> None:
        """Scale and zero points of a uint8 picture are told by its first DequantizeLinear."""
        axis = 1 if codes.layout == "NCHW" else 3
        require(
            len(zero_point) == 1 or attributes.get("axis", 1) % 4 == axis,
            where,
            f"zero points along axis {axis}",
            attributes.get("axis", 1),
        )
        tensor = self.tensors[codes.name]
        self.tensors[codes.name], self.unscaled = Tensor(tensor.name, tensor.shape, 8, scale, zero_point), None

    def _picture(self, x: Pending, out: Tensor, low: int, high: int, where: str) -> str:
        """The tensor of a float picture's codes, which are a function of its uint8 values."""
        require(x.name not in self.tensors, where, "one QuantizeLinear on the picture", "a second one")
        counts = [len(v) for v in self.normalization]
        require(
            all(n in (1, x.shape[2]) for n in counts),
            where,
            f"a mean and std for each of {x.shape[2]} channels",
            f"{counts[0]} and {counts[1]} of them",
        )
        mean, std = (np.broadcast_to(np.asarray(v, np.float64), (x.shape[2],)) for v in self.normalization)
        require(bool((std > 0).all()), where, "a positive std in normalization", std)
        source, nodes = emit.picture(x.name, out, mean, std, (low, high), where)
        self.tensors[x.name] = source
        if nodes:
            self.append(nodes, out)
        return out.name if nodes else x.name

    def _output(self, name: str) -> str:
        require(name in self.values, f"output tensor {name!r}", "something that computes it", "nothing")
        value = self.values[name]
        h, w, _ = self.shape(value, f"output tensor {name!r}")
        require(
            (h, w) == (1, 1) or value.layout == "NHWC",
            f"output tensor {name!r}",
            "one score per class, or a map in NHWC",
            f"a map {h}x{w}",
        )
        if isinstance(value, (Real, Codes)):
            return value.name
        node, tensor = emit.logits(self.tensors, value, name, f"output tensor {name!r}")
        self.append([node], tensor)
        return name
