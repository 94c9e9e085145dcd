"""The file's logits in onnxruntime are those of the integers, bit for bit, and near those of the float file."""

import numpy as np
import onnx
import onnxruntime
import pytest

from compile.calibrate.agreement import Agreement, agreement_of, float_logits
from compile.calibrate.executor import OPSET
from compile.qdq.importer import from_model
from targets.reference import interpreter
from targets.reference.nodes import Add, Conv, Rescale
from tests.compile.calibrate.networks import (
    IMAGENET,
    MODELS,
    SIZE,
    calibrated,
    conv,
    fire,
    gated,
    head,
    photos,
    read,
    saved,
)
from tests.support.foreign import OnnxNet

pytestmark = pytest.mark.slow


def run(model: onnx.ModelProto, pictures: np.ndarray, level: str = "ORT_ENABLE_BASIC") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"picture": pictures})[0].reshape(len(pictures), -1)


def in_steps(logits: np.ndarray, scale: float) -> np.ndarray:
    return np.rint(logits / np.float64(np.float32(scale))).astype(np.int64)


def stacked() -> onnx.ModelProto:
    """Two residual blocks without and with a Relu between sums, and an average pool."""
    rng, net = np.random.default_rng(4), OnnxNet((3, SIZE, SIZE))
    x = net.op("Relu", conv(net, rng, "x", 8, 3))
    for last in (False, True):
        y = conv(net, rng, net.op("Relu", conv(net, rng, x, 8, 8)), 8, 8)
        x = net.op("Add", x, y) if last else net.op("Add", y, x)
    x = net.op("AveragePool", conv(net, rng, x, 8, 8, 1), kernel_shape=[2, 2], strides=[2, 2])
    return net.model(head(net, rng, x, 8), 6)


EXACT = {**MODELS, "stacked": stacked}


@pytest.mark.parametrize("rounding", ["nearest", "learned"])
@pytest.mark.parametrize("bits", ["8", "w4a8", "4"])
@pytest.mark.parametrize("name", EXACT)
def test_onnxruntime_gives_the_logits_of_the_integers(tmp_path, name, bits, rounding):
    if bits == "8" and rounding == "learned":
        pytest.skip("8 bits are rounded to the nearest")
    model = calibrated(tmp_path, EXACT[name](), bits, rounding).to_onnx({})
    onnx.checker.check_model(model, full_check=True)
    graph, pictures = from_model(model), photos(60, seed=9)
    expected = interpreter.run(graph, pictures)
    scale = graph.tensors[graph.output].scale
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC"):
        assert np.array_equal(in_steps(run(model, pictures, level), scale), expected), level


@pytest.mark.parametrize("model", [*EXACT.values(), fire, gated], ids=[*EXACT, "fire", "gated"])
def test_eight_bits_are_near_the_float_file(tmp_path, model):
    float_model, pictures = model(), photos(60, seed=9)
    path, network = saved(tmp_path, float_model), read(tmp_path, float_model)
    floats = float_logits(path, network, pictures, IMAGENET)
    logits = run(calibrated(tmp_path, float_model).to_onnx({}), pictures)
    noise = np.square(logits - floats).sum() / np.square(floats - floats.mean(0)).sum()
    assert noise < 0.04, noise  # of what differs from picture to picture, in networks of random weights


def test_sums_are_rounded_once_at_an_addition(tmp_path):
    graph = from_model(calibrated(tmp_path, stacked()).to_onnx({}))
    assert not any(isinstance(node, Add) for node in graph.nodes)
    assert sum(isinstance(node, Conv) and node.skip is not None for node in graph.nodes) == 2


def test_a_stream_of_eight_bits_is_narrowed_for_layers_of_four(tmp_path):
    graph = from_model(calibrated(tmp_path, stacked(), "4").to_onnx({}))
    narrowed = [graph.tensors[node.output] for node in graph.nodes if isinstance(node, Rescale)]
    assert narrowed and {tensor.bits for tensor in narrowed} == {4}
    for node in graph.nodes:
        if isinstance(node, Conv) and node.w_bits == 4:
            assert graph.tensors[node.input].bits == 4


def test_concats_move_codes_alone(tmp_path):
    model = calibrated(tmp_path, fire()).to_onnx({})
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    users = {name: node for node in model.graph.node for name in node.input}
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    scales = [constants[producers[name].input[1]] for name in concat.input]
    scales.append(constants[users[concat.output[0]].input[1]])
    assert len({float(scale) for scale in scales}) == 1


def test_gates_are_part_of_one_function(tmp_path):
    model = calibrated(tmp_path, gated()).to_onnx({})
    users = [node.op_type for node in model.graph.node]
    first = users.index("Sigmoid")
    assert users[first + 1] == "Mul" and users[first + 2] == "QuantizeLinear"
    second = users.index("Sigmoid", first + 1)
    assert users[second + 1] == "QuantizeLinear"


def test_what_the_file_says_of_itself(tmp_path):
    model = calibrated(tmp_path, MODELS["chain"](), "4").to_onnx({"bitgrade.preprocessing": {"crop": 0.5}})
    assert {p.key: p.value for p in model.metadata_props} == {"bitgrade.preprocessing": '{"crop": 0.5}'}
    assert model.opset_import[0].version == OPSET
    entry = model.graph.input[0].type.tensor_type
    assert entry.elem_type == onnx.TensorProto.UINT8 and [d.dim_value for d in entry.shape.dim][1:] == [SIZE, SIZE, 3]


def test_a_network_whose_maps_are_next_to_nothing(tmp_path):
    """Logits are all bias, and no scale makes an integer too large."""
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    x = net.op("Relu", net.op("Conv", "x", net.const(rng.normal(0, 1e-9, (8, 3, 3, 3))), pads=[1, 1, 1, 1]))
    x = net.op("Relu", net.op("Conv", x, net.const(rng.normal(0, 1, (8, 8, 3, 3))), pads=[1, 1, 1, 1]))
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    weight, bias = net.const(rng.normal(0, 0.5, (6, 8))), net.const(np.arange(6))
    model = calibrated(tmp_path, net.model(net.op("Gemm", x, weight, bias, transB=1), 6)).to_onnx({})
    np.testing.assert_allclose(run(model, photos(3)), np.tile(np.arange(6.0), (3, 1)), atol=1e-3)
    assert from_model(model).nodes


def test_agreement_counts_classes_and_knows_how_sure_it_is():
    first = np.array([[0, 1], [1, 0], [3, 1], [0, 2]])
    agreement = agreement_of(first, first[:, ::-1] * [[0, 1]] + first * [[1, 0]], True)
    assert agreement.pictures == 4 and agreement.same == agreement.share * 4
    low, high = Agreement(100, 95, True).interval
    assert 0.88 < low < 0.9 and 0.97 < high < 0.99  # 0.8882 and 0.9785, of Wilson's formula
    assert Agreement(5, 5, True).interval[1] == 1
