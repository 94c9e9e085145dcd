"""The ladder of an imported file: onnxruntime BASIC against the integers, node by node and from picture to class."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from targets.reference import interpreter
from targets.reference.graph import Graph

LEVELS = (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)


def session(model: onnx.ModelProto, level=LEVELS[1]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 3, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def as_floats(u8: np.ndarray, normalization) -> np.ndarray:
    """float32 [N, C, H, W] of pictures uint8 [N, H, W, C]."""
    mean, std = (np.asarray(v, np.float64) for v in normalization)
    return np.ascontiguousarray(((u8 / 255 - mean) / std).transpose(0, 3, 1, 2)).astype(np.float32)


def run_float(model: onnx.ModelProto, u8: np.ndarray, normalization) -> dict[str, np.ndarray]:
    """What each DequantizeLinear gives in onnxruntime BASIC, by the name of its codes, and the output by ""."""
    model, output = onnx.ModelProto.FromString(model.SerializeToString()), model.graph.output[0].name
    real = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    constants = {t.name for t in model.graph.initializer} | {
        n.output[0] for n in model.graph.node if n.input[0].startswith("c")
    }
    real = {codes: name for codes, name in real.items() if codes not in constants} | {"": output}
    for name in set(real.values()) - {output}:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    opened, x = session(model), as_floats(u8, normalization)
    return {
        k: np.concatenate([opened.run([v], {"x": x[i : i + 250]})[0] for i in range(0, len(x), 250)])
        for k, v in real.items()
    }


def nodes_differing(graph: Graph, floats: dict, u8: np.ndarray) -> tuple[int, int]:
    """(differing, all) codes when each node alone is fed with onnxruntime's own codes; none may be off by two."""
    values, differing, total = {graph.input: u8}, 0, 0
    for name in floats.keys() & graph.tensors.keys():
        t = graph.tensors[name]
        real = floats[name].reshape(len(u8), t.shape[2], *t.shape[:2]).transpose(0, 2, 3, 1)
        values[name] = (np.rint(real / np.float64(t.scale)) + t.zero_point[0]).astype(np.uint8)
    for node in graph.nodes:
        known = graph.tensors[node.output].bits <= 8 and node.output in values
        codes = interpreter._NODES[type(node)](graph, node, values)
        if known:
            apart = np.abs(codes.astype(np.int64) - values[node.output])
            assert apart.max() <= 1, (node.name, apart.max())
            differing, total = differing + int(apart.sum()), total + apart.size
        values.setdefault(node.output, codes)
    return differing, total


def ladder(model: onnx.ModelProto, graph: Graph, u8: np.ndarray, normalization) -> dict:
    """Imported integers against onnxruntime BASIC: node by node, then from picture to class."""
    floats = run_float(model, u8, normalization)
    differing, total = nodes_differing(graph, floats, u8)
    integers = np.concatenate([interpreter.run(graph, u8[i : i + 250]) for i in range(0, len(u8), 250)]).astype(
        np.int64
    )
    out = graph.tensors[graph.output]
    steps = np.abs(floats[""] / np.float64(out.scale) - (integers - (0 if out.bits == 32 else out.zero_point[0])))
    return {
        "differing codes": differing / total,
        "same class": float((floats[""].argmax(1) == integers.argmax(1)).mean()),
        "steps": float(steps.max()),
        "onnxruntime": floats[""].argmax(1),
        "integers": integers.argmax(1),
    }
