"""Each operator of foreign files alone, between quantizers, held against onnxruntime without its optimizations."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from compile.qdq.importer import OnnxError, from_model
from targets.reference import interpreter
from targets.reference.nodes import Concat, Conv, Lookup, MaxPool, Mul
from tests.support.foreign import OnnxNet
from tests.support.foreign_operators import SIZE, ZERO_TO_255, assert_near, ints, kinds, network, outcome

UNARY = {
    "Sigmoid": ({}, 1 / 255, 0),
    "HardSigmoid": ({"alpha": 0.3, "beta": 0.4}, 1 / 255, 0),
    "HardSwish": ({}, 0.02, 20),
    "LeakyRelu": ({"alpha": 0.2}, 0.02, 100),
    "Elu": ({"alpha": 0.7}, 0.02, 60),
    "Selu": ({}, 0.02, 90),
    "Celu": ({"alpha": 0.5}, 0.02, 60),
    "Softplus": ({}, 0.01, 0),
    "Softsign": ({}, 1 / 127, 128),
    "Tanh": ({}, 1 / 127, 128),
    "Erf": ({}, 1 / 127, 128),
    "Abs": ({}, 0.0117, 0),
    "Neg": ({}, 0.02, 128),
    "Exp": ({}, 0.03, 0),
    "ThresholdedRelu": ({"alpha": 0.6}, 0.01, 0),
    "Gelu": ({}, 0.02, 30),
    "Mish": ({}, 0.02, 30),
}


@pytest.mark.parametrize("kind", UNARY)
def test_functions_of_one_value(kind):
    attributes, scale, zero_point = UNARY[kind]
    graph = assert_near(network(lambda net, x: net.op(kind, x, **attributes), scale, zero_point), 0.02)
    assert kinds(graph)[-1] is Lookup


def _hard_swish(net, x):
    gate = net.op("Clip", net.op("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    return net.op("Div", net.op("Mul", x, gate), net.const(6.0))


def _gelu(net, x):
    erf = net.op("Erf", net.op("Div", x, net.const(np.sqrt(2))))
    return net.op("Mul", net.op("Mul", x, net.op("Add", erf, net.const(1.0))), net.const(0.5))


def _gelu_tanh(net, x):
    cube = net.op("Mul", net.op("Pow", x, net.const(3.0)), net.const(0.044715))
    inner = net.op("Tanh", net.op("Mul", net.op("Add", x, cube), net.const(np.sqrt(2 / np.pi))))
    return net.op("Mul", net.op("Mul", x, net.const(0.5)), net.op("Add", inner, net.const(1.0)))


SPELLED = {
    "silu": lambda net, x: net.op("Mul", x, net.op("Sigmoid", x)),
    "hard swish": _hard_swish,
    "gelu by erf": _gelu,
    "gelu by tanh": _gelu_tanh,
    "mish": lambda net, x: net.op("Mul", x, net.op("Tanh", net.op("Softplus", x))),
    "relu6 of a shifted value": lambda net, x: net.op("Relu", net.op("Sub", net.const(1.0), x)),
}


@pytest.mark.parametrize("form", SPELLED)
def test_functions_that_exporters_spell_out_become_one_table(form):
    graph = assert_near(network(SPELLED[form], 0.02, 40), 0.02)
    assert kinds(graph) == [Lookup]


def test_a_function_quantized_in_several_steps_is_one_table():
    """As onnxruntime's quantizer leaves SiLU: every code of the product follows from the code of x."""

    def build(net, x):
        gate = net.qdq(net.op("Sigmoid", x), 1 / 256)
        return net.op("Mul", x, gate)

    def by_channel(net, x):
        slopes = net.const(np.random.default_rng(2).uniform(0.2, 2, (SIZE[0], 1, 1)))
        return net.op("Add", net.qdq(net.op("Mul", x, slopes), 0.03, 120), net.qdq(net.op("Tanh", x), 1 / 120, 128))

    assert kinds(assert_near(network(build, 0.01, 30))) == [Lookup]
    graph = assert_near(network(by_channel, 0.04))
    assert kinds(graph) == [Lookup] and graph.nodes[-1].table.shape == (SIZE[0], 256)


