"""Decides which tensors are quantized, which share a scale, and at how many bits.

Every tensor between two operators has a scale of its own, but for these:

* what a Relu or Clip reads, where nothing else does: its clamp is part of the quantizer behind it;
* the sums of a convolution that only an Add reads: the Add is made in the sums, with one rounding for both;
* a gate F(x) of x * F(x), F a function of one value (SiLU, HardSwish): the product is one function of x;
* what operators that only move values return: it keeps the scale of their input;
* what only Concats read: it has the scale of their results, so that they move codes alone;
* the logits of a last layer: they stay int32 sums.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from compile.calibrate.network import CLAMPS, COPY, FUNCTIONS, LAYERS, MOVERS, FloatNetwork, make_node, with_inputs
from compile.calibrate.settings import Widths

WITHOUT_QUANTIZER = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Pad")  # movers of no kernel


@dataclass(frozen=True)
class Placement:
    """Where quantizers stand.

    owner: by tensor, the one whose scale it has, itself in most cases; tensors that stay float are left out. written:
    tensors with a QuantizeLinear of their own. bits: by owner. weight_bits: by the tensor that a layer computes. open
    sums: by the tensor that an Add computes, the operand that stays float. logits: whether the output is int32 sums.
    """

    owner: Mapping[str, str]
    written: frozenset[str]
    bits: Mapping[str, int]
    weight_bits: Mapping[str, int]
    open_sums: Mapping[str, str]
    logits: bool


def place(network: FloatNetwork, widths: Widths) -> Placement:
    """Returns where quantizers of these widths stand in a network that `with_copies` has prepared for them."""
    open_sums = dict(_open_sums(network))
    logits = _logits(network)
    owner = _owners(network, set(open_sums.values()) | _inside(network), logits)
    written = {
        name
        for node in network.nodes
        for name in node.output
        if name in owner and node.op_type not in WITHOUT_QUANTIZER
    }
    layers = [node for node in network.nodes if node.op_type in LAYERS]
    ends = _last_layers(network)
    wide = {owner[network.picture]} | {owner[node.input[0]] for node in ends}
    bits = {}
    for name in dict.fromkeys(owner.values()):
        narrow = name not in wide and _read_by_layers_alone(network, owner, name)
        bits[name] = widths.activations if narrow else 8
    first = {node.output[0] for node in layers if owner[node.input[0]] == owner[network.picture]}
    outer = first | {node.output[0] for node in ends}
    weight_bits = {node.output[0]: 8 if node.output[0] in outer else widths.weights for node in layers}
    return Placement(owner, frozenset(written), bits, weight_bits, open_sums, bool(logits))


def with_copies(network: FloatNetwork, widths: Widths) -> FloatNetwork:
    """Returns the network with a copy of each tensor that layers read at fewer bits than its other readers do."""
    if widths.activations == 8:
        return network
    ends = {node.output[0] for node in _last_layers(network)}
    nodes: list[onnx.NodeProto] = []
    shapes = dict(network.shapes)
    copies: dict[str, str] = {}
    for node in network.nodes:
        name = node.input[0]
        inner = node.op_type in LAYERS and node.output[0] not in ends and name != network.picture
        if inner and any(user.op_type not in LAYERS for user in network.users[name]):
            if name not in copies:
                copies[name] = f"{name}/narrow"
                shapes[copies[name]] = shapes[name]
                nodes.append(make_node(COPY, [name], copies[name]))
            node = with_inputs(node, [copies[name], *node.input[1:]])
        nodes.append(node)
    return replace(network, nodes=tuple(nodes), shapes=shapes)


def _last_layers(network: FloatNetwork) -> list[onnx.NodeProto]:
    """Layers from which the output is reached through no other layer, means aside."""
    reached, ends = {network.output}, []
    for node in reversed(network.nodes):
        if reached & set(node.output):
            if node.op_type in LAYERS:
                ends.append(node)
            if node.op_type not in LAYERS or is_mean(network, node):
                reached |= set(network.data_inputs(node))
    return ends


def is_mean(network: FloatNetwork, layer: onnx.NodeProto) -> bool:
    """Whether all weights of a layer are equal, so that it only sums."""
    return float(np.ptp(network.weight(layer))) == 0


def _inside(network: FloatNetwork) -> set[str]:
    """Tensors that stay float because the operator behind them is part of the one before."""
    inside = set()
    for node in network.nodes:
        user = network.only_user(node.output[0])
        if user is None or len(node.output) > 1:
            continue
        clamped = user.op_type in CLAMPS and node.op_type not in MOVERS
        gate = user.op_type == "Mul" and node.op_type in FUNCTIONS and node.input[0] in user.input
        padded = node.op_type == "Pad" and user.op_type == "Conv"
        if clamped or gate or padded:
            inside.add(node.output[0])
    return inside


def _open_sums(network: FloatNetwork) -> Iterator[tuple[str, str]]:
    """(what an Add computes, its operand that stays the sum of a layer): the later of two that could."""
    order = {name: index for index, node in enumerate(network.nodes) for name in node.output}
    for node in network.nodes:
        if node.op_type != "Add" or len({network.shapes[name] for name in node.input}) > 1:
            continue
        layers = [
            name
            for name in dict.fromkeys(node.input)
            if name in network.producers
            and network.producers[name].op_type in LAYERS
            and network.only_user(name) is node
        ]
        if layers:
            yield node.output[0], max(layers, key=order.__getitem__)


def _logits(network: FloatNetwork) -> set[str]:
    """Tensors from a last layer to the output, where nothing but movers without kernels lies between; else none."""
    names = [network.output]
    while names[-1] in network.producers and network.producers[names[-1]].op_type in WITHOUT_QUANTIZER:
        names.append(network.producers[names[-1]].input[0])
    producer = network.producers.get(names[-1])
    return set(names) if producer is not None and producer.op_type in LAYERS else set()


def _owners(network: FloatNetwork, inside: set[str], logits: set[str]) -> dict[str, str]:
    """By tensor, the one whose scale it has."""
    owner = {network.picture: network.picture}
    for node in network.nodes:
        for name in node.output:
            if name in logits:
                continue
            if node.op_type in MOVERS:
                owner[name] = owner[node.input[0]]
            elif name not in inside:
                owner[name] = name
    for node in network.nodes:
        if node.op_type == "Concat":
            for name in node.input:
                _share(network, owner, name, node.output[0])
    return owner


def _share(network: FloatNetwork, owner: dict[str, str], name: str, result: str) -> None:
    """Gives what only Concats read the scale of their result."""
    source = owner[name]
    alike = [tensor for tensor, other in owner.items() if other == source]
    if source == network.picture or not all(_moved_into_concats(network, tensor) for tensor in alike):
        return
    for tensor in alike:
        owner[tensor] = owner[result]


def _moved_into_concats(network: FloatNetwork, name: str) -> bool:
    """Whether all that reads a tensor is Concats, or movers."""
    return all(user.op_type == "Concat" or user.op_type in MOVERS for user in network.users.get(name, []))


def _read_by_layers_alone(network: FloatNetwork, owner: Mapping[str, str], name: str) -> bool:
    """Whether all that reads the tensors of one scale is layers, movers aside, and Concats of that scale."""
    alike = [tensor for tensor, other in owner.items() if other == name]
    for tensor in alike:
        if tensor == network.output:
            return False
        for user in network.users.get(tensor, []):
            inner = user.op_type in (*MOVERS, "Concat") and owner.get(user.output[0], name) == name
            if not inner and user.op_type not in LAYERS:
                return False
    return True


def is_copy_of(network: FloatNetwork, name: str) -> bool:
    """Whether a tensor is a copy that `with_copies` has made."""
    return name in network.producers and network.producers[name].op_type == COPY
