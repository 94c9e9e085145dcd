"""Differences by layer: the codes that a file's own runtime computes beside those of the integer reference.

Each layer is compared twice. From the picture on, differences of the layers before it are among its own. Fed with the
runtime's codes, it shows its own alone: both sides round the same real value to the nearest code, so that they are at
most one step apart where float32 rounds a near tie the other way; a few where the file leaves values unquantized that
the integers round to 8 bits; and further only where a layer was read wrongly.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compile.ladder.onnx_file import LEVELS, OnnxFile, PictureInput
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Tensor

# operator -> which of its inputs holds the zero point of its output
ZERO_POINTS = {
    "QuantizeLinear": 2,
    "QLinearConv": 7,
    "QLinearMatMul": 7,
    "QLinearAdd": 7,
    "QLinearMul": 7,
    "QGemm": 8,
    "QLinearConcat": 1,
    "QLinearGlobalAveragePool": 4,
    "QLinearAveragePool": 4,
    "QLinearSigmoid": 4,
    "QLinearLeakyRelu": 4,
    "QLinearSoftmax": 4,
}
MOST_STEPS = 1  # between a layer's codes and the runtime's, where both start from the same codes
APPROXIMATION = 4  # a layer may be off by 1/16 of its range where the file leaves values unquantized before it
SUM_BITS = 14  # of a float32 logit that hold after thousands of additions
KEEPS_ZERO_POINT = ("Clip", "Identity", "MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Relu", "Slice")


@dataclass(frozen=True)
class LayerDifference:
    """How the codes of one layer differ between a file's runtime and the integer reference, over some pictures.

    tensor: its name in the file; codes: how many there are. differing, largest: how many differ from the picture on,
    and by how many steps at most; alone_differing, alone_largest: the same of the layer fed with the runtime's codes.
    allowed: how far rounding can take it then; limit: how far a value can that the file leaves unquantized, and the
    integers round to 8 bits.
    """

    tensor: str
    codes: int
    differing: int
    largest: int
    alone_differing: int
    alone_largest: int
    allowed: int = MOST_STEPS
    limit: int = MOST_STEPS

    @property
    def is_approximated(self) -> bool:
        """Whether the layer alone is further from the runtime's codes than rounding takes it, but not far."""
        return self.allowed < self.alone_largest <= self.limit

    @property
    def is_misread(self) -> bool:
        """Whether the layer alone is so far from the runtime's codes that it cannot be what the file means."""
        return self.alone_largest > max(self.allowed, self.limit)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both sides over some pictures: logits int64 [N, classes] in steps of the output's scale, and all layers."""

    runtime: np.ndarray
    reference: np.ndarray
    layers: tuple[LayerDifference, ...]


class _Tally:
    """Sums up the differences of one layer, picture by picture."""

    def __init__(self) -> None:
        self.codes = 0
        self.differing = [0, 0]  # from the picture on, alone
        self.largest = [0, 0]

    def add(self, *apart: np.ndarray) -> None:
        self.codes += apart[0].size
        for side, steps in enumerate(apart):
            self.differing[side] += int(np.count_nonzero(steps))
            self.largest[side] = max(self.largest[side], int(steps.max(initial=0)))

    def difference(self, tensor: str, allowed: int, reach: int) -> LayerDifference:
        """Of codes or logits up to `reach`."""
        counts = (self.differing[0], self.largest[0], self.differing[1], self.largest[1])
        return LayerDifference(tensor, self.codes, *counts, allowed, max(allowed, reach >> APPROXIMATION))


def compare_layers(model: onnx.ModelProto, graph: Graph, pictures: np.ndarray, source: PictureInput) -> Comparison:
    """Returns the answers of onnxruntime, optimizations off, beside the reference for pictures uint8 [N, H, W, C].

    Layers are those whose codes both sides know by name, in running order, and int32 logits. Raises OnnxRunError.
    """
    zero_points = output_zero_points(model)
    real = dequantized_names(model)
    watched = {n.output: real.get(n.output, n.output) for n in graph.nodes if n.output in zero_points}
    file = OnnxFile(model, LEVELS.ORT_DISABLE_ALL, watched.values())
    tallies = {name: _Tally() for name, value in watched.items() if value in file.tensors}
    output, logits_tally = graph.tensors[graph.output], _Tally()
    runtime, reference = [], []
    for picture, values in zip(pictures, file.run(pictures, source), strict=True):
        logits, codes = interpreter.run_all(graph, picture[None])
        known = {
            name: as_map(_centred(values[watched[name]], graph.tensors[name], zero_points[name]), graph, codes, name)
            for name in tallies
            if _comparable(values[watched[name]], graph.tensors[name])
        }
        forced = {graph.input: picture[None]}
        for node in graph.nodes:
            alone = interpreter.compute(graph, node, forced)
            forced[node.output] = alone
            if node.output in known:
                forced[node.output] = np.clip(known[node.output], 0, 255).astype(np.uint8)
                apart = (np.abs(side.astype(np.int64) - known[node.output]) for side in (codes[node.output], alone))
                tallies[node.output].add(*apart)
        runtime.append(logit_steps(values[model.graph.output[0].name], graph, zero_points, model))
        reference.append(logits[0].astype(np.int64))
        if output.bits == 32:
            alone = forced[graph.output].reshape(-1)
            logits_tally.add(*(np.abs(side - runtime[-1]) for side in (reference[-1], alone)))
    layers = [
        tally.difference(name, MOST_STEPS, graph.tensors[name].qmax) for name, tally in tallies.items() if tally.codes
    ]
    if logits_tally.codes:
        reach = max(int(np.abs(logits).max()) for logits in runtime)
        layers.append(logits_tally.difference(graph.output, MOST_STEPS + (reach >> SUM_BITS), reach))
    return Comparison(np.stack(runtime), np.stack(reference), tuple(layers))


