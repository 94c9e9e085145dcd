"""A network around one operator of a foreign file, and what the integers and onnxruntime make of it."""

import numpy as np
import onnxruntime
from onnx import TensorProto

from compile.qdq.importer import Normalization, from_model
from targets.reference import interpreter
from tests.support.foreign import OnnxNet

ZERO_TO_255 = Normalization((0.0,), (1 / 255,))
SIZE = (8, 7, 9)  # channels, height, width; the first layer makes the channels


def network(build, out_scale=0.02, zero_point=128, seed=0, channels=SIZE[0]):
    """A picture, a signed map of SIZE, what build(net, map) adds, and its quantized result as the output, NHWC."""
    rng, net = np.random.default_rng(seed), OnnxNet((3, *SIZE[1:]))
    weight = net.weight(rng.integers(-90, 90, (channels, 3, 1, 1)), 1 / 8100)
    x = net.op("Conv", net.qdq("x", 1.0), weight, net.const(rng.normal(0, 0.7, channels)))
    x = net.qdq(x, 1 / 64, 128)
    y = net.qdq(build(net, x), out_scale, zero_point)
    flat = net.op("Flatten", net.op("Transpose", y, perm=[0, 2, 3, 1]))
    return net.model(flat, "classes", full_check=True)


def outcome(model, n=6):
    """Codes of the integer graph and of onnxruntime for noise, and the graph."""
    graph = from_model(model, normalization=ZERO_TO_255)
    pictures = np.random.default_rng(1).integers(0, 256, (n, *SIZE[1:], 3), np.uint8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    floats = pictures.transpose(0, 3, 1, 2).astype(np.float32)
    real = np.concatenate([session.run(None, {"x": x[None]})[0] for x in floats])
    scale = graph.tensors[graph.output].scale
    return interpreter.run(graph, pictures), np.rint(real / scale).astype(np.int64), graph


def assert_near(model, ties=0.03):
    """Steps of one where float32 rounds to the other side of a tie, and few of them."""
    integers, expected, graph = outcome(model)
    assert integers.shape == expected.shape and expected.std() > 1
    difference = np.abs(integers - expected)
    assert difference.max() <= 1 and (difference > 0).mean() <= ties
    return graph


def kinds(graph):
    return [type(node) for node in graph.nodes[1:]]  # behind the first layer


def exact(build, scale=1 / 64, zero_point=128):
    integers, expected, graph = outcome(network(build, scale, zero_point))
    assert integers.shape == expected.shape and expected.std() > 1
    np.testing.assert_array_equal(integers, expected)
    return graph


def ints(net, *values):
    return net.const(values, TensorProto.INT64)
