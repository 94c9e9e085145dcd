"""Where quantizers stand: equal ones merged, moved before pools and pads, NHWC maps flattened into dense layers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from compile.forms.normal_form import normal_form
from compile.qdq.importer import OnnxError, from_model
from targets.reference.nodes import Conv, MaxPool
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

U8 = random_pictures((9, 9, 3))
X = ZERO_TO_ONE.floats(U8)
INT64 = TensorProto.INT64


def conv(net: OnnxNet, x: str, outputs_: int, inputs: int, seed: int = 0, **attributes) -> str:
    codes = np.random.default_rng(seed).integers(-127, 128, (outputs_, inputs, 3, 3))
    return net.op("Conv", x, net.weight(codes, np.full(outputs_, 0.01 / inputs)), pads=[1] * 4, **attributes)


def classified(net: OnnxNet, x: str, channels: int) -> onnx.ModelProto:
    """The mean of a dequantized map as the output."""
    y = net.qdq(net.op("Flatten", net.op("GlobalAveragePool", x)), 0.02)
    return net.model(y, channels, full_check=False)


def test_a_pair_for_each_reader_is_one(tmp_path):
    u8 = random_pictures((14, 14, 3))
    x = ZERO_TO_ONE.floats(u8)
    shared, dedicated = (
        quantized(tmp_path, float_network(6), x, extra_options={"DedicatedQDQPair": on}) for on in (False, True)
    )
    forms = [checked_form(model) for model in (shared, dedicated)]
    assert kinds(dedicated).count("QuantizeLinear") > kinds(shared).count("QuantizeLinear")
    assert len({kinds(form.qdq).count("QuantizeLinear") for form in forms}) == 1
    np.testing.assert_array_equal(*(outputs(form.qdq, x) for form in forms))
    graphs = [from_model(form.qdq, normalization=ZERO_TO_ONE) for form in forms]
    assert len(graphs[0].nodes) == len(graphs[1].nodes)


@pytest.mark.parametrize("zero_point", [0, 97])
@pytest.mark.parametrize("order", [["MaxPool"], ["Relu", "MaxPool"], ["MaxPool", "Relu"], ["MaxPool", "MaxPool"]])
def test_pools_before_their_quantizer(order, zero_point):
    net = OnnxNet((3, 9, 9))
    x = conv(net, net.qdq("x", 1 / 255), 6, 3)
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    for kind in order:
        x = net.op(kind, x, **(window if kind == "MaxPool" else {}))
    form = checked_form(classified(net, net.qdq(x, 0.02, zero_point), 6))
    np.testing.assert_array_equal(outputs(form.qdq, X), outputs(form.file, X))
    graph = from_model(form.qdq, normalization=ZERO_TO_ONE)
    assert {Conv, MaxPool} <= {type(node) for node in graph.nodes}
    require_near(steps_apart(form, U8, X))


@pytest.mark.parametrize("value", ["none", "float", "codes"])
@pytest.mark.parametrize("scale", [1 / 255, 1 / 128])
def test_pads_between_quantizers(value, scale):
    net = OnnxNet((3, 9, 9))
    zero = {
        "none": (),
        "float": (net.const(0.0),),
        "codes": (net.weight(np.zeros(()), np.float32(0.1), TensorProto.UINT8),),
    }[value]
    x = net.op("Pad", net.qdq("x", 1 / 255), net.const([0, 0, 0, 1, 0, 0, 2, 1], INT64), *zero)
    codes = np.random.default_rng(1).integers(-127, 128, (4, 3, 3, 3))
    x = net.op("Conv", net.qdq(x, scale), net.weight(codes, np.full(4, 0.004)), strides=[2, 2])
    form = checked_form(classified(net, net.qdq(net.op("Relu", x), 0.01), 4))
    np.testing.assert_array_equal(outputs(form.qdq, X), outputs(form.file, X))
    require_near(steps_apart(form, U8, X))


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("flatten", ["Reshape", "Flatten"])
@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("w_limits", [None, (-7, 7)])
def test_maps_flattened_in_nhwc(trans_b, flatten, between, w_limits):
    rng, net = np.random.default_rng(2), OnnxNet((3, 9, 9))
    x = net.qdq(net.op("Relu", conv(net, net.qdq("x", 1 / 255), 6, 3)), 0.02)
    x = net.op("Transpose", x, perm=[0, 2, 3, 1])
    x = net.qdq(x, 0.02) if between else x
    x = net.op("Flatten", x) if flatten == "Flatten" else net.op("Reshape", x, net.const([-1, 486], INT64))
    x = net.qdq(x, 0.02) if between else x
    scales = rng.uniform(0.001, 0.002, 5)
    codes = rng.integers(-7, 8, (5, 486) if trans_b else (486, 5))
    w = net.weight(codes, scales, limits=w_limits, axis=0 if trans_b else 1)
    y = net.op("Gemm", x, w, transB=1) if trans_b else net.op("MatMul", x, w)
    form = checked_form(net.model(net.qdq(y, 0.01, 128), 5))
    assert "Transpose" not in kinds(form.qdq)
    require_near(np.rint((outputs(form.qdq, X) - outputs(form.file, X)) / 0.01))
    require_near(steps_apart(form, U8, X))


def test_means_of_maps_in_nhwc_and_transposes_back():
    net = OnnxNet((3, 9, 9))
    x = net.op("Transpose", net.qdq("x", 1 / 255), perm=[0, 2, 3, 1])
    x = net.op("Transpose", net.qdq(x, 1 / 255), perm=[0, 3, 1, 2])
    x = net.qdq(net.op("Relu", conv(net, x, 6, 3)), 0.02)
    x = net.op("ReduceMean", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.const([1, 2], INT64), keepdims=0)
    form = checked_form(net.model(net.qdq(x, 0.02), 6))
    assert "Transpose" not in kinds(form.qdq)
    require_near(np.rint((outputs(form.qdq, X) - outputs(form.file, X)) / 0.02))
    require_near(steps_apart(form, U8, X))


def test_nhwc_that_something_else_needs_stays():
    net = OnnxNet((3, 9, 9))
    x = net.op("Transpose", net.qdq("x", 1 / 255), perm=[0, 2, 3, 1])
    y = net.op("Flatten", net.qdq(x, 1 / 255))
    assert "Transpose" in kinds(normal_form(net.model(y, 243)).qdq)


def residual(quantize_sum: bool) -> onnx.ModelProto:
    """x = Relu(Conv), x + Conv(Relu(Conv(x))), quantizers only before layers, and before the Add where told."""
    net = OnnxNet((3, 9, 9))
    x = net.op("Relu", conv(net, net.qdq("x", 1 / 255), 6, 3))
    y = net.op("Relu", conv(net, net.qdq(x, 0.02), 6, 6, 1))
    y = conv(net, net.qdq(y, 0.02), 6, 6, 2, name="last")
    a, b = (net.qdq(y, 0.02, 128), net.qdq(x, 0.02)) if quantize_sum else (y, x)
    return classified(net, net.qdq(net.op("Relu", net.op("Add", a, b, name="sum")), 0.02), 6)


def test_residuals_with_quantizers_only_before_layers():
    form = checked_form(residual(True))
    assert not form.notes
    np.testing.assert_array_equal(outputs(form.qdq, X), outputs(form.file, X))
    require_near(steps_apart(form, U8, X))


def test_a_residual_that_nothing_quantizes_is_taken_in_the_codes_of_its_other_reader():
    form = checked_form(residual(False))
    assert len(form.notes) == 1 and form.notes[0].startswith("sum adds ")
    # Half a step of rounding for each pixel of the residual, whose mean is near 0.
    assert np.abs(steps_apart(form, U8, X)).max() <= 1


def test_a_mean_of_sums_is_refused_with_advice():
    net = OnnxNet((3, 9, 9))
    x = net.op("GlobalAveragePool", conv(net, net.qdq("x", 1 / 255), 6, 3), name="mean")
    model = net.model(net.qdq(net.op("Flatten", x), 0.02), 6)
    with pytest.raises(OnnxError, match="node mean .*expected a quantized input.*--calibrate PICTURES"):
        from_model(normal_form(model).qdq, normalization=ZERO_TO_ONE)


@pytest.mark.parametrize("which", ["first", "last"])
def test_layers_left_in_float_are_refused_with_advice(tmp_path, which):
    model = float_network(7)
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    name = layers[0] if which == "first" else layers[-1]
    u8 = random_pictures((14, 14, 3))
    kept = quantized(tmp_path, model, ZERO_TO_ONE.floats(u8), nodes_to_exclude=[name])
    with pytest.raises(OnnxError, match=f"node {name} .*expected weights that are.*--calibrate PICTURES"):
        from_model(normal_form(kept).qdq, normalization=ZERO_TO_ONE)