def test_constants_by_channel():
    rng = np.random.default_rng(2)
    factors, offsets, slopes = (rng.uniform(0.2, 2, (SIZE[0], 1, 1)) for _ in range(3))

    def build(net, x):
        x = net.op("PRelu", net.op("Mul", x, net.const(factors)), net.const(slopes))
        return net.op("Sub", x, net.const(offsets))

    graph = assert_near(network(build, 0.04, 128), 0.02)
    assert kinds(graph) == [Lookup] and graph.nodes[-1].table.shape == (SIZE[0], 256)


def test_a_constant_along_another_axis_is_refused():
    for shape in ((SIZE[1], 1), (SIZE[2],), (1, SIZE[1], SIZE[2])):
        with pytest.raises(OnnxError, match=r"mul\d \(Mul\): expected a constant, or one for each of 8 channels"):
            from_model(network(lambda net, x: net.op("Mul", x, net.const(np.ones(shape)))), normalization=ZERO_TO_255)  # noqa: B023


def test_products_of_maps_and_of_a_value_a_channel():
    def excited(net, x):
        mean = net.qdq(net.op("GlobalAveragePool", x), 1 / 128, 128)
        gate = net.qdq(net.op("Sigmoid", mean), 1 / 255)
        return net.op("Mul", gate, x)

    def by_another(net, x):
        weight = net.weight(np.random.default_rng(3).integers(-90, 90, (SIZE[0], SIZE[0], 1, 1)), 1 / 300)
        return net.op("Mul", x, net.qdq(net.op("Conv", x, weight), 0.03, 100))

    assert kinds(assert_near(network(excited)))[-1] is Mul
    assert kinds(assert_near(network(by_another, 0.1)))[-1] is Mul


def test_a_gate_that_nothing_quantizes_is_refused():
    """Its scale stands nowhere in the file."""

    def build(net, x):
        mean = net.qdq(net.op("GlobalAveragePool", x), 1 / 128, 128)
        return net.op("Mul", x, net.op("Sigmoid", mean))

    with pytest.raises(OnnxError, match=r"\(Mul\): expected a quantized input.*QuantizeLinear.*--calibrate"):
        from_model(network(build), normalization=ZERO_TO_255)


@pytest.mark.parametrize("kind", ["Add", "Sub"])
@pytest.mark.parametrize("zero_points", [(0, 128, 128), (128, 0, 128), (3, 250, 0), (0, 0, 200)])
def test_steps_that_pass_all_codes_may_have_any_scale(kind, zero_points):
    """Quantizers give values that were always zero the scale 1, far above that of the sum."""
    first, second, result = zero_points

    def build(net, x):
        dead = net.qdq(net.op("Mul", x, net.const(40.0)), 9.0, first)
        operands = (dead, net.qdq(x, 1 / 64, second)) if kind == "Add" else (net.qdq(x, 1 / 64, second), dead)
        return net.op(kind, *operands)

    assert_near(network(build, 1 / 64, result))
    integers, expected, _ = outcome(network(build, 1 / 64, result))
    assert {0, 255} & set((integers + result).reshape(-1).tolist()) and np.abs(integers - expected).max() <= 1


def test_sums_and_differences_of_maps():
    other = lambda net, x: net.qdq(net.op("Tanh", x), 1 / 100, 120)  # noqa: E731
    assert_near(network(lambda net, x: net.op("Add", x, other(net, x)), 0.03))
    assert_near(network(lambda net, x: net.op("Sub", x, other(net, x)), 0.03))
    assert_near(network(lambda net, x: net.op("Sub", other(net, x), x), 0.03))


def test_concatenation_rescales_each_operand():
    def build(net, x):
        return net.op("Concat", x, net.qdq(net.op("Tanh", x), 1 / 120, 110), x, axis=1)

    assert kinds(assert_near(network(build, 1 / 64)))[-1] is Concat


