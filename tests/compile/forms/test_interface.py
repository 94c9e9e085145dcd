"""What a file takes and gives: versions, batches, sizes, several outputs, scores behind the logits."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compile.forms.graph import FormError
from compile.forms.normal_form import normal_form
from compile.forms.options import FormOptions
from compile.qdq.importer import open_file
from tests.support.foreign import OnnxNet
from tests.support.form_files import (
    ZERO_TO_ONE,
    checked_form,
    kinds,
    outputs,
    random_pictures,
    require_near,
    steps_apart,
)


def classifier(classes: int = 5, opset: int = 21, seed: int = 0, size: int = 8) -> tuple[OnnxNet, str]:
    """A convolution, a mean and a dense layer with quantized logits."""
    rng, net = np.random.default_rng(seed), OnnxNet((3, size, size), opset)
    x = net.qdq("x", 1 / 255)
    x = net.op(
        "Conv", x, net.weight(rng.integers(-127, 128, (6, 3, 3, 3)), np.full(6, 0.004)), pads=[1] * 4, name="conv"
    )
    x = net.qdq(net.op("Relu", x), 0.02)
    x = net.qdq(net.op("GlobalAveragePool", x), 0.02)
    x = net.op("Flatten", x)
    w = net.weight(rng.integers(-127, 128, (6, classes)), np.float32(0.01))
    return net, net.qdq(net.op("MatMul", x, w, name="dense"), 0.03, 128)


PICTURES = random_pictures((8, 8, 3))
FLOATS = ZERO_TO_ONE.floats(PICTURES)


@pytest.mark.parametrize(
    "tail, kind",
    [
        (["Softmax"], "softmax"),
        (["LogSoftmax"], "softmax"),
        (["Sigmoid"], "sigmoid"),
        (["Softmax", "Identity"], "softmax"),
        (["Softmax", "ArgMax"], "softmax"),
        (["ArgMax"], None),
        (["Identity"], None),
    ],
)
def test_scores_are_cut_off(tail, kind):
    net, logits = classifier()
    name = logits
    for operator in tail:
        name = net.op(operator, name, **({"axis": 1} if operator == "ArgMax" else {}))
    model = net.model(name, 5, full_check=False)
    if "ArgMax" in tail:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 1]))
    form = checked_form(model)
    assert form.scores == kind and not {"Softmax", "LogSoftmax", "Sigmoid", "ArgMax"} & set(kinds(form.file))
    require_near(steps_apart(form, PICTURES, FLOATS))


def test_quantized_scores_are_cut_off_with_their_quantizers():
    net, logits = classifier()
    name = net.qdq(net.op("Softmax", logits), 1 / 256)
    form = checked_form(net.model(name, 5))
    assert form.qdq.graph.output[0].name == logits and form.scores == "softmax"


def test_softmax_over_codes():
    net, _ = classifier()
    codes = net.nodes[-1].input[0]
    q = net.quantizer(0.03, 128, TensorProto.UINT8)
    out = net.quantizer(1 / 256, 0, TensorProto.UINT8)
    net.nodes.append(
        helper.make_node(
            "QLinearSoftmax", [codes, *q, *out], ["p"], name="p", domain="com.microsoft", axis=-1, opset=13
        )
    )
    model = net.model(net.op("DequantizeLinear", "p", *out), 5, full_check=False)
    form = checked_form(model)
    assert form.scores == "softmax"
    require_near(steps_apart(form, PICTURES, FLOATS))


def test_sigmoid_inside_a_network_stays():
    net = OnnxNet((3, 8, 8))
    x = net.qdq(net.op("Sigmoid", net.qdq("x", 1 / 255)), 1 / 255)
    y = net.qdq(net.op("Flatten", net.op("GlobalAveragePool", x)), 1 / 255)
    assert "Sigmoid" in kinds(normal_form(net.model(y, 3)).qdq)


def two_outputs(*names_of_second: str) -> onnx.ModelProto:
    net, logits = classifier()
    second = net.op("Softmax", logits) if "softmax" in names_of_second else net.nodes[-5].output[0]
    model = net.model(logits, 5)
    model.graph.output.append(helper.make_tensor_value_info(second, TensorProto.FLOAT, ["N", "K"]))
    model.graph.node.extend(net.nodes[len(model.graph.node) :])
    return model


def test_several_outputs_are_listed_unless_one_is_named():
    model = two_outputs()
    first, second = (value.name for value in model.graph.output)
    with pytest.raises(FormError, match=f"expected one output, got {first}, {second}; name the one .* --output"):
        normal_form(model)
    assert normal_form(model, FormOptions(output=first)).qdq.graph.output[0].name == first
    with pytest.raises(FormError, match=f"expected one of the outputs {first}, {second}, got 'other'"):
        normal_form(model, FormOptions(output="other"))


def test_outputs_of_the_same_logits_are_one():
    model = two_outputs("softmax")
    form = checked_form(model)
    assert len(form.qdq.graph.output) == 1 and form.scores == "softmax"


def with_dims(model: onnx.ModelProto, *dims) -> onnx.ModelProto:
    name = model.graph.input[0].name
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))
    return model


def test_free_height_and_width_need_a_size():
    net, logits = classifier()
    model = with_dims(net.model(logits, 5), "N", 3, "H", "W")
    with pytest.raises(FormError, match=r"got \[N, 3, H, W\]; give them with --size"):
        normal_form(model)
    form = checked_form(model, FormOptions(size=(8, 8)))
    require_near(steps_apart(form, PICTURES, FLOATS))


def test_a_size_that_contradicts_the_file_is_refused():
    net, logits = classifier()
    with pytest.raises(FormError, match="expected a height of 9 as --size says"):
        normal_form(net.model(logits, 5), FormOptions(size=(9, 8)))


def test_a_fixed_batch_becomes_one():
    net, _ = classifier()
    rng = np.random.default_rng(1)
    x = net.op("Reshape", net.nodes[-5].output[0], net.const([8, 6], TensorProto.INT64))
    y = net.qdq(net.op("MatMul", x, net.weight(rng.integers(-9, 9, (6, 4)), np.float32(0.1))), 0.01, 128)
    model = with_dims(net.model(y, 4, full_check=False), 8, 3, 8, 8)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(y, TensorProto.FLOAT, [8, 4]))
    form = checked_form(model)
    assert form.file.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    require_near(steps_apart(form, PICTURES, FLOATS), 0.05)


@pytest.mark.parametrize("opset", [22, 25, onnx.defs.onnx_opset_version()])
def test_newer_numbers_of_the_same_operators_are_lowered(opset):
    net, logits = classifier(opset=opset)
    model = net.model(logits, 5)
    model.ir_version = onnx.IR_VERSION
    form = checked_form(model)
    assert form.file.opset_import[0].version == 21 and form.file.ir_version <= 10
    require_near(steps_apart(form, PICTURES, FLOATS))


def test_numbers_stay_where_a_type_of_the_file_needs_them():
    net = OnnxNet((3, 8, 8), opset=25)
    x = net.qdq(net.op("GlobalAveragePool", net.qdq("x", 1 / 255)), 1 / 3, 0, TensorProto.UINT2)
    form = normal_form(net.model(net.op("Flatten", x), 3))
    assert form.file.opset_import[0].version == 25
    require_near(steps_apart(form, PICTURES, FLOATS), 0.1)


def test_older_files_get_an_opset_that_has_scales_per_channel():
    net = OnnxNet((3, 8, 8), opset=11)
    x = net.op("Squeeze", net.op("GlobalAveragePool", net.qdq("x", 1 / 255)), axes=[2, 3])
    form = checked_form(net.model(net.qdq(x, 1 / 255), 3))
    assert form.qdq.opset_import[0].version >= 13


def test_constants_in_files_beside_it(tmp_path):
    net, logits = classifier()
    model = net.model(logits, 5)
    onnx.save(model, tmp_path / "whole.onnx")
    onnx.save(model, tmp_path / "parts.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    whole, parts = (open_file(tmp_path / f"{name}.onnx", ZERO_TO_ONE) for name in ("whole", "parts"))
    assert whole.is_whole and not parts.is_whole
    np.testing.assert_array_equal(outputs(parts.form.file, FLOATS), outputs(whole.form.file, FLOATS))


def test_functions_of_the_model_are_inlined():
    net, logits = classifier()
    model = net.model(net.op("twice", logits, domain="own"), 5, full_check=False)
    body = [helper.make_node("Identity", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "twice", ["a"], ["b"], body, [helper.make_opsetid("", 21)]))
    assert "twice" not in kinds(checked_form(model).file)
