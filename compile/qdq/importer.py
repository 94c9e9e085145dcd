"""Reads a QDQ ONNX file, ours or another tool's, into an integer graph.

Real values between a DequantizeLinear and the next QuantizeLinear are followed operator by operator
(compile/qdq/operators.py); at the QuantizeLinear they become nodes of the graph (compile/qdq/emit.py). Files that
train/integers/export.py wrote come back with every integer equal. int8 activations become unsigned by a shift of their
zero point."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from compile.forms.graph import FormError
from compile.forms.normal_form import NormalForm, normal_form
from compile.forms.options import NOTHING_OPEN, FormOptions
from compile.qdq.constants import fold, read_tensor
from compile.qdq.emit_conv import emit_logits
from compile.qdq.node import FileNode, attributes_of, place_of, require_quantized
from compile.qdq.normalization import Normalization
from compile.qdq.operators import READERS
from compile.qdq.picture import open_picture
from compile.qdq.preprocessing import after_preprocessing
from compile.qdq.reader import Reader
from compile.qdq.values import (
    Codes,
    Constant,
    OnnxError,
    Pending,
    PendingMove,
    Real,
    Value,
    Weights,
    describe,
    refusal,
    require,
)
from compile.rewriting.fusing import fused
from compile.rewriting.halving import halved
from targets.reference.graph import Graph
from targets.reference.nodes import GraphError

__all__ = ["FormOptions", "Normalization", "OnnxError", "OpenedFile", "from_model", "load", "open_file"]

# RuntimeError: external data under a name of 4 kB
UNREADABLE = (OSError, DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError)
MOST_WORDS = 500  # of other tools' messages, which repeat names of any length
DAMAGES = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class OpenedFile:
    """A file as the compiler takes it: its integer graph, and the form in which that was read.

    is_whole: whether the file holds its constants itself, not in files beside it.
    """

    graph: Graph
    form: NormalForm
    is_whole: bool


def load(path: str | Path, normalization: Normalization | None = None) -> Graph:
    """Returns the graph of a file, see `open_file`; raises OnnxError for a file that cannot be read or taken."""
    return open_file(path, normalization).graph


def open_file(
    path: str | Path, normalization: Normalization | None = None, options: FormOptions = NOTHING_OPEN
) -> OpenedFile:
    """Returns a file of any form that compile/forms knows; raises OnnxError for one that cannot be read or taken.

    normalization: of the float picture that the file takes. options: what the file leaves open.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        is_whole = not any(uses_external_data(tensor) for tensor in model.graph.initializer)
        load_external_data_for_model(model, str(Path(path).parent))
    except UNREADABLE as error:
        words = str(error)[:MOST_WORDS]
        raise OnnxError(f"{path}: expected an ONNX file, got one that cannot be read ({words})") from error
    try:
        with _damage_reported("model"):
            form = normal_form(model, options)
        picture = after_preprocessing(normalization, form.preprocessing)
        return OpenedFile(from_model(form.qdq, model.graph.name or Path(path).stem, picture), form, is_whole)
    except (FormError, OnnxError) as error:
        raise OnnxError(f"{path}: {error}") from error


def from_model(model: onnx.ModelProto, name: str | None = None, normalization: Normalization | None = None) -> Graph:
    """Returns the integer graph of a QDQ model with one picture input and one output.

    The picture is uint8 [N, H, W, C] (followed by a Transpose) or [N, C, H, W]. A float picture needs `normalization`,
    because the file does not tell it. Raises OnnxError naming the node, what was expected, what it has and what to do.
    """
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, TypeError, RuntimeError) as error:
        raise OnnxError(f"model: expected one that onnx.checker accepts, got: {str(error)[:MOST_WORDS]}") from error
    try:
        return _graph(Reader(model, normalization), name or model.graph.name or "network")
    except GraphError as error:
        raise OnnxError(f"model: its integers cannot be computed exactly: {error}") from error


def _graph(reader: Reader, name: str) -> Graph:
    """Reads the nodes that the output needs, in order."""
    model = reader.model
    for initializer in model.graph.initializer:
        with _damage_reported(f"initializer {initializer.name}"):
            reader.values[initializer.name] = read_tensor(initializer)
    require_quantized(model.graph.node)
    outputs = [o.name for o in model.graph.output]
    require(len(outputs) == 1, "model", "one output", outputs)
    picture = open_picture(reader)
    for node in _needed(model, outputs[0]):
        if node.output[0] not in reader.values:
            with _damage_reported(place_of(node)):
                reader.values.update(zip(node.output, _read(reader, node), strict=False))
    with _damage_reported("output"):
        output = _output(reader, outputs[0])
    with _damage_reported("model"):
        return halved(fused(Graph(name, reader.tensors, tuple(reader.nodes), picture, output)))


@contextmanager
def _damage_reported(where: str) -> Iterator[None]:
    """Values of the wrong type or shape, which only a damaged file has, become an OnnxError that names the node."""
    try:
        yield
    except (FormError, OnnxError, GraphError):
        raise
    except DAMAGES as error:
        raise OnnxError(
            f"{where}: expected operands and attributes as ONNX defines them, got {type(error).__name__}: "
            f"{error}; check the file with onnx.checker.check_model(model, full_check=True)"
        ) from error


def _needed(model: onnx.ModelProto, output: str) -> list[onnx.NodeProto]:
    """Nodes that the output depends on, in the file's (topological) order."""
    names = {output}
    needed = []
    for node in reversed(model.graph.node):
        if names & set(node.output):
            needed.append(node)
            names |= set(node.input)
    return needed[::-1]


def _read(reader: Reader, proto: onnx.NodeProto) -> tuple[Value, ...]:
    """The values of a node's outputs."""
    where = place_of(proto)
    require(proto.domain in ("", "ai.onnx"), where, "an operator of standard ONNX", f"domain {proto.domain}")
    for name in proto.input:
        computed = not name or name in reader.values
        require(computed, where, "inputs computed before it", f"{name!r}, which nothing computes")
    inputs = tuple(reader.values[name] if name else None for name in proto.input)
    node = FileNode(proto, inputs, attributes_of(proto))
    if inputs and all(value is None or isinstance(value, Constant | Weights) for value in inputs):
        return (fold(node),)
    if node.kind not in READERS:
        advice = "rewrite the network without it, or leave it out of the exported part"
        raise refusal(where, f"one of {', '.join(READERS)}", node.kind, advice)
    value = READERS[node.kind](reader, node)
    if value is None:
        raise refusal(where, "an input", "none")
    return value if isinstance(value, tuple) else (value,)


def _output(reader: Reader, name: str) -> str:
    """The graph's tensor of the model's output."""
    where = f"output tensor {name!r}"
    value = reader.values.get(name)
    if value is None:
        raise refusal(where, "something that computes it", "nothing")
    h, w, _ = reader.shape_of(value, where)
    if not isinstance(value, Codes | Real | Pending):
        raise refusal(where, "a feature map", describe(value))
    if isinstance(value, PendingMove) and isinstance(value.source, str) and not value.clamped:
        whole = np.array_equal(value.index.reshape(-1), np.arange(int(np.prod(value.source_shape))))
        require(whole, where, "scores in the order of a map in NHWC", "moved values")
        return value.source
    one_score_per_class = (h, w) == (1, 1) or value.layout == "NHWC"
    require(one_score_per_class, where, "one score per class, or a map in NHWC", f"a map {h}x{w}")
    if isinstance(value, Codes | Real):
        return value.name
    reader.append([emit_logits(reader.tensors, value, name, where)])
    return name