def test_concatenation_of_sums_that_nothing_quantized():
    def build(net, x):
        weight = net.weight(np.random.default_rng(3).integers(-90, 90, (5, SIZE[0], 1, 1)), 1 / 300)
        return net.op("Relu", net.op("Concat", net.op("Conv", x, weight), x, axis=1))

    assert kinds(assert_near(network(build)))[-1] is Concat


def test_a_pool_of_sums_that_nothing_quantized():
    """Quantizing before the largest value or behind it is the same."""

    def build(net, x):
        weight = net.weight(np.random.default_rng(3).integers(-90, 90, (5, SIZE[0], 1, 1)), 1 / 300)
        return net.op("MaxPool", net.op("Relu", net.op("Conv", x, weight)), kernel_shape=[2, 2], strides=[2, 2])

    assert kinds(assert_near(network(build, 0.02, 0))) == [Conv, MaxPool]


def test_weights_with_zero_points_take_nine_bits():
    def build(net, x, zero_point, groups):
        codes = np.random.default_rng(4).integers(0, 256, (SIZE[0], SIZE[0] // groups, 3, 3))
        codes[0, 0, 0, :2] = (0, 255)
        q = net.quantizer(1 / 900, zero_point, TensorProto.UINT8)
        weight = net.op("DequantizeLinear", net.const(codes, TensorProto.UINT8), *q)
        return net.op("Conv", x, weight, pads=[1, 1, 1, 1], dilations=[1, 2], strides=[2, 1], group=groups)

    for zero_point, groups in ((0, 1), (3, SIZE[0])):
        graph = assert_near(network(lambda net, x: build(net, x, zero_point, groups), 0.05))  # noqa: B023
        (conv,) = graph.nodes[1:]
        assert conv.w_bits == 9 and conv.weight.dtype == np.int16 and conv.weight.max() == 255 - zero_point
    gather, conv = assert_near(network(lambda net, x: build(net, x, 3, 1), 0.05)).nodes[1:]
    assert conv.w_bits == 8 and len(gather.channels) == 2 * SIZE[0] == conv.weight.shape[3]


def test_batch_norm_behind_a_layer_and_behind_a_quantizer():
    rng = np.random.default_rng(5)

    def norm(net, x, channels):
        scale, variance = rng.uniform(-1.5, 1.5, channels), rng.uniform(0.5, 2, channels)
        parameters = scale, rng.normal(0, 0.2, channels), rng.normal(0, 0.2, channels), variance
        return net.op("BatchNormalization", x, *(net.const(values) for values in parameters))

    def behind_layer(net, x):
        return norm(net, net.op("Conv", x, net.weight(rng.integers(-127, 128, (6, SIZE[0], 1, 1)), 1 / 300)), 6)

    assert_near(network(behind_layer, 0.03))
    assert kinds(assert_near(network(lambda net, x: norm(net, x, SIZE[0]), 0.03), 0.02)) == [Lookup]


def test_a_channel_whose_bias_is_all_of_its_value():
    """Its weights are next to nothing, so that its bias has no room in units of their scale."""

    def build(net, x):
        rng = np.random.default_rng(6)
        scales = np.array([1 / 300, 1e-12, 1 / 300, 1e-20])
        weight = net.weight(rng.integers(-127, 128, (4, SIZE[0], 3, 3)), scales)
        return net.op("Conv", x, weight, net.const([0.1, 0.7, -0.2, -1.3]))

    integers, expected, _ = outcome(network(build, 0.02))
    np.testing.assert_array_equal(integers[:, 1::2], expected[:, 1::2])
    assert np.abs(integers - expected).max() <= 1


def test_channels_of_zeros_may_have_no_scale():
    def build(net, x):
        codes = np.random.default_rng(7).integers(-127, 128, (3, SIZE[0], 1, 1))
        codes[1] = 0
        return net.op("Conv", x, net.weight(codes, np.array([1 / 300, 0, 1 / 200])), net.const([0.1, 0.5, 0.2]))

    assert_near(network(build))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_dense_layer_takes_a_map_in_any_order(layout):
    c, h, w = SIZE
    rng, net = np.random.default_rng(8), OnnxNet((3, h, w))
    weight = net.weight(rng.integers(-90, 90, (c, 3, 1, 1)), 1 / 9000)
    x = net.qdq(net.op("Conv", net.qdq("x", 1.0), weight), 1 / 64, 128)
    x = net.op("Transpose", x, perm=[0, 2, 3, 1]) if layout == "NHWC" else x
    x = net.op("Slice", x, ints(net, 1), ints(net, 6), ints(net, 1 if layout == "NHWC" else 2))
    rows = net.op("Reshape", x, ints(net, -1, c * 5 * w))
    weight = net.weight(rng.integers(-127, 128, (c * 5 * w, 4)), 1 / 9000)
    model = net.model(net.qdq(net.op("MatMul", rows, weight), 0.02, 128), 4)
    integers, expected, _ = outcome(model)
    assert expected.std() > 1 and np.abs(integers - expected).max() <= 1


def test_logits_of_several_scales_get_one():
    """Rounded once, to far less than a unit of the file's coarsest class."""
    c, h, w = SIZE
    rng, net = np.random.default_rng(9), OnnxNet((3, h, w))
    weight = net.weight(rng.integers(-90, 90, (c, 3, 1, 1)), 1 / 9000)
    x = net.qdq(net.op("Conv", net.qdq("x", 1.0), weight), 1 / 64, 128)
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", x), 1 / 200, 128))
    scales = rng.uniform(0.001, 0.02, 5)
    weight = net.weight(rng.integers(-127, 128, (5, c)), scales)
    model = net.model(net.op("Gemm", x, weight, net.const(rng.normal(0, 0.5, 5)), transB=1), 5)
    graph = from_model(model, normalization=ZERO_TO_255)
    pictures = rng.integers(0, 256, (20, h, w, 3), np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    real = session.run(None, {"x": pictures.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    step = graph.tensors[graph.output].scale
    assert np.abs(interpreter.run(graph, pictures) * step - real).max() <= 0.02 and step <= scales.max() / 64


def test_sixteen_bits_are_named():
    net = OnnxNet((3, 4, 4))
    x = net.op("Conv", net.qdq("x", 1 / 255), net.weight(np.ones((2, 3, 4, 4)), 0.1))
    model = net.model(net.op("Flatten", net.qdq(x, 1e-4, 0, TensorProto.UINT16)), 2)
    with pytest.raises(OnnxError, match="activations of 8 bits at most, got 16 bits"):
        from_model(model, normalization=ZERO_TO_255)


def _with_scales_of_channels(net, x, scales, zero_point):
    q = net.quantizer(scales, np.full(len(scales), zero_point), TensorProto.UINT8)
    return net.op("DequantizeLinear", net.op("QuantizeLinear", x, *q, axis=1), *q, axis=1)


def test_scales_of_channels_go_into_the_layers_around_them():
    rng = np.random.default_rng(10)

    def build(net, x):
        x = net.op("Conv", x, net.weight(rng.integers(-127, 128, (6, SIZE[0], 1, 1)), 1 / 300))
        x = _with_scales_of_channels(net, net.op("Relu", x), rng.uniform(0.005, 0.03, 6), 0)
        return net.op("Conv", x, net.weight(rng.integers(-127, 128, (6, 1, 3, 3)), 1 / 300), group=6)

    assert kinds(assert_near(network(build))) == [Conv, Conv]


def test_scales_of_channels_elsewhere_become_tables():
    rng = np.random.default_rng(11)

    def build(net, x):
        return net.op("Tanh", _with_scales_of_channels(net, x, rng.uniform(0.01, 0.03, SIZE[0]), 128))

    assert kinds(assert_near(network(build, 1 / 127))) == [Lookup]
