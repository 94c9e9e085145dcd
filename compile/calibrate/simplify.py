"""Reads a float ONNX file as a network of the fewest operators: batch norms and constants folded, shapes fixed.

onnxruntime's basic optimizations do what they can (they keep standard operators and are meant to be saved); the rest,
which it leaves or does not know, is rewritten in rewrites.py. All of it keeps the function in real numbers.
"""

import tempfile
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from compile.calibrate.errors import CalibrationError
from compile.calibrate.executor import OPSET
from compile.calibrate.network import FloatNetwork, require_operators
from compile.calibrate.rewrites import REWRITES
from compile.qdq.node import attributes_of

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear")


def read_float(path: Path, size: int | None = None) -> FloatNetwork:
    """Returns the network of a float ONNX file with one picture and one output.

    size: height and width of the picture where the file leaves them open. Raises CalibrationError for a file that is
    no float classifier, or has operators that cannot be quantized.
    """
    model = _load(path)
    entry = _require_classifier(path, model)
    shape = _fix_shape(path, entry, size)
    try:
        optimized = _optimized(_at_opset(model))
        inferred = onnx.shape_inference.infer_shapes(optimized, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx and onnxruntime have errors of many kinds for files that are not sound
        message = " ".join(str(error).split())[:300]
        raise CalibrationError(
            f"{path}: expected a sound float network, onnxruntime cannot take it: {message}"
        ) from error
    network = _network(path, inferred, channels_last=shape[1] != 3)
    for rewrite in REWRITES:
        network = rewrite(network)
    require_operators(network)
    return network


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise CalibrationError(f"{path}: expected an ONNX file, got one that cannot be read ({error})") from error
    quantized = sorted({node.op_type for node in model.graph.node} & set(QUANTIZED))
    if quantized:
        raise CalibrationError(
            f"{path}: expected a float network, got a quantized one ({', '.join(quantized)}); leave --calibrate out"
        )
    return model


def _require_classifier(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The model's one input."""
    constants = {c.name for c in model.graph.initializer}
    entries = [entry for entry in model.graph.input if entry.name not in constants]
    kinds = [(entry.name, entry.type.tensor_type.elem_type) for entry in entries]
    if len(kinds) != 1 or kinds[0][1] != TensorProto.FLOAT:
        raise CalibrationError(f"{path}: expected one input, a float32 picture, got {[name for name, _ in kinds]}")
    if len(model.graph.output) != 1:
        raise CalibrationError(f"{path}: expected one output, got {[o.name for o in model.graph.output]}")
    return entries[0]


def _fix_shape(path: Path, entry: onnx.ValueInfoProto, size: int | None) -> tuple[int, ...]:
    """Fixes the input at one picture of the size that the file or --size says; returns the shape."""
    dims = entry.type.tensor_type.shape.dim
    known = [d.dim_value for d in dims]
    last = len(known) == 4 and known[1] != 3 and known[3] == 3
    if len(known) != 4 or (known[1] != 3 and not last):
        raise CalibrationError(f"{path}: expected a picture [N, 3, H, W] or [N, H, W, 3], got {known}")
    sides = known[1:3] if last else known[2:4]
    if size is not None and any(side not in (0, size) for side in sides):
        raise CalibrationError(f"{path}: --size {size}: expected the file's own size, {sides}; leave --size out")
    height, width = (side or size or 0 for side in sides)
    if not height or not width:
        raise CalibrationError(f"{path}: expected a height and width, the file leaves them open; give --size N")
    shape = (1, height, width, 3) if last else (1, 3, height, width)
    for dim, value in zip(dims, shape, strict=True):
        dim.dim_value = value
    return shape


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the operators' version that the quantized file has; shapes of one picture are inferred anew."""
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    return model if version == OPSET else onnx.version_converter.convert_version(model, OPSET)


def _optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxruntime's basic optimizations make of a model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _network(path: Path, model: onnx.ModelProto, channels_last: bool) -> FloatNetwork:
    """The nodes of a model; Constant nodes become constants, and every node has a name."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = attributes_of(node)
        if node.op_type == "Constant" and "value" in attributes:
            constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
            continue
        node.name = node.name or node.output[0]
        nodes.append(node)
    shapes = {
        info.name: tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
        for info in (*graph.value_info, *graph.input, *graph.output)
    }
    (picture,) = (entry.name for entry in graph.input if entry.name not in constants)
    return FloatNetwork(path.stem, tuple(nodes), constants, shapes, picture, graph.output[0].name, channels_last)
