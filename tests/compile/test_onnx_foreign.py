"""Files of other tools: their integers agree with onnxruntime but for ties; what cannot be taken is explained."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from compile.qdq.derivable import ExportError
from compile.qdq.importer import Normalization, OnnxError, from_model, load
from compile.qdq.node import require_quantized
from targets.reference.nodes import Add, AvgPool, Conv, MaxPool
from tests.support.foreign import OnnxNet, float_network, qcdq_network, resnet8_float, resnet8_tflite
from tests.support.onnx_ladder import compare
from train.integers.export import difference, to_onnx

ZERO_TO_ONE = Normalization((0.0,), (1.0,))
ZERO_TO_255 = Normalization((0.0,), (1 / 255,))
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
U8, S8 = QuantType.QUInt8, QuantType.QInt8
CONFIGS = {
    "u8s8": dict(activation_type=U8, weight_type=S8),
    "u8s8 per channel": dict(activation_type=U8, weight_type=S8, per_channel=True),
    "s8s8 per channel": dict(activation_type=S8, weight_type=S8, per_channel=True),
    "s8s8 symmetric": dict(activation_type=S8, weight_type=S8, extra_options={"ActivationSymmetric": True}),
    "u8u8 symmetric": dict(activation_type=U8, weight_type=U8, extra_options={"WeightSymmetric": True}),
    "u4s4 per channel": dict(activation_type=QuantType.QUInt4, weight_type=QuantType.QInt4, per_channel=True),
}


class Batches(CalibrationDataReader):
    def __init__(self, x: np.ndarray):
        self.rows = iter([{"x": x[i : i + 50]} for i in range(0, len(x), 50)])

    def get_next(self):
        return next(self.rows, None)


def photos(shape, n: int, seed: int) -> np.ndarray:
    """uint8 [n, H, W, C]: smooth pictures with noise, bright and dark."""
    rng, (h, w, c) = np.random.default_rng(seed), shape
    y, x = np.linspace(-1, 1, h)[:, None, None], np.linspace(-1, 1, w)[None, :, None]
    slopes = rng.normal(0, 60, (3, n, 1, 1, c))
    smooth = 128 + slopes[0] * y + slopes[1] * x + slopes[2] * np.sin(4 * x * y)
    return np.clip(smooth + rng.normal(0, 20, (n, h, w, c)), 0, 255).astype(np.uint8)


def quantized(tmp_path: Path, model: onnx.ModelProto, calibration: np.ndarray, **options) -> onnx.ModelProto:
    onnx.save(model, tmp_path / "float.onnx")
    quantize_static(
        str(tmp_path / "float.onnx"),
        str(tmp_path / "quantized.onnx"),
        Batches(calibration),
        quant_format=QuantFormat.QDQ,
        **options,
    )
    return onnx.load(tmp_path / "quantized.onnx")


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("normalization", [ZERO_TO_ONE, IMAGENET], ids=["zero to one", "imagenet"])
def test_onnxruntime_quantizer(tmp_path, config, normalization):
    u8 = photos((14, 14, 3), 200, 0)
    model = quantized(tmp_path, float_network(1), normalization.floats(u8[:100]), **CONFIGS[config])
    graph = from_model(model, normalization=normalization)
    assert {Add, AvgPool, Conv, MaxPool} <= {type(n) for n in graph.nodes}
    agreement = compare(model, graph, u8, normalization)
    # Node by node only sums within float32's rounding of a tie may go the other way. Over a dozen layers each of those
    # few codes spreads, and a random network's classes are near each other.
    assert agreement.differing_codes < 1e-4 and agreement.same_class > 0.95, agreement


def test_foreign_graph_without_tables_can_be_exported_again(tmp_path):
    u8 = photos((14, 14, 3), 50, 0)
    model = quantized(tmp_path, float_network(2), IMAGENET.floats(u8), **CONFIGS["s8s8 per channel"])
    with pytest.raises(ExportError, match="expected one that training makes, got a Lookup of an imported file"):
        to_onnx(from_model(model, normalization=IMAGENET))
    graph = from_model(qcdq_network(5, 4, 4), normalization=ZERO_TO_ONE)
    assert difference(graph, from_model(to_onnx(graph))) is None


@pytest.mark.parametrize("quantize_weights", [False, True])
@pytest.mark.parametrize("bits", range(3, 9))
def test_brevitas_qcdq(bits, quantize_weights):
    model = qcdq_network(bits, bits, bits, quantize_weights)
    graph = from_model(model, normalization=ZERO_TO_ONE)
    convs = graph.convs()
    assert [c.w_bits for c in convs] == [bits] * 3 and graph.tensors[convs[1].input].bits == bits
    assert (convs[0].padding, convs[1].padding) == ((0, 0, 1, 1),) * 2 and graph.tensors["x"].scale == np.float32(
        1 / 255
    )
    u8 = photos((9, 9, 3), 100, bits)
    agreement = compare(model, graph, u8, ZERO_TO_ONE)
    assert agreement.differing_codes < 1e-3 and agreement.same_class > 0.95, agreement


def test_identity_quantizers_of_the_picture_cost_nothing():
    """uint8 codes of x in 0..1, and int8 codes of x in 0..255, are the picture itself."""
    for scale, zero, kind, normalization in (
        (1 / 255, 0, TensorProto.UINT8, ZERO_TO_ONE),
        (1.0, -128, TensorProto.INT8, ZERO_TO_255),
    ):
        net = OnnxNet((3, 4, 4))
        x = net.qdq("x", scale, zero, kind)
        x = net.qdq(net.op("Conv", x, net.weight(np.ones((2, 3, 4, 4)), 0.5)), 1.0)
        graph = from_model(net.model(net.op("Flatten", x), 2), normalization=normalization)
        assert [type(n) for n in graph.nodes] == [Conv] and graph.tensors["x"].zero_point == (0,)


def small(head=None, **changes) -> onnx.ModelProto:
    """Conv, ReLU, mean, classifier; `changes` replace arguments of the first convolution, `head` what follows it."""
    net = OnnxNet((3, 6, 6))
    attributes = {"kernel_shape": [3, 3], **changes.get("attributes", {})}
    weight = changes.get("weight", lambda n: n.weight(np.ones((4, 3, 3, 3)), 0.1))(net)
    x = net.op("Conv", changes.get("start", lambda n: n.qdq("x", 1 / 255))(net), weight, name="first", **attributes)
    x = head(net, x) if head else net.qdq(net.op("Relu", x), 0.1)
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", x), 0.05))
    return net.model(
        net.op("Gemm", x, changes.get("last", lambda n: n.weight(np.ones((4, 2)), 0.1))(net), name="last"), 2
    )


def test_small_is_taken():
    from_model(small(), normalization=ZERO_TO_ONE)


def test_strides_and_dilations_of_two_directions():
    (conv, *_) = from_model(small(attributes={"dilations": [2, 1], "strides": [1, 2]}), normalization=ZERO_TO_ONE).nodes
    assert (conv.dilation, conv.stride) == ((2, 1), (1, 2))


REFUSED = {
    "float weights": (
        small(weight=lambda n: n.const(np.ones((4, 3, 3, 3)))),
        r"first \(Conv\): expected weights that are a Dequant",
    ),
    "nothing quantized after": (small(lambda n, x: n.op("Relu", x)), "GlobalAveragePool.*expected a quantized input"),
    "float picture": (small(start=lambda n: "x"), r"first \(Conv\).*QuantizeLinear"),
    "operator": (
        small(lambda n, x: n.qdq(n.op("InstanceNormalization", x, n.const(np.ones(4)), n.const(np.zeros(4))), 0.1)),
        r"\(InstanceNormalization\): expected one of .*MaxPool",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_explained(case):
    model, message = REFUSED[case]
    with pytest.raises(OnnxError, match=message):
        from_model(model, normalization=ZERO_TO_ONE)


def test_a_float_picture_needs_its_normalization():
    with pytest.raises(OnnxError, match="--mean and --std"):
        from_model(small())


def test_the_picture_s_tensor_is_named():
    with pytest.raises(OnnxError, match="^input tensor 'x': expected uint8, or the normalization"):
        from_model(small())


@pytest.mark.parametrize(
    "nodes, advice",
    [
        (
            [("QuantizeLinear", ["x", "s"]), ("QLinearConv", ["x"])],
            r"QOperator format \(QLinearConv\).*QuantFormat.QDQ",
        ),
        ([("DynamicQuantizeLinear", ["x"]), ("ConvInteger", ["x"])], "ConvInteger.*dynamic quantization is not taken"),
        (
            [("Conv", ["x", "w"]), ("Relu", ["y"])],
            "not quantized; quantize it with onnxruntime.quantization.quantize_stat",
        ),
    ],
)
def test_other_ways_to_quantize_or_none(nodes, advice):
    with pytest.raises(OnnxError, match=advice):
        require_quantized([onnx.helper.make_node(kind, inputs, ["out"]) for kind, inputs in nodes])


def test_files_are_named(tmp_path):
    """Those that the checker refuses, and those that are no quantized network."""
    model, path = small(), tmp_path / "net.onnx"
    model.graph.node[0].op_type = "NoSuch"
    onnx.save(model, path)
    with pytest.raises(OnnxError, match=f"{path}: model: expected one that onnx.checker accepts"):
        load(path)
    net = OnnxNet((3, 4, 4))
    onnx.save(net.model(net.op("Flatten", net.op("Conv", "x", net.const(np.ones((2, 3, 4, 4))))), 2), path)
    with pytest.raises(OnnxError, match=f"{path}: model: .*not quantized; quantize it"):
        load(path)


# Outside the repository: BITGRADE_WEIGHTS has mlperf_tiny_resnet8*, BITGRADE_CIFAR10 has cifar-10-batches-py.
WEIGHTS, CIFAR10 = os.environ.get("BITGRADE_WEIGHTS"), os.environ.get("BITGRADE_CIFAR10")
real = pytest.mark.skipif(
    not (WEIGHTS and CIFAR10), reason="set BITGRADE_WEIGHTS and BITGRADE_CIFAR10 to check a trained network"
)


@pytest.fixture(scope="module")
def cifar():
    from train.data.cifar10 import read_cifar10

    data = read_cifar10(Path(CIFAR10))
    return data.train_x[:500], data.test_x[:1000], data.test_y[:1000]


@real
@pytest.mark.parametrize("config", [c for c in CONFIGS if "4" not in c])
def test_trained_resnet8(tmp_path, cifar, config):
    import torch

    state = torch.load(Path(WEIGHTS) / "mlperf_tiny_resnet8.pt", map_location="cpu", weights_only=True)
    calibration, u8, y = cifar
    model = quantized(
        tmp_path,
        resnet8_float({k: v.numpy() for k, v in state.items()}),
        ZERO_TO_255.floats(calibration),
        **CONFIGS[config],
    )
    agreement = compare(model, load(tmp_path / "quantized.onnx", ZERO_TO_255), u8, ZERO_TO_255)
    accuracy = {"onnxruntime": (agreement.onnxruntime == y).mean(), "integers": (agreement.integers == y).mean()}
    print(config, agreement.differing_codes, agreement.same_class, agreement.steps, accuracy)
    assert agreement.same_class > 0.99 and abs(accuracy["integers"] - accuracy["onnxruntime"]) <= 0.003
    assert accuracy["integers"] > 0.86


@real
def test_tflite_integers(cifar):
    """Another tool's integers, taken over exactly; it measured 86.97 % on all 10,000 pictures."""
    with np.load(Path(WEIGHTS) / "mlperf_tiny_resnet8_tflite_int8.npz") as stored:
        stored = dict(stored)
    model = resnet8_tflite(stored)
    graph = from_model(model, normalization=ZERO_TO_255)
    for conv in graph.convs():
        weight, bias = stored[f"{conv.name}.weight_int8"], stored[f"{conv.name}.bias_int32"]
        left = 0 if conv.requant is None else conv.requant.left
        assert (conv.weight == weight.reshape(*weight.shape, *[1] * (4 - weight.ndim)).transpose(0, 2, 3, 1)).all()
        assert (conv.bias == bias.astype(np.int64) << left).all()
    _, u8, y = cifar
    agreement = compare(model, graph, u8, ZERO_TO_255)
    accuracy = (agreement.integers == y).mean()
    print("tflite", agreement.differing_codes, agreement.same_class, agreement.steps, accuracy)
    assert agreement.same_class > 0.99 and accuracy > 0.86