def _comparable(values: np.ndarray, tensor: Tensor) -> bool:
    """Whether a file's values are those of a tensor, in some order."""
    return tensor.bits <= 8 and values.size == np.prod(tensor.shape)


def _centred(values: np.ndarray, tensor: Tensor, zero_point: int) -> np.ndarray:
    """Codes less their zero point, int64 [...], of a file's codes or of the real values that they stand for."""
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64) - zero_point
    return np.rint(np.nan_to_num(values.astype(np.float64)) / np.float64(tensor.scale)).astype(np.int64)


def run_file(
    model: onnx.ModelProto, graph: Graph, pictures: np.ndarray, source: PictureInput, level: object = None
) -> np.ndarray:
    """Returns int64 [N, classes]: onnxruntime's logits for pictures uint8 [N, H, W, C], in steps of the logits' scale.

    level: of optimization, left out: off. Raises OnnxRunError.
    """
    zero_points = output_zero_points(model)
    file = OnnxFile(model, LEVELS.ORT_DISABLE_ALL if level is None else level)
    output = model.graph.output[0].name
    return np.stack([logit_steps(values[output], graph, zero_points, model) for values in file.run(pictures, source)])


def logit_steps(output: np.ndarray, graph: Graph, zero_points: Mapping[str, int], model: onnx.ModelProto) -> np.ndarray:
    """Returns int64 [classes] of a file's output [...], real values or codes, in steps of the logits' scale."""
    if np.issubdtype(output.dtype, np.integer):
        return output.reshape(-1).astype(np.int64) - zero_points.get(model.graph.output[0].name, 0)
    scale = np.float64(np.float32(graph.tensors[graph.output].scale))
    return np.rint(np.nan_to_num(output.reshape(-1).astype(np.float64) / scale)).astype(np.int64)


def as_map(values: np.ndarray, graph: Graph, codes: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Returns int64 [1, H, W, C]: codes of tensor `name` as the graph counts them, of centred ones in any order [...].

    codes: those of the reference by name, [1, H, W, C]. Where the sizes fit both orders, the one that has more in
    common with them is the file's.
    """
    tensor = graph.tensors[name]
    h, w, c = tensor.shape
    shifted = values + int(tensor.zero_point[0])
    first = shifted.reshape(1, c, h, w).transpose(0, 2, 3, 1)
    if values.ndim != 4 or values.shape[1:] != (h, w, c):
        return first
    last = shifted.reshape(1, h, w, c)
    if values.shape[1:] != (c, h, w):
        return last
    return min((last, first), key=lambda order: np.count_nonzero(order != codes[name]))


def dequantized_names(model: onnx.ModelProto) -> dict[str, str]:
    """Returns the real values behind codes of fewer than 8 bits, which onnxruntime gives to nobody, by name."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and len(node.input) > 2
        and kinds.get(node.input[2], TensorProto.UINT8) not in (TensorProto.UINT8, TensorProto.INT8)
    }


def output_zero_points(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the zero point of every value of integer codes that a file's quantizing operators give, by name."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        tensors = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
        if node.op_type == "Constant" and tensors:
            constants[node.output[0]] = numpy_helper.to_array(tensors[0])
    points: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ZERO_POINTS:
            points[node.output[0]] = _zero_point(node, constants)
        elif node.op_type in KEEPS_ZERO_POINT and node.input[0] in points:
            points[node.output[0]] = points[node.input[0]]
    return points


def _zero_point(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> int:
    """The zero point of a quantizing node's output; 0 where it is left out."""
    index = ZERO_POINTS[node.op_type]
    name = node.input[index] if index < len(node.input) else ""
    array = constants.get(name)
    return 0 if array is None or array.size != 1 else int(array.reshape(-1)[0])


def first_that_differs(layers: Iterable[LayerDifference]) -> LayerDifference | None:
    """Returns the first layer, in running order, with codes that differ; None where there is none."""
    return next((layer for layer in layers if layer.differing), None)


def worst_first(layers: Iterable[LayerDifference]) -> list[LayerDifference]:
    """Returns the layers that differ: first those that rounding does not explain, then by the share of their codes."""
    differing = [layer for layer in layers if layer.differing or layer.alone_differing]
    return sorted(differing, key=lambda layer: (not layer.is_misread, -layer.differing / layer.codes, -layer.largest))
