"""Reads a float ONNX file as a network of the fewest operators: batch norms and constants folded, shapes fixed.

onnxruntime's basic optimizations do what they can (they keep standard operators and are meant to be saved); the rest,
which it leaves or does not know, is rewritten here. Every rewriting keeps the function in real numbers.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from compile.calibrate.executor import OPSET
from compile.calibrate.network import FloatNetwork, make_node, require_operators, with_inputs
from compile.calibrate.settings import CalibrationError
from compile.qdq.node import attributes_of, place_of

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear")
WITHOUT_EFFECT = ("Identity", "Dropout")


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
        raise CalibrationError(f"{path}: expected a sound float network, onnxruntime cannot take it: {message}") from error
    network = _network(path, inferred, channels_last=shape[1] != 3)
    for rewrite in REWRITES:
        network = rewrite(network)
    network = _without_unused(network)
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


def _renamed(network: FloatNetwork, nodes: Sequence[onnx.NodeProto], names: dict[str, str]) -> FloatNetwork:
    """The network of these nodes, where tensors that are gone are read under their new names."""

    def final(name: str) -> str:
        while name in names:
            name = names[name]
        return name

    renamed = tuple(with_inputs(node, [final(name) for name in node.input]) for node in nodes)
    return replace(network, nodes=renamed, picture=final(network.picture), output=final(network.output))


def _without_effect(network: FloatNetwork) -> FloatNetwork:
    """Leaves Identity and Dropout out, and a Softmax at the end, which changes no order of the classes."""
    gone = {}
    for node in network.nodes:
        last = node.op_type in ("Softmax", "LogSoftmax") and node.output[0] == network.output
        if node.op_type in WITHOUT_EFFECT or last:
            gone[node.output[0]] = node.input[0]
    return _renamed(network, [node for node in network.nodes if node.output[0] not in gone], gone)


def _channels_first(network: FloatNetwork) -> FloatNetwork:
    """Takes the Transpose of a picture [N, H, W, 3] away: the picture comes as [N, 3, H, W]."""
    if not network.channels_last:
        return network
    first = network.only_user(network.picture)
    if first is None or first.op_type != "Transpose" or list(attributes_of(first)["perm"]) != [0, 3, 1, 2]:
        raise CalibrationError(
            f"input tensor {network.picture!r}: expected a Transpose to [N, 3, H, W] after a picture [N, H, W, 3]; "
            "export the network with channels first"
        )
    nodes = [node for node in network.nodes if node is not first]
    return replace(network, nodes=tuple(nodes), picture=first.output[0])


def _any_batch(network: FloatNetwork) -> FloatNetwork:
    """Lets every Reshape of one picture [1, ...] take any number of pictures."""
    constants = dict(network.constants)
    nodes = []
    for node in network.nodes:
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and shape.size and int(shape[0]) in (1, -1) and network.data_inputs(node):
            name = f"{node.output[0]}/shape"
            target = network.shapes[node.output[0]]
            constants[name] = np.array([0, *target[1:]], np.int64)
            node = with_inputs(node, [node.input[0], name])
        nodes.append(node)
    return replace(network, nodes=tuple(nodes), constants=constants)


def _layers_alike(network: FloatNetwork) -> FloatNetwork:
    """Turns MatMul and Gemm into Gemm of weights [O, I], and BatchNormalization into a 1x1 depthwise Conv."""
    constants = dict(network.constants)
    nodes = []
    for node in network.nodes:
        if node.op_type in ("MatMul", "Gemm"):
            node = _as_gemm(network, node, constants)
        elif node.op_type == "BatchNormalization":
            node = _as_conv(network, node, constants)
        nodes.append(node)
    return replace(network, nodes=tuple(nodes), constants=constants)


def _as_gemm(network: FloatNetwork, node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> onnx.NodeProto:
    attributes = attributes_of(node)
    weight = constants.get(node.input[1])
    if weight is None or weight.ndim != 2 or attributes.get("transA", 0) or len(network.shapes[node.input[0]]) != 2:
        raise CalibrationError(
            f"{place_of(node)}: expected a matrix of constant weights and an input [N, channels], got others; "
            "networks of attention are not taken"
        )
    name = node.output[0]
    matrix = weight if attributes.get("transB", 0) else weight.T
    constants[f"{name}/weight"] = np.ascontiguousarray(matrix * np.float32(attributes.get("alpha", 1.0)))
    inputs = [node.input[0], f"{name}/weight"]
    if len(node.input) > 2 and node.input[2]:
        bias = constants[node.input[2]] * np.float32(attributes.get("beta", 1.0))
        constants[f"{name}/bias"] = np.broadcast_to(bias.reshape(-1), (len(matrix),)).copy()
        inputs.append(f"{name}/bias")
    gemm = make_node("Gemm", inputs, name, transB=1)
    gemm.name = node.name
    return gemm


def _as_conv(network: FloatNetwork, node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> onnx.NodeProto:
    name, (gain, offset, mean, variance) = node.output[0], (constants[n].astype(np.float64) for n in node.input[1:5])
    if len(network.shapes[node.input[0]]) != 4:
        raise CalibrationError(f"{place_of(node)}: expected a map [N, C, H, W], got {network.shapes[node.input[0]]}")
    factor = gain / np.sqrt(variance + attributes_of(node).get("epsilon", 1e-5))
    constants[f"{name}/weight"] = factor.astype(np.float32).reshape(-1, 1, 1, 1)
    constants[f"{name}/bias"] = (offset - factor * mean).astype(np.float32)
    inputs = [node.input[0], f"{name}/weight", f"{name}/bias"]
    conv = make_node("Conv", inputs, name, kernel_shape=[1, 1], group=len(factor))
    conv.name = node.name
    return conv


def _with_biases(network: FloatNetwork) -> FloatNetwork:
    """Makes the bias of a Gemm of an Add of a constant after it."""
    constants, names = dict(network.constants), dict[str, str]()
    changed: dict[str, onnx.NodeProto] = {}
    for node in network.nodes:
        data = network.data_inputs(node)
        if node.op_type != "Add" or len(data) != 1 or data[0] not in network.producers:
            continue
        layer = network.producers[data[0]]
        shift = constants[next(n for n in node.input if n not in data)]
        if layer.op_type == "Gemm" and network.only_user(data[0]) is node and shift.size == len(network.weight(layer)):
            constants[f"{node.output[0]}/bias"] = network.bias(layer) + shift.reshape(-1).astype(np.float32)
            fused = with_inputs(layer, [*layer.input[:2], f"{node.output[0]}/bias"])
            fused.output[0] = node.output[0]
            changed[layer.output[0]] = fused
            names[data[0]] = node.output[0]
    nodes = [changed.get(n.output[0], n) for n in network.nodes if n.output[0] not in names.values()]
    return _renamed(replace(network, constants=constants), nodes, names)


def _without_unused(network: FloatNetwork) -> FloatNetwork:
    """Leaves out what the output does not need."""
    needed, nodes = {network.output}, []
    for node in reversed(network.nodes):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    constants = {name: array for name, array in network.constants.items() if name in needed}
    return replace(network, nodes=tuple(nodes[::-1]), constants=constants)


REWRITES: tuple[Callable[[FloatNetwork], FloatNetwork], ...] = (
    _without_effect,
    _channels_first,
    _any_batch,
    _layers_alike,
    _with_biases,
)
