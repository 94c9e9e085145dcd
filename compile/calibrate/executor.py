"""Executes a float network node by node with onnxruntime, so that every tensor can be looked at and replaced."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from compile.calibrate.network import FloatNetwork

OPSET, IR_VERSION = 21, 10  # the oldest that have 4-bit types
SLICE = 16  # pictures that a node is given at a time


class NodeRunner:
    """Runs single nodes on arrays; weights are arrays too, so that a node has one session whatever its weights."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, onnxruntime.InferenceSession] = {}

    def run(self, node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """Returns the results [N, ...] of a node; inputs: one array for each of its own, None for one left out."""
        feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if name and array is not None}
        key = node.SerializeToString()
        if key not in self._sessions:
            self._sessions[key] = _session(node, feeds)
        results: list[np.ndarray] = self._sessions[key].run(None, feeds)
        return results


def _session(node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> onnxruntime.InferenceSession:
    """A model of one node, whose ranks are those of its first inputs."""
    entries = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim)
        for name, a in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
    body = helper.make_graph([node], "node", entries, outputs)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return open_session(model.SerializeToString())


def open_session(model: bytes | str, basic: bool = False) -> onnxruntime.InferenceSession:
    """Returns a session on the processor, without optimizations (basic: with those that keep every operator)."""
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_BASIC if basic else level.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # each node has a session, whose memory would stay as large as it ever was
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_node(
    runner: NodeRunner, node: onnx.NodeProto, inputs: Sequence[np.ndarray | None], batched: Sequence[bool]
) -> list[np.ndarray]:
    """Returns the results [N, ...] of a node over many pictures, a slice at a time.

    batched: which of the inputs have a row for each picture; the others are given whole.
    """
    count = next(len(a) for a, rows in zip(inputs, batched, strict=True) if rows and a is not None)
    parts = []
    for i in range(0, count, SLICE):
        part = [a[i : i + SLICE] if rows and a is not None else a for a, rows in zip(inputs, batched, strict=True)]
        parts.append(runner.run(node, part))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


class Values:
    """The tensors [N, ...] of a network while `runner` runs it; each is dropped when its last reader has run."""

    def __init__(self, network: FloatNetwork, pictures: np.ndarray, runner: NodeRunner):
        self._network = network
        self.runner = runner
        self._readers = Counter(name for users in network.users.items() for name in [users[0]] * len(users[1]))
        self._readers[network.output] += 1
        self._arrays: dict[str, np.ndarray] = {network.picture: pictures}

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the values [N, ...] of a tensor."""
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        """Returns whether a tensor has been computed and is still held."""
        return name in self._arrays

    def __setitem__(self, name: str, values: np.ndarray) -> None:
        """Replaces the values of a tensor."""
        self._arrays[name] = values

    def compute(self, node: onnx.NodeProto) -> None:
        """Computes the results of a node from what its inputs are now."""
        constants = self._network.constants
        inputs = [constants[n] if n in constants else self._arrays[n] if n else None for n in node.input]
        batched = [bool(n) and n not in constants for n in node.input]
        results = run_node(self.runner, node, inputs, batched)
        self._arrays.update(zip(node.output, results, strict=True))

    def release(self, node: onnx.NodeProto) -> None:
        """Drops what only this node still had to read."""
        for name in dict.fromkeys(self._network.data_inputs(node)):
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._arrays[name]
        for name in node.output:
            if not self._readers[name]:
                self._arrays.pop(name, None)


def run_all(network: FloatNetwork, pictures: np.ndarray, runner: NodeRunner) -> Iterator[tuple[onnx.NodeProto, Values]]:
    """Yields every node when it has run over pictures float32 [N, 3, H, W], with the tensors that are still needed."""
    values = Values(network, pictures, runner)
    for node in network.nodes:
        values.compute(node)
        yield node, values
        values.release(node)
