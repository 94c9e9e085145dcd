"""A float classifier as nodes over named tensors, which every step of a calibration reads and rewrites."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compile.calibrate.errors import CalibrationError
from compile.qdq.node import attributes_of, place_of

LAYERS = ("Conv", "Gemm")  # operators with weights: weights are input 1, [O, I / groups, kH, kW] or [O, I]
CLAMPS = ("Relu", "Clip")
# Operators whose results are values of their input, and so keep its scale.
MOVERS = (
    *("MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"),
    *("Slice", "Split", "Pad", "Resize", "DepthToSpace", "SpaceToDepth", "Gather"),
)
# Functions of one value, which the compiler makes tables of.
FUNCTIONS = ("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "LeakyRelu", "Elu", "Gelu", "Mish", "Softplus", "Erf")
MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
COPY = "Identity"  # a tensor once more, in other codes
OPERATORS = (*LAYERS, *CLAMPS, *MOVERS, *FUNCTIONS, *MEANS, COPY, "Add", "Mul", "Concat")


@dataclass(frozen=True, eq=False)
class FloatNetwork:
    """Nodes in running order, from a picture float32 [N, 3, H, W] to logits [N, classes, ...].

    constants: by name; weights float32. shapes: of every tensor, for one picture. channels_last: whether the file
    takes its picture as [N, H, W, 3].
    """

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, np.ndarray] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    picture: str
    output: str
    channels_last: bool = False

    @cached_property
    def users(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read a tensor, by its name."""
        users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(self.data_inputs(node)):
                users[name].append(node)
        return users

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that computes a tensor, by its name."""
        return {name: node for node in self.nodes for name in node.output}

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Returns the names of a node's inputs that depend on the picture."""
        return [name for name in node.input if name and name not in self.constants]

    def only_user(self, name: str) -> onnx.NodeProto | None:
        """Returns the one node that reads a tensor; None where several do, or it is the output."""
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and name != self.output else None

    def weight(self, node: onnx.NodeProto) -> np.ndarray:
        """Returns a layer's weights, float32 [O, ...]."""
        return self.constants[node.input[1]]

    def bias(self, node: onnx.NodeProto) -> np.ndarray:
        """Returns a layer's bias, float32 [O]; zeros where the node has none."""
        if len(node.input) > 2 and node.input[2]:
            return self.constants[node.input[2]]
        return np.zeros(len(self.weight(node)), np.float32)

    def with_layers(self, changed: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> "FloatNetwork":
        """Returns the network with other weights [O, ...] and biases [O] of the layers that compute these tensors."""
        constants = dict(self.constants)
        nodes = []
        for node in self.nodes:
            if node.output[0] in changed:
                names = [f"{node.output[0]}/weight", f"{node.output[0]}/bias"]
                constants.update(zip(names, (np.float32(a) for a in changed[node.output[0]]), strict=True))
                node = with_inputs(node, [node.input[0], *names])
            nodes.append(node)
        return replace(self, nodes=tuple(nodes), constants=constants)


def with_inputs(node: onnx.NodeProto, inputs: Iterable[str]) -> onnx.NodeProto:
    """Returns a copy of a node that reads other tensors."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(inputs)
    return copy


def make_node(kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """Returns a node of standard ONNX that is named after its output."""
    return helper.make_node(kind, list(inputs), [output], name=output, **attributes)


def groups_of(node: onnx.NodeProto) -> int:
    """Returns the number of groups of a layer's channels."""
    return int(attributes_of(node).get("group", 1))


def clip_limits(network: FloatNetwork, node: onnx.NodeProto) -> tuple[float, float]:
    """Returns the smallest and largest value that a Relu or Clip leaves."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    names = [*list(node.input[1:3]), "", ""]
    low, high = (float(network.constants[name].reshape(())) if name else None for name in names[:2])
    return (-np.inf if low is None else low), (np.inf if high is None else high)


def require_operators(network: FloatNetwork) -> None:
    """Raises CalibrationError for an operator that cannot be quantized, which it names with its node."""
    for node in network.nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise CalibrationError(
                f"{place_of(node)}: expected one of {', '.join(sorted(OPERATORS))}, got "
                f"{node.domain + ':' if node.domain else ''}{node.op_type}; rewrite the network without it, or leave "
                "it out of the exported part"
            )
        if node.op_type in LAYERS and any(name and name not in network.constants for name in node.input[1:]):
            raise CalibrationError(f"{place_of(node)}: expected constant weights and bias, got computed ones")
        if node.op_type in ("Add", "Mul") and len(network.data_inputs(node)) < len(node.input):
            raise CalibrationError(
                f"{place_of(node)}: expected two computed operands, got a constant that no layer before it could take "
                "in; fold it into a layer"
            )
