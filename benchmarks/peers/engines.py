"""Other engines on the same network: onnxruntime, and OpenVINO where it is installed; float32 and 8 bits.

onnxruntime is quantized by its own tool, OpenVINO by nncf; both in QDQ form, per channel, calibrated on the same few
pictures. A peer's fast answers are exact where they are those of onnxruntime at BASIC optimization on the same file,
which computes float32 operators one after the other and rounds to codes exactly where the file says so.
"""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization

from benchmarks.peers.float_network import as_floats, float_network

PeerRun = Callable[[np.ndarray], np.ndarray]  # picture float32 [1, C, H, W] -> logits [1, classes]
FAST = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
BASIC = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
TOLERANCE = 1e-3  # of the largest logit: float32 sums in another order, far below a quantization step
OPENVINO = ("openvino", "nncf")  # packages


@dataclass(frozen=True, eq=False)
class Peer:
    """An engine with the file that it runs, and the answers [N, classes] that it should give."""

    engine: str
    bits: str
    path: Path
    answers: np.ndarray

    def start(self, threads: int) -> PeerRun:
        """Returns what runs the file on so many threads."""
        return {"onnxruntime": run_onnxruntime, "openvino": run_openvino}[self.engine](self.path, threads)


def missing_packages() -> list[str]:
    """Returns the packages of peers that are not installed."""
    return [name for name in OPENVINO if find_spec(name) is None]


def make_peers(model: onnx.ModelProto, pictures: np.ndarray, folder: Path) -> list[Peer]:
    """Returns all peers on the float32 network inside a QDQ file of ours, whose files are written into the folder.

    pictures: uint8 [N, H, W, C] to calibrate and compare with.
    """
    network, floats = float_network(model), as_floats(model, pictures)
    onnx.checker.check_model(network)
    files = {"fp32": folder / "fp32.onnx"}
    onnx.save(network, files["fp32"])
    has_openvino = not missing_packages()
    with _quietly():
        files |= quantize_by_onnxruntime(files["fp32"], floats, folder)
        if has_openvino:
            files["int8"] = quantize_by_nncf(network, floats, folder)
    answers = {bits: run_all(run_onnxruntime(path, 1, BASIC), floats) for bits, path in files.items()}
    engines = [("onnxruntime", bits) for bits in files if bits != "int8"]
    if has_openvino:
        engines += [("openvino", "fp32"), ("openvino", "int8")]
    return [Peer(engine, bits, files[bits], answers[bits]) for engine, bits in engines]


def run_all(run: PeerRun, floats: np.ndarray) -> np.ndarray:
    """Returns logits [N, classes] of pictures float32 [N, C, H, W], one at a time."""
    return np.concatenate([run(x[None]) for x in floats])


def largest_difference(answers: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference of logits [N, classes], as a share of the largest logit."""
    return float(np.abs(answers - expected).max() / np.abs(expected).max())


class _Calibration(quantization.CalibrationDataReader):
    """Pictures float32 [N, C, H, W], one after the other."""

    def __init__(self, name: str, pictures: np.ndarray):
        self.rows = iter([{name: p[None]} for p in pictures])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rows, None)


def quantize_by_onnxruntime(path: Path, floats: np.ndarray, folder: Path) -> dict[str, Path]:
    """Returns files by bits: onnxruntime's quantization with signed weights (fast) and with unsigned ones (exact).

    floats: pictures float32 [N, C, H, W] to calibrate with.
    """
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


def quantize_by_nncf(network: onnx.ModelProto, floats: np.ndarray, folder: Path) -> Path:
    """Returns the file that OpenVINO's own quantizer makes for a CPU; floats: pictures float32 [N, C, H, W]."""
    os.environ.setdefault("NNCF_CI", "1")  # its import would report its use to a server
    import nncf

    pictures = nncf.Dataset([{network.graph.input[0].name: x[None]} for x in floats])
    onnx.save(
        nncf.quantize(network, pictures, subset_size=len(floats), target_device=nncf.TargetDevice.CPU),
        folder / "int8.onnx",
    )
    return folder / "int8.onnx"


def run_onnxruntime(path: Path, threads: int, level: onnxruntime.GraphOptimizationLevel = FAST) -> PeerRun:
    """Returns what runs a file in onnxruntime at a level of optimization."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def run_openvino(path: Path, threads: int) -> PeerRun:
    """Returns what runs a file in OpenVINO, one stream for latency.

    float32 stays float32, which would become bfloat16 where the processor has it.
    """
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
def _quietly() -> Iterator[None]:
    """Without the quantizers' progress bars and advice."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
