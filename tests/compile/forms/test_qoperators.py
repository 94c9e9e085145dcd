"""The QOperator form: the very same scales, zero points and codes, and onnxruntime's results."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType

from compile.forms.graph import FormError
from compile.forms.normal_form import normal_form
from tests.support.foreign import OnnxNet, float_network
from tests.support.form_files import (
    ZERO_TO_ONE,
    checked_form,
    kinds,
    outputs,
    quantized,
    random_pictures,
    require_near,
    steps_apart,
)

U8, S8 = QuantType.QUInt8, QuantType.QInt8
EVERY_CODE = np.arange(256, dtype=np.float32).reshape(256, 1)


@pytest.mark.parametrize("activation", [U8, S8], ids=["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_network_of_onnxruntime(tmp_path, activation, per_channel):
    u8 = random_pictures((14, 14, 3))
    x = ZERO_TO_ONE.floats(u8)
    model = quantized(
        tmp_path,
        float_network(1),
        x,
        QuantFormat.QOperator,
        activation_type=activation,
        weight_type=S8,
        per_channel=per_channel,
    )
    assert {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "MaxPool"} <= set(kinds(model))
    form = checked_form(model)
    assert not any(kind.startswith("QLinear") for kind in kinds(form.qdq))
    require_near(steps_apart(form, u8, x), 0.05)
    codes = {t.name: t.SerializeToString() for t in form.qdq.graph.initializer}
    weights = [t for t in model.graph.initializer if t.data_type in (TensorProto.INT8, TensorProto.INT32) and t.dims]
    assert weights and all(codes.get(t.name) == t.SerializeToString() for t in weights)


def two_operands(kind: str, **attributes) -> onnx.ModelProto:
    """Codes 0..255 of the input, and of a constant row, through one operator of two operands."""
    net = OnnxNet((4,))
    x = net.op("QuantizeLinear", "x", *net.quantizer(1.0, 0, TensorProto.UINT8))
    other = net.const([[0, 7, 130, 255]], TensorProto.UINT8)
    a, b = net.quantizer(0.05, 100, TensorProto.UINT8), net.quantizer(0.02, 3, TensorProto.UINT8)
    out = net.quantizer(0.11, 40, TensorProto.UINT8)
    inputs = (*out, x, *a, other, *b) if kind == "QLinearConcat" else (x, *a, other, *b, *out)
    net.nodes.append(helper.make_node(kind, list(inputs), ["y"], name="y", domain="com.microsoft", **attributes))
    return net.model(net.op("DequantizeLinear", "y", *out), 8 if kind == "QLinearConcat" else 4, full_check=False)


@pytest.mark.parametrize("kind, attributes", [("QLinearAdd", {}), ("QLinearMul", {}), ("QLinearConcat", {"axis": 1})])
def test_two_operands_over_every_code(kind, attributes):
    model = two_operands(kind, **attributes)
    x = np.repeat(EVERY_CODE, 4, 1)
    apart = np.rint((outputs(checked_form(model).qdq, x) - outputs(model, x)) / 0.11)
    require_near(apart, 0.03)


@pytest.mark.parametrize(
    "kind, attributes, float_kind",
    [
        ("QLinearSigmoid", {}, "Sigmoid"),
        ("QLinearLeakyRelu", {"alpha": 0.1}, "LeakyRelu"),
        ("QLinearGlobalAveragePool", {}, "GlobalAveragePool"),
        ("QLinearAveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, "AveragePool"),
    ],
)
def test_one_operand_over_every_code(kind, attributes, float_kind):
    net = OnnxNet((1, 2, 2))
    x = net.op("QuantizeLinear", "x", *net.quantizer(1.0, 0, TensorProto.UINT8))
    inside, out = net.quantizer(0.05, 128, TensorProto.UINT8), net.quantizer(0.03, 10, TensorProto.UINT8)
    node = helper.make_node(kind, [x, *inside, *out], ["y"], name="y", domain="com.microsoft", **attributes)
    net.nodes.append(node)
    y = net.op("Relu", net.op("DequantizeLinear", "y", *out))  # no score of a class, which would be cut off
    model = net.model(net.op("Flatten", y), 1 if "Pool" in kind else 4, full_check=False)
    form = checked_form(model)
    assert float_kind in kinds(form.qdq)
    x = np.repeat(EVERY_CODE, 4, 1).reshape(256, 1, 2, 2)
    require_near(np.rint((outputs(form.qdq, x) - outputs(model, x)) / 0.03), 0.03)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("float_output", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_gemm(trans_b, float_output, alpha):
    rng, net = np.random.default_rng(3), OnnxNet((6,))
    x = net.op("QuantizeLinear", "x", *net.quantizer(0.1, 30, TensorProto.UINT8))
    scales = rng.uniform(0.01, 0.02, 5)
    codes = rng.integers(-127, 128, (5, 6) if trans_b else (6, 5))
    weights = [net.const(codes, TensorProto.INT8), net.const(scales), net.const(np.zeros(5), TensorProto.INT8)]
    bias = net.const(rng.integers(-900, 900, 5), TensorProto.INT32)
    out = net.quantizer(0.3, 120, TensorProto.UINT8)
    inputs = [x, *net.quantizer(0.1, 30, TensorProto.UINT8), *weights, bias, *(() if float_output else out)]
    attributes = {"alpha": alpha, "transB": trans_b}
    net.nodes.append(helper.make_node("QGemm", inputs, ["y"], name="y", domain="com.microsoft", **attributes))
    model = net.model("y" if float_output else net.op("DequantizeLinear", "y", *out), 5, full_check=False)
    form = checked_form(model)
    x = rng.uniform(-3, 20, (200, 6)).astype(np.float32)
    real, expected = outputs(form.qdq, x), outputs(model, x)
    if float_output:
        np.testing.assert_allclose(real, expected, rtol=1e-4, atol=1e-4)
    else:
        require_near(np.rint((real - expected) / 0.3))


def test_int32_bias_has_the_scale_of_its_sums(tmp_path):
    x = ZERO_TO_ONE.floats(random_pictures((14, 14, 3)))
    form = normal_form(quantized(tmp_path, float_network(2), x, QuantFormat.QOperator, per_channel=True))
    constants = {t.name: numpy_helper.to_array(t) for t in form.qdq.graph.initializer}
    scale_of = {n.output[0]: constants[n.input[1]] for n in form.qdq.graph.node if n.op_type == "DequantizeLinear"}
    convs = [n for n in form.qdq.graph.node if n.op_type == "Conv" and len(n.input) > 2]
    assert convs
    for conv in convs:
        x_scale, w_scale, b_scale = (scale_of[name] for name in conv.input)
        np.testing.assert_array_equal(b_scale.reshape(-1), (x_scale * w_scale).reshape(-1))


def test_pools_of_other_layouts_are_refused():
    net = OnnxNet((2, 2, 1))
    x = net.op("QuantizeLinear", "x", *net.quantizer(1.0, 0, TensorProto.UINT8))
    q = net.quantizer(1.0, 0, TensorProto.UINT8)
    name = "QLinearGlobalAveragePool"
    net.nodes.append(helper.make_node(name, [x, *q, *q], ["y"], name="pool", domain="com.microsoft", channels_last=1))
    model = net.model(net.op("Flatten", net.op("DequantizeLinear", "y", *q)), 1, full_check=False)
    with pytest.raises(FormError, match="node pool .*channels_last"):
        normal_form(model)
