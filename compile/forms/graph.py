"""An ONNX graph while its form is rewritten: nodes, constants by name, and who computes and reads what."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators
MICROSOFT = "com.microsoft"
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class FormError(ValueError):
    """The file has a form that cannot be taken; the message names the node, what was expected and what to do."""


class FileGraph:
    """The graph of a model, which is copied: passes change `nodes`, `inputs`, `outputs` and constants in place.

    nodes: any order that a pass leaves; `sort` makes it a running order of what the outputs need.
    """

    def __init__(self, model: onnx.ModelProto):
        self._rest = onnx.ModelProto()
        self._rest.CopyFrom(model)
        graph = self._rest.graph
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [entry for entry in graph.input if entry.name not in self.constants]
        self.outputs = list(graph.output)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, int] = {}
        self._names = {name for node in self.nodes for name in (*node.input, *node.output, node.name)}
        self._names |= {*self.constants, *(entry.name for entry in graph.input)}
        self._index: tuple[dict[str, onnx.NodeProto], dict[str, list[onnx.NodeProto]]] | None = None

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators that the file was written for."""
        return next((entry.version for entry in self._rest.opset_import if entry.domain in STANDARD), 1)

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs."""
        return [entry.name for entry in self.outputs]

    def model(self, opset: int | None = None) -> onnx.ModelProto:
        """Returns the model as it is now; opset: the version to stamp on it, None for its own."""
        model = onnx.ModelProto()
        model.CopyFrom(self._rest)
        graph = model.graph
        for field in ("node", "initializer", "input", "output", "value_info", "sparse_initializer"):
            graph.ClearField(field)
        graph.node.extend(self.nodes)
        graph.initializer.extend(self.constants.values())
        graph.input.extend(self.inputs)
        graph.output.extend(self.outputs)
        if opset is not None:
            kept = [entry for entry in model.opset_import if entry.domain not in STANDARD]
            del model.opset_import[:]
            model.opset_import.extend([helper.make_opsetid("", opset), *kept])
        return model

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Returns the node that computes a value; None for constants and inputs."""
        return self._indexed()[0].get(name)

    def users(self, name: str) -> list[onnx.NodeProto]:
        """Returns the nodes that read a value, each once."""
        return self._indexed()[1].get(name, [])

    def only_user(self, name: str) -> onnx.NodeProto | None:
        """Returns the one node that reads a value; None where several do, none does, or it is an output."""
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self.output_names else None

    def array(self, name: str) -> np.ndarray | None:
        """Returns the array [...] of a constant; None for other names."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def add_constant(self, hint: str, array: np.ndarray) -> str:
        """Adds a constant [...] and returns its name."""
        name = self.free_name(hint)
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def free_name(self, hint: str) -> str:
        """Returns a name that nothing bears, from now on taken."""
        name, count = hint, 0
        while name in self._names:
            count += 1
            name = f"{hint}_{count}"
        self._names.add(name)
        return name

    def make(
        self, kind: str, inputs: Sequence[str], output: str | None = None, hint: str = "", **attributes: Any
    ) -> onnx.NodeProto:
        """Returns a new standard node, which is not in the graph yet; output: its name, None for a free one."""
        name = self.free_name(f"{hint or output}/{kind}")
        return helper.make_node(kind, list(inputs), [output or self.free_name(f"{name}/y")], name=name, **attributes)

    def replace(self, old: Iterable[onnx.NodeProto], new: Sequence[onnx.NodeProto]) -> None:
        """Takes nodes out and puts others in the place of the first."""
        gone = {id(node) for node in old}
        at = next(i for i, node in enumerate(self.nodes) if id(node) in gone)
        before = [node for node in self.nodes[:at] if id(node) not in gone]
        self.nodes = [*before, *new, *(node for node in self.nodes[at:] if id(node) not in gone)]
        self.changed()

    def redirect(self, old: str, new: str) -> None:
        """Lets all that reads value `old` read `new`; an output of the graph keeps its name."""
        if old in self.output_names:
            self._rename(new, old)
            return
        for node in self.users(old):
            rewire(node, old, new)
        self.changed()

    def remove(self, node: onnx.NodeProto) -> None:
        """Takes out a node that changes nothing: its readers read its first input."""
        source = node.input[0]
        if node.output[0] in self.output_names and (
            source in self.output_names or source in self.constants or self.producer(source) is None
        ):
            return
        self.nodes = [other for other in self.nodes if other is not node]
        self.changed()
        self.redirect(node.output[0], source)

    def changed(self) -> None:
        """Must be called after nodes were changed in place."""
        self._index = None

    def sort(self) -> None:
        """Brings the nodes that the outputs need into a running order, and drops the others and their constants."""
        self.nodes = _running_order(self)
        read = {name for node in self.nodes for name in node.input} | set(self.output_names)
        self.constants = {name: tensor for name, tensor in self.constants.items() if name in read}
        self.changed()

    def infer(self) -> None:
        """Sets `shapes` and `kinds` (types of elements) of all values as far as onnx can tell; raises FormError."""
        try:
            model = onnx.shape_inference.infer_shapes(self.model(), data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise FormError(f"model: expected types and dimensions that fit together, onnx says: {error}") from error
        self.outputs = list(model.graph.output)  # with the shapes that were cleared
        entries = [*model.graph.input, *model.graph.value_info, *model.graph.output]
        tensors = {entry.name: entry.type.tensor_type for entry in entries}
        self.kinds = {name: tensor.elem_type for name, tensor in tensors.items()}
        self.kinds |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.shapes = {
            name: tuple(dim.dim_value for dim in tensor.shape.dim)
            for name, tensor in tensors.items()
            if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
        }
        self.shapes |= {name: tuple(tensor.dims) for name, tensor in self.constants.items()}

    def _rename(self, old: str, new: str) -> None:
        for node in self.nodes:
            rewire(node, old, new)
            for i, name in enumerate(node.output):
                if name == old:
                    node.output[i] = new
        self.changed()

    def _indexed(self) -> tuple[dict[str, onnx.NodeProto], dict[str, list[onnx.NodeProto]]]:
        if self._index is None:
            users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
            for node in self.nodes:
                for name in dict.fromkeys(node.input):
                    users[name].append(node)
            self._index = ({name: node for node in self.nodes for name in node.output if name}, users)
        return self._index


def _running_order(graph: FileGraph) -> list[onnx.NodeProto]:
    """Depth first from the outputs, without recursion, as deep networks exceed Python's stack."""
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    stack = [(node, False) for node in map(graph.producer, reversed(graph.output_names)) if node is not None]
    while stack:
        node, is_ready = stack.pop()
        if id(node) in done:
            continue
        if is_ready:
            done.add(id(node))
            ordered.append(node)
            continue
        stack.append((node, True))
        producers = (graph.producer(name) for name in reversed(node.input) if name)
        stack += [(producer, False) for producer in producers if producer is not None and id(producer) not in done]
    return ordered


def rewire(node: onnx.NodeProto, old: str, new: str) -> None:
    """Lets a node read value `new` wherever it read `old`."""
    for i, name in enumerate(node.input):
        if name == old:
            node.input[i] = new


def is_standard(node: onnx.NodeProto, *kinds: str) -> bool:
    """Whether a node is one of ONNX's own operators, and of these kinds."""
    return node.domain in STANDARD and node.op_type in kinds


def place_of(node: onnx.NodeProto) -> str:
    """Returns how error messages name a node."""
    return f"node {node.name or node.output[0]} ({node.op_type})"


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Returns the attributes of a node by name."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def input_of(node: onnx.NodeProto, index: int) -> str:
    """Returns the name of an input; "" where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def type_name(kind: int) -> str:
    """Returns the name of a type of elements, such as "uint8"."""
    return TensorProto.DataType.Name(kind).lower()
