"""Constants: shapes and what is reckoned with them, weights that are moved, factors behind layers, preprocessing."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.forms.graph import FormError
from compile.forms.normal_form import normal_form
from compile.qdq.importer import OnnxError, open_file
from compile.qdq.normalization import Normalization, NormalizationError
from compile.qdq.preprocessing import after_preprocessing
from targets.reference import interpreter
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

U8 = random_pictures((5, 5, 3))
X = ZERO_TO_ONE.floats(U8)
INT64 = TensorProto.INT64


def flattened(net: OnnxNet, x: str, how: str) -> str:
    """A map [N, 3, 1, 1] as [N, 3], the ways in which exporters write it."""
    zero = net.const([0], INT64)
    match how:
        case "size":
            rows = net.op("Unsqueeze", net.op("Gather", net.op("Shape", x), net.const(0, INT64)), zero)
            return net.op("Reshape", x, net.op("Concat", rows, net.const([-1], INT64), axis=0))
        case "shape slice":
            rows = net.op("Shape", x, start=0, end=1)
            return net.op("Reshape", x, net.op("Concat", rows, net.const([3], INT64), axis=0))
        case "slice":
            rows = net.op("Slice", net.op("Shape", x), zero, net.const([1], INT64), zero)
            return net.op("Reshape", x, net.op("Concat", rows, net.const([-1], INT64), axis=0))
        case "cast":
            rows = net.op("Cast", net.op("Cast", net.op("Shape", x, end=1), to=TensorProto.FLOAT), to=INT64)
            return net.op("Reshape", x, net.op("Concat", rows, net.const([-1], INT64), axis=0))
        case "filled":
            ones = net.op("ConstantOfShape", net.const([1], INT64), value=helper.make_tensor("v", INT64, [1], [-1]))
            return net.op("Reshape", x, net.op("Concat", net.op("Shape", x, end=1), ones, axis=0))
        case "range":
            numbers = net.op("Range", net.const(2, INT64), net.const(4, INT64), net.const(1, INT64))
            return net.op("Squeeze", x, numbers)
        case "value_ints":
            return net.op("Reshape", x, net.op("Constant", value_ints=[-1, 3]))
        case "zero copies":
            return net.op("Reshape", x, net.const([0, -1], INT64))
        case "negative axis":
            return net.op("Flatten", x, axis=-3)
        case "squeezed twice":
            return net.op("Squeeze", net.op("Squeeze", x, net.const([3], INT64)), net.const([-1], INT64))
    return net.op("Dropout", net.op("Identity", net.op("Flatten", net.op("Identity", x))))


WAYS = ("size", "shape slice", "slice", "cast", "filled", "range", "value_ints", "zero copies", "negative axis")


@pytest.mark.parametrize("how", [*WAYS, "squeezed twice", "identities"])
def test_every_way_to_flatten(how):
    net = OnnxNet((3, 5, 5))
    x = flattened(net, net.qdq(net.op("GlobalAveragePool", net.qdq("x", 1 / 255)), 1 / 255), how)
    rng = np.random.default_rng(0)
    y = net.qdq(net.op("MatMul", x, net.weight(rng.integers(-127, 128, (3, 4)), np.float32(0.01))), 0.01, 128)
    form = checked_form(net.model(y, 4, full_check=False))
    assert not {"Shape", "Concat", "Gather", "Constant", "Identity", "Dropout", "Range"} & set(kinds(form.qdq))
    np.testing.assert_array_equal(outputs(form.qdq, X), outputs(form.file, X))
    require_near(steps_apart(form, U8, X), 0.05)


@pytest.mark.parametrize(
    "attributes", [{"value_int": 2}, {"value_ints": [2]}, {"value_float": 2.0}, {"value_floats": [2.0]}]
)
def test_constants_in_all_their_forms(attributes):
    net = OnnxNet((3, 5, 5))
    number = net.op("Constant", **attributes)
    kind = INT64 if "int" in next(iter(attributes)) else TensorProto.FLOAT
    six = net.op("Cast", net.op("Mul", number, net.const(3, kind)), to=TensorProto.FLOAT)
    y = net.op("Add", net.op("Relu", "x"), six)
    form = checked_form(net.model(net.op("Flatten", y), 75, full_check=False))
    np.testing.assert_array_equal(outputs(form.qdq, X), (X + 6).reshape(len(X), -1))


def test_constant_texts_are_refused():
    net = OnnxNet((3, 5, 5))
    net.op("Constant", value_string="abc", name="text")
    with pytest.raises(FormError, match="node text .*got value_string"):
        normal_form(net.model(net.op("Flatten", "x"), 75))


def test_codes_of_weights_are_never_folded_away():
    net = OnnxNet((3, 5, 5))
    codes = np.random.default_rng(1).integers(-127, 128, (5, 3, 3, 3))
    y = net.op("Conv", net.qdq("x", 1 / 255), net.weight(codes, np.full(5, 0.01)))
    form = checked_form(net.model(net.qdq(net.op("Flatten", y), 0.1), 45))
    arrays = [numpy_helper.to_array(t) for t in form.qdq.graph.initializer]
    assert any(array.shape == codes.shape and (array == codes).all() for array in arrays)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("w_limits", [None, (-7, 7)])
@pytest.mark.parametrize("move", ["transpose", "reshape", "squeeze", "chain"])
def test_weights_that_are_moved_behind_their_quantizer(per_channel, w_limits, move):
    rng, net = np.random.default_rng(2), OnnxNet((75,))
    codes = rng.integers(-7, 8, (5, 75))
    scale, axis = (rng.uniform(0.01, 0.02, 5), 0) if per_channel else (np.float32(0.01), 0)
    x = net.qdq("x", 1 / 255)
    if move == "transpose":
        w = net.op("Transpose", net.weight(codes, scale, limits=w_limits, axis=axis), perm=[1, 0])
    elif move == "reshape":
        maps = codes.reshape(5, 3, 5, 5)
        w = net.op("Transpose", net.op("Reshape", net.weight(maps, scale, limits=w_limits), net.const([5, -1], INT64)))
    elif move == "squeeze":
        maps = codes.reshape(5, 1, 75)
        w = net.op("Transpose", net.op("Squeeze", net.weight(maps, scale, limits=w_limits), net.const([1], INT64)))
    else:
        w = net.weight(codes.T, scale, limits=w_limits, axis=1)
        w = net.op("Transpose", net.op("Unsqueeze", w, net.const([0], INT64)), perm=[2, 1, 0])
        w = net.op("Transpose", net.op("Flatten", w, axis=1))
    form = checked_form(net.model(net.qdq(net.op("MatMul", x, w), 0.1, 100), 5))
    assert not {"Transpose", "Reshape", "Squeeze", "Unsqueeze"} & set(kinds(form.qdq))
    x = X.reshape(len(X), -1)
    np.testing.assert_array_equal(outputs(form.qdq, x), outputs(form.file, x))


def test_scales_whose_axis_is_cut_up_are_refused():
    net = OnnxNet((8,))
    w = net.weight(np.ones((6, 8)), np.arange(1, 7) / 10)
    w = net.op("Transpose", net.op("Reshape", w, net.const([12, 4], INT64), name="cut"))
    y = net.op("MatMul", net.op("Reshape", net.qdq("x", 1.0), net.const([-1, 4], INT64)), w)
    with pytest.raises(FormError, match="node cut .*expected scales per channel that stay along one axis"):
        normal_form(net.model(y, 12, full_check=False))


STEPS = {
    "Mul": lambda net, x, c: net.op("Mul", c, x),
    "Div": lambda net, x, c: net.op("Div", x, c),
    "Sub": lambda net, x, c: net.op("Sub", x, c),
    "from": lambda net, x, c: net.op("Sub", c, x),
}


@pytest.mark.parametrize("steps", [["Mul"], ["Div"], ["from"], ["Sub", "Mul"], ["Mul", "Sub", "Div", "from"]])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["Conv", "MatMul", "Gemm"])
def test_factors_and_shifts_become_scales_and_biases(steps, per_channel, kind):
    rng = np.random.default_rng(3)
    net = OnnxNet((3, 5, 5) if kind == "Conv" else (75,))
    x, shape = net.qdq("x", 1 / 255), (5, 1, 1) if kind == "Conv" else (5,)
    if kind == "Conv":
        w = net.weight(rng.integers(-128, 128, (5, 3, 5, 5)), np.full(5, 0.01))
        y = net.op("Conv", x, w, net.const(rng.normal(0, 1, 5)))
    else:
        w = net.weight(rng.integers(-128, 128, (75, 5)), np.float32(0.01))
        y = net.op(kind, x, w, *([net.const(rng.normal(0, 1, 5))] if kind == "Gemm" else []))
    for step in steps:
        values = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape) if per_channel else rng.uniform(0.5, 2)
        y = STEPS[step](net, y, net.const(values))
    form = checked_form(net.model(net.qdq(net.op("Flatten", y), 0.5, 128), 5, full_check=False))
    assert not {"Mul", "Div", "Sub"} & set(kinds(form.qdq))
    x = X if kind == "Conv" else X.reshape(len(X), -1)
    require_near(np.rint((outputs(form.qdq, x) - outputs(form.file, x)) / 0.5), 0.03)


def test_a_bias_that_is_added_keeps_its_codes():
    rng, net = np.random.default_rng(4), OnnxNet((75,))
    y = net.op("MatMul", net.qdq("x", 1 / 255), net.weight(rng.integers(-9, 9, (75, 5)), np.float32(0.01)))
    y = net.op("Add", y, net.weight(rng.integers(-99, 99, 5), np.float32(0.01 / 255), TensorProto.INT32))
    assert kinds(normal_form(net.model(net.qdq(y, 0.1), 5)).qdq).count("Add") == 1


def preprocessed(steps, kind: int, nhwc: bool) -> onnx.ModelProto:
    """A mean of the picture after steps of (operator, constant)."""
    net = OnnxNet((5, 5, 3) if nhwc else (3, 5, 5), elem_type=kind)
    x = "x"
    for operator, value in steps:
        if operator == "Cast":
            x = net.op("Cast", x, to=TensorProto.FLOAT)
        elif operator == "Transpose":
            x = net.op("Transpose", x, perm=[0, 3, 1, 2])
        else:
            x = net.op(operator, x, net.const(value))
    x = net.qdq(net.op("GlobalAveragePool", net.qdq(x, 0.02, 120)), 0.02, 120)
    return net.model(net.op("Flatten", x), 3)


MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
MAPS = (3, 1, 1)


@pytest.mark.parametrize(
    "nhwc, steps",
    [
        (True, [("Cast", 0), ("Transpose", 0), ("Sub", MEAN.reshape(MAPS)), ("Div", STD.reshape(MAPS))]),
        (True, [("Cast", 0), ("Sub", MEAN), ("Div", STD), ("Transpose", 0)]),
        (True, [("Transpose", 0), ("Cast", 0), ("Mul", 1 / 127.5), ("Add", -1.0)]),
        (False, [("Cast", 0), ("Div", 255.0), ("Sub", [[[0.4]], [[0.5]], [[0.45]]]), ("Mul", 4.0)]),
        (False, [("Cast", 0), ("Mul", 1 / 127.5), ("Sub", 1.0)]),
    ],
)
def test_preprocessing_of_a_uint8_picture(tmp_path, nhwc, steps):
    model = preprocessed(steps, TensorProto.UINT8, nhwc)
    form = checked_form(model)
    assert form.preprocessing.of_uint8 and not {"Cast", "Sub", "Div", "Mul", "Add"} & set(kinds(form.qdq))
    onnx.save(model, tmp_path / "file.onnx")
    graph = open_file(tmp_path / "file.onnx").graph
    x = U8 if nhwc else np.ascontiguousarray(U8.transpose(0, 3, 1, 2))
    logits = interpreter.run(graph, U8)
    require_near(logits - np.rint(outputs(form.file, x) / 0.02), 0.06)
    with pytest.raises(NormalizationError, match="leave --mean and --std out"):
        open_file(tmp_path / "file.onnx", ZERO_TO_ONE)


def test_preprocessing_of_a_float_picture_goes_before_that_of_the_file():
    form = normal_form(preprocessed([("Sub", 0.5), ("Div", [[[0.25]], [[0.2]], [[0.3]]])], TensorProto.FLOAT, False))
    both = after_preprocessing(Normalization((0.1,), (0.9,)), form.preprocessing)
    u8 = U8.astype(np.float64)
    first = (u8 / 255 - 0.1) / 0.9
    expected = ((first - 0.5) / [0.25, 0.2, 0.3]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(both.floats(U8), expected, rtol=1e-5, atol=1e-6)
    assert after_preprocessing(None, form.preprocessing) is None


def test_a_picture_turned_negative_is_refused(tmp_path):
    onnx.save(preprocessed([("Mul", -1.0)], TensorProto.FLOAT, False), tmp_path / "file.onnx")
    with pytest.raises(OnnxError, match=r"file.onnx: node mul0 .*expected a positive factor"):
        open_file(tmp_path / "file.onnx", ZERO_TO_ONE)
