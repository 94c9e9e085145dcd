"""What stands behind the logits: Softmax, Sigmoid, ArgMax and the like, which the runtime does on its own."""

from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import TensorProto, helper

from compile.forms.graph import DEQUANTIZE, QUANTIZE, FileGraph, FormError, attributes_of, input_of, is_standard

ScoreKind = Literal["softmax", "sigmoid"]

# operators that make scores or an answer of logits -> how the runtime makes scores; None: it tells nothing
KINDS: dict[str, ScoreKind | None] = {
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "QLinearSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
    "ArgMax": None,
}
CARRIERS = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", QUANTIZE, DEQUANTIZE)


@dataclass(frozen=True)
class Logits:
    """The value of the logits behind an output, the operator cut off it, and how scores are made of them.

    last: None where nothing is cut off.
    """

    value: str
    last: onnx.NodeProto | None = None
    kind: ScoreKind | None = None


def cut_scores(graph: FileGraph, output: str | None) -> ScoreKind | None:
    """Leaves the logits as the graph's one output; returns how scores are made of them, None where the file is silent.

    output: the name of one of several. Raises FormError where several outputs do not come from the same logits and none
    was named, and for a name that there is not.
    """
    names = graph.output_names
    if output is not None and output not in names:
        raise FormError(f"--output: expected one of the outputs {', '.join(names)}, got {output!r}")
    chosen = names if output is None else [output]
    behind = [_logits_of(graph, name) for name in chosen]
    if len({logits.value for logits in behind}) > 1:
        raise FormError(f"model: expected one output, got {', '.join(names)}; name the one of the logits with --output")
    logits = next((entry for entry in behind if entry.kind is not None), behind[0])
    if logits.last is None:
        graph.outputs = [entry for entry in graph.outputs if entry.name == logits.value]
    else:
        graph.outputs = [_new_output(graph, logits)]
    graph.sort()
    return logits.kind


def _logits_of(graph: FileGraph, output: str) -> Logits:
    """Follows an output up to the first operator that makes scores."""
    logits = Logits(output)
    name = output
    while (node := graph.producer(name)) is not None and node.op_type in (*KINDS, *CARRIERS):
        if node.op_type in KINDS and _is_over_classes(graph, node):
            logits = Logits(node.input[0], node, KINDS[node.op_type] or logits.kind)
        name = node.input[0]
    return logits


def _is_over_classes(graph: FileGraph, node: onnx.NodeProto) -> bool:
    """Whether the operator works along the last axis, or on every value alone."""
    axis = attributes_of(node).get("axis", 0 if node.op_type == "ArgMax" else -1)
    shape = graph.shapes.get(node.input[0])
    return KINDS[node.op_type] == "sigmoid" or shape is None or axis % len(shape) != 0 or len(shape) == 1


def _new_output(graph: FileGraph, logits: Logits) -> onnx.ValueInfoProto:
    """The output in place of the scores; codes that a quantized Softmax reads are dequantized."""
    node, name = logits.last, logits.value
    if node is not None and node.op_type.startswith("QLinear"):
        parameters = [input_of(node, 1), input_of(node, 2)]
        dequantize = graph.make(DEQUANTIZE, [name, *(p for p in parameters if p)], hint=name)
        graph.nodes.append(dequantize)
        graph.changed()
        name = dequantize.output[0]
    kind = graph.kinds.get(name) or TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, graph.shapes.get(name))


def is_score(node: onnx.NodeProto) -> bool:
    """Whether a node makes scores of logits."""
    return is_standard(node, *KINDS)
