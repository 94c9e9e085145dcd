"""The ladder of an imported file: onnxruntime BASIC against the integers, node by node and from picture to class."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from compile.qdq.normalization import Normalization
from targets.reference import interpreter
from targets.reference.graph import Graph

LEVELS = (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
CHUNK = 250  # pictures that run together


@dataclass(frozen=True, eq=False)
class Agreement:
    """How near imported integers are to onnxruntime.

    differing_codes: share of codes that differ when each node alone is fed with onnxruntime's own codes. same_class:
    share of pictures. steps: the largest difference of a logit, in steps of the logits' scale. onnxruntime, integers:
    the class of each picture, int64 [N].
    """

    differing_codes: float
    same_class: float
    steps: float
    onnxruntime: np.ndarray
    integers: np.ndarray


def session(model: onnx.ModelProto, level=LEVELS[1]) -> onnxruntime.InferenceSession:
    """Returns a session of one thread at that level of optimization."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def run_float(model: onnx.ModelProto, u8: np.ndarray, normalization: Normalization) -> dict[str, np.ndarray]:
    """Returns what each DequantizeLinear gives in onnxruntime BASIC [N, ...], by the name of its codes.

    The output is there under "".
    """
    model, output = onnx.ModelProto.FromString(model.SerializeToString()), model.graph.output[0].name
    real = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    constants = {t.name for t in model.graph.initializer} | {
        n.output[0] for n in model.graph.node if n.input[0].startswith("c")
    }
    real = {codes: name for codes, name in real.items() if codes not in constants} | {"": output}
    for name in set(real.values()) - {output}:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    opened, x = session(model), normalization.floats(u8)
    return {
        k: np.concatenate([opened.run([v], {"x": x[i : i + CHUNK]})[0] for i in range(0, len(x), CHUNK)])
        for k, v in real.items()
    }


def count_differing_codes(graph: Graph, floats: dict[str, np.ndarray], u8: np.ndarray) -> tuple[int, int]:
    """Returns (differing, all) codes when each node alone is fed with onnxruntime's own codes; none is off by two.

    floats: as run_float gives them; u8: pictures [N, H, W, C].
    """
    values, differing, total = {graph.input: u8}, 0, 0
    for name in floats.keys() & graph.tensors.keys():
        t = graph.tensors[name]
        real = floats[name].reshape(len(u8), t.shape[2], *t.shape[:2]).transpose(0, 2, 3, 1)
        values[name] = (np.rint(real / np.float64(t.scale)) + t.zero_point[0]).astype(np.uint8)
    for node in graph.nodes:
        known = graph.tensors[node.output].bits <= 8 and node.output in values
        codes = interpreter.compute(graph, node, values)
        if known:
            apart = np.abs(codes.astype(np.int64) - values[node.output])
            assert apart.max() <= 1, (node.name, apart.max())
            differing, total = differing + int(apart.sum()), total + apart.size
        values.setdefault(node.output, codes)
    return differing, total


def compare(model: onnx.ModelProto, graph: Graph, u8: np.ndarray, normalization: Normalization) -> Agreement:
    """Compares imported integers with onnxruntime BASIC on pictures [N, H, W, C]."""
    floats = run_float(model, u8, normalization)
    differing, total = count_differing_codes(graph, floats, u8)
    rows = [interpreter.run(graph, u8[i : i + CHUNK]) for i in range(0, len(u8), CHUNK)]
    integers = np.concatenate(rows).astype(np.int64)
    out = graph.tensors[graph.output]
    zero_point = 0 if out.bits == 32 else out.zero_point[0]
    steps = np.abs(floats[""] / np.float64(out.scale) - (integers - zero_point))
    classes = floats[""].argmax(1)
    return Agreement(
        differing / total,
        float((classes == integers.argmax(1)).mean()),
        float(steps.max()),
        classes,
        integers.argmax(1),
    )
