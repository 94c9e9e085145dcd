"""Rewrites a float network into fewer kinds of nodes; each rewriting keeps its function in real numbers."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from compile.calibrate.errors import CalibrationError
from compile.calibrate.network import FloatNetwork, make_node, with_inputs
from compile.qdq.node import attributes_of, place_of

WITHOUT_EFFECT = ("Identity", "Dropout")


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


def _without_pads(network: FloatNetwork) -> FloatNetwork:
    """Takes every Pad of zero pixels into the convolutions that read it, and auto_pad into pads."""
    network = replace(network, nodes=tuple(_explicit_pads(network, node) for node in network.nodes))
    names: dict[str, str] = {}
    nodes = []
    for node in network.nodes:
        pads = _pixels_around(network, node)
        readers = network.users.get(node.output[0], [])
        if pads is not None and all(user.op_type == "Conv" for user in readers) and node.output[0] != network.output:
            names[node.output[0]] = node.input[0]
            continue
        before = network.producers.get(node.input[0])
        around = None if before is None else _pixels_around(network, before)
        if node.op_type == "Conv" and around is not None and node.input[0] in names:
            own = attributes_of(node).get("pads", [0, 0, 0, 0])
            node = _with_pads(node, [p + q for p, q in zip(own, around, strict=True)])
        nodes.append(node)
    return _renamed(network, nodes, names)


def _pixels_around(network: FloatNetwork, node: onnx.NodeProto) -> list[int] | None:
    """[top, left, bottom, right] of a Pad of zero pixels; None for other nodes."""
    if node.op_type != "Pad" or attributes_of(node).get("mode", b"constant") != b"constant":
        return None
    pads, value, axes = (network.constants.get(n) if n else None for n in [*node.input[1:], "", "", ""][:3])
    if pads is None or axes is not None or pads.size != 8 or pads.min() < 0 or (value is not None and np.any(value)):
        return None
    amounts = [int(p) for p in pads]
    return None if any(amounts[k] for k in (0, 1, 4, 5)) else [*amounts[2:4], *amounts[6:8]]


def _explicit_pads(network: FloatNetwork, node: onnx.NodeProto) -> onnx.NodeProto:
    """A convolution or pool whose auto_pad is pads (ONNX: SAME_UPPER puts what is odd at the end)."""
    attributes = attributes_of(node)
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto == b"NOTSET":
        return node
    if auto == b"VALID":
        return _with_pads(node, [0, 0, 0, 0])
    kernel = attributes.get("kernel_shape") or list(network.weight(node).shape[2:])
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    small, large = [], []
    for n, k, s, d in zip(network.shapes[node.input[0]][2:], kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small.append(total // 2)
        large.append(total - total // 2)
    return _with_pads(node, small + large if auto == b"SAME_UPPER" else large + small)


def _with_pads(node: onnx.NodeProto, pads: list[int]) -> onnx.NodeProto:
    """A copy of a node with these pads."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    kept = [a for a in copy.attribute if a.name not in ("pads", "auto_pad")]
    del copy.attribute[:]
    copy.attribute.extend([*kept, helper.make_attribute("pads", pads)])
    return copy


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
    _without_pads,
    _without_unused,
)
