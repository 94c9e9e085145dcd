"""Other engines on the same network: onnxruntime, and OpenVINO where it is installed; float32 and 8 bits.

onnxruntime is quantized by its own tool, OpenVINO by nncf; both in QDQ form, per channel, calibrated on the same few
pictures. A peer's fast answers are exact where they are those of onnxruntime at BASIC optimization on the same file,
which computes float32 operators one after the other and rounds to codes exactly where the file says so.
"""

import contextlib
import copy
import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime import quantization

Run = Callable[[np.ndarray], np.ndarray]  # picture float32 [1, C, H, W] -> logits [1, classes]
FAST, BASIC = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
TOLERANCE = 1e-3  # of the largest logit: float32 sums in another order, far below a quantization step
OPENVINO = ("openvino", "nncf")  # packages


@dataclass(frozen=True)
class Peer:
    """An engine with the file that it runs, and the answers [N, classes] that it should give."""

    engine: str
    bits: str
    path: Path
    answers: np.ndarray

    def start(self, threads: int) -> Run:
        return {"onnxruntime": run_onnxruntime, "openvino": run_openvino}[self.engine](self.path, threads)


def missing() -> list[str]:
    """Packages of peers that are not installed."""
    return [name for name in OPENVINO if find_spec(name) is None]


def peers(model: onnx.ModelProto, pictures: np.ndarray, folder: Path) -> list[Peer]:
    """All peers on the float32 network inside a QDQ file of ours; pictures uint8 [N, H, W, C] to calibrate and compare
    with. Writes the peers' files into the folder."""
    network, floats = float_network(model), as_floats(model, pictures)
    onnx.checker.check_model(network)
    files = {"fp32": folder / "fp32.onnx"}
    onnx.save(network, files["fp32"])
    with _quietly():
        files |= quantized(files["fp32"], floats, folder)
        if not missing():
            files["int8"] = quantized_by_nncf(network, floats, folder)
    answers = {bits: answered(run_onnxruntime(path, 1, BASIC), floats) for bits, path in files.items()}
    engines = [("onnxruntime", bits) for bits in files if bits != "int8"]
    engines += [("openvino", bits) for bits in ("fp32", "int8")] * (not missing())
    return [Peer(engine, bits, files[bits], answers[bits]) for engine, bits in engines]


def answered(run: Run, floats: np.ndarray) -> np.ndarray:
    """Logits [N, classes] of pictures float32 [N, C, H, W], one at a time."""
    return np.concatenate([run(x[None]) for x in floats])


def difference(answers: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest logit."""
    return float(np.abs(answers - expected).max() / np.abs(expected).max())


def as_floats(model: onnx.ModelProto, pictures: np.ndarray) -> np.ndarray:
    """float32 [N, C, H, W]: what the first DequantizeLinear of our files makes of pictures uint8 [N, H, W, C]."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in constants)
    scale, zero = (constants[name].astype(np.float32) for name in first.input[1:3])
    return np.ascontiguousarray(((pictures - zero) * scale).transpose(0, 3, 1, 2), np.float32)


def float_network(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 network inside a QDQ file of ours: weights dequantized, activations never quantized, float input.

    Raises ValueError for a file whose picture is not bytes, as other tools make them.
    """
    if model.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        raise ValueError(
            f"{model.graph.name}: expected a file that takes a uint8 picture, which bitgrade's training "
            "makes; build the bundle from such a run to compare it with other engines"
        )
    constants = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}
    alias, nodes, weights, picture = {}, [], [], None
    for node in model.graph.node:
        source = alias.get(node.input[0], node.input[0])
        if node.op_type == "DequantizeLinear" and source in constants:
            real = _dequantized(constants[source], constants[node.input[1]])
            weights.append(numpy_helper.from_array(real, node.output[0]))
        elif node.op_type in ("Transpose", "Cast") or (node.op_type == "DequantizeLinear" and picture is None):
            alias[node.output[0]] = source
            picture = node.output[0] if node.op_type == "DequantizeLinear" else picture
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            alias[node.output[0]] = source
        elif node.op_type in ("Clip", "Relu") and (source in constants or source != node.input[0]):
            alias[node.output[0]] = source  # of a Rescale, or of codes in a container that is too wide
        else:
            nodes.append(copy.copy(node))
            nodes[-1].input[:] = [alias.get(name, name) for name in node.input]
    used = {name for node in nodes for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used] + weights
    _, h, w, c = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    entry = helper.make_tensor_value_info(model.graph.input[0].name, onnx.TensorProto.FLOAT, [1, c, h, w])
    graph = helper.make_graph(nodes, "float", [entry], list(model.graph.output), kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _dequantized(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (codes * scale.reshape(scale.shape + (1,) * (codes.ndim - scale.ndim))).astype(np.float32)


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self, name: str, pictures: np.ndarray):
        self.rows = iter([{name: p[None]} for p in pictures])

    def get_next(self):
        return next(self.rows, None)


def quantized(path: Path, floats: np.ndarray, folder: Path) -> dict[str, Path]:
    """bits -> file: onnxruntime's quantizations, with signed weights (fast) and with unsigned ones (exact)."""
    name, kinds = onnx.load(path).graph.input[0].name, quantization.QuantType
    files = {}
    for bits, kind in (("int8-u8s8", kinds.QInt8), ("int8-u8u8", kinds.QUInt8)):
        files[bits] = folder / f"{bits}.onnx"
        quantization.quantize_static(
            path,
            files[bits],
            _Calibration(name, floats),
            per_channel=True,
            activation_type=kinds.QUInt8,
            weight_type=kind,
            quant_format=quantization.QuantFormat.QDQ,
        )
    return files


def quantized_by_nncf(network: onnx.ModelProto, floats: np.ndarray, folder: Path) -> Path:
    """The file that OpenVINO's own quantizer makes for a CPU."""
    os.environ.setdefault("NNCF_CI", "1")  # its import would report its use to a server
    import nncf

    pictures = nncf.Dataset([{network.graph.input[0].name: x[None]} for x in floats])
    onnx.save(
        nncf.quantize(network, pictures, subset_size=len(floats), target_device=nncf.TargetDevice.CPU),
        folder / "int8.onnx",
    )
    return folder / "int8.onnx"


def run_onnxruntime(path: Path, threads: int, level=FAST) -> Run:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def run_openvino(path: Path, threads: int) -> Run:
    """One stream for latency; float32 stays float32, which would become bfloat16 where the processor has it."""
    import openvino

    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(str(path), "CPU", hints).create_infer_request()
    picture, logits = request.get_input_tensor(), request.get_output_tensor()

    def run(x: np.ndarray) -> np.ndarray:
        np.copyto(picture.data, x)
        request.infer()
        return logits.data.copy()

    return run


@contextlib.contextmanager
def _quietly():
    """Without the quantizers' progress bars and advice."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
