"""Other quantizers: com.microsoft's, QONNX's, dynamic ones, and numbers of half precision."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from compile.forms.graph import FileGraph, FormError
from compile.forms.normal_form import normal_form
from compile.forms.qonnx import ROUNDINGS
from compile.qdq.importer import from_model
from compile.qdq.preprocessing import after_preprocessing
from targets.reference import interpreter
from targets.reference.nodes import Conv
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

U8 = random_pictures((14, 14, 3))
X = ZERO_TO_ONE.floats(U8)
QONNX = "qonnx.custom_op.general"


def test_contrib_quantizers_mean_the_same(tmp_path):
    plain, contrib = (
        quantized(tmp_path, float_network(3), X, extra_options={"UseQDQContribOps": on}) for on in (False, True)
    )
    assert any(node.domain == "com.microsoft" for node in contrib.graph.node)
    form = checked_form(contrib)
    assert all(not node.domain for node in form.qdq.graph.node)
    graphs = [from_model(normal_form(model).qdq, normalization=ZERO_TO_ONE) for model in (plain, contrib)]
    logits = [interpreter.run(graph, U8) for graph in graphs]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("kind", [TensorProto.UINT16, TensorProto.INT16, TensorProto.FLOAT8E4M3FN])
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_other_codes_are_refused_by_name(kind, domain):
    net = OnnxNet((3, 4, 4))
    zero = net.const(0, kind)
    q = net.op("QuantizeLinear", "x", net.const(0.1), zero, domain=domain, name="first")
    y = net.op("Flatten", net.op("DequantizeLinear", q, net.const(0.1), zero, domain=domain))
    name = TensorProto.DataType.Name(kind).lower()
    with pytest.raises(FormError, match=f"node first .*expected integer codes of 8 bits at most, got {name}"):
        normal_form(net.model(y, 48, full_check=False))


def qonnx_network(w_bits: int, a_bits: int, signed: int, narrow: int) -> onnx.ModelProto:
    """Quant of the picture, a Conv with Quant weights per channel, BatchNormalization, Relu, Quant, a dense layer."""
    rng, net = np.random.default_rng(5), OnnxNet((3, 8, 8))

    def quant(x, scale, bits, signed=1, narrow=0):
        numbers = (net.const(scale), net.const(0.0), net.const(float(bits)))
        modes = {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"}
        return net.op("Quant", x, *numbers, domain=QONNX, **modes)

    x = quant("x", 1 / 255, 8, 0)
    scales = rng.uniform(0.5, 1.5, (6, 1, 1, 1)) / (1 << w_bits)
    weights = quant(net.const(rng.normal(0, 0.3, (6, 3, 3, 3))), scales, w_bits, 1, narrow)
    x = net.op("Conv", x, weights, pads=[1] * 4)
    factors = net.const([1.5, 0.7, -0.9, 1.1, -2.0, 0.3])
    statistics = [net.const(rng.normal(0, 0.3, 6)), net.const(rng.normal(0, 0.3, 6)), net.const(rng.uniform(0.5, 2, 6))]
    x = net.op("BatchNormalization", x, factors, *statistics)
    x = quant(net.op("Relu", x), 2 / (1 << a_bits), a_bits, signed)
    x = quant(net.op("Flatten", net.op("GlobalAveragePool", x)), 2 / (1 << a_bits), a_bits, signed)
    y = net.op("MatMul", x, quant(net.const(rng.normal(0, 0.5, (6, 4))), 1 / (1 << w_bits), w_bits))
    return net.model(y, 4, full_check=False)


def quant_in_numpy(x, scale, zero, bits, signed, narrow):
    """The formula of QONNX's Quant, in float32."""
    low = (-(1 << (bits - 1)) + narrow) if signed else 0
    high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1 - narrow
    return ((np.clip(np.rint(x / scale + zero), low, high) - zero) * scale).astype(np.float32)


def standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every Quant spelled out as Div, Add, Round, Clip, Sub, Mul, for onnxruntime."""
    graph = FileGraph(model)
    for node in [node for node in graph.nodes if node.op_type == "Quant"]:
        bits = int(graph.array(node.input[3]))
        modes = {a.name: a.i for a in node.attribute}
        limits = [
            graph.add_constant("limit", quant_in_numpy(np.float32(far), 1, 0, bits, modes["signed"], modes["narrow"]))
            for far in (-1e9, 1e9)
        ]
        names = [node.input[0], *node.input[1:3]]
        new = [graph.make("Div", names[:2], hint="q")]
        for kind, extra in (("Add", [names[2]]), ("Round", []), ("Clip", limits), ("Sub", [names[2]])):
            new.append(graph.make(kind, [new[-1].output[0], *extra], hint="q"))
        graph.replace([node], [*new, graph.make("Mul", [new[-1].output[0], names[1]], node.output[0])])
    return graph.model()


@pytest.mark.parametrize(
    "w_bits, a_bits, signed, narrow", [(8, 8, 0, 1), (8, 8, 1, 0), (4, 4, 0, 1), (2, 2, 0, 0), (3, 5, 1, 1)]
)
def test_qonnx_against_its_formula(w_bits, a_bits, signed, narrow):
    model = qonnx_network(w_bits, a_bits, signed, narrow)
    form = checked_form(model)
    u8 = random_pictures((8, 8, 3))
    x = ZERO_TO_ONE.floats(u8)
    expected = outputs(standard(model), x)
    step = 2 / (1 << a_bits)
    answers = [outputs(form.qdq, x)]
    if narrow or w_bits < 8:  # -128 negated needs a ninth bit
        graph = from_model(form.qdq, normalization=ZERO_TO_ONE)
        answers.append(interpreter.run(graph, u8) * graph.tensors[graph.output].scale)
        narrowest = min(node.w_bits for node in graph.nodes if isinstance(node, Conv) and node.groups == 1)
        assert narrowest <= w_bits + 1
    for answer in answers:
        # a mean on a tie may become the code beside it, which moves the four logits by a step times their weights
        apart = np.abs(answer - expected)
        assert (apart > 1e-4).mean() < 0.2 and apart.max() < 3 * step, (apart.max(), (apart > 1e-4).mean())


def test_what_onnxruntime_runs_of_qonnx_keeps_the_preprocessing():
    net = OnnxNet((3, 9, 9))
    numbers = (net.const(0.0091), net.const(0.0), net.const(8.0))  # no uint8 value is on a tie
    x = net.op("Sub", net.op("Mul", "x", net.const(2.0)), net.const(0.91))
    x = net.op("Quant", x, *numbers, domain=QONNX, signed=1, narrow=1, rounding_mode="ROUND")
    y = net.qdq(net.op("Flatten", net.op("GlobalAveragePool", x)), 1 / 255, 128)
    form = checked_form(net.model(y, 3, full_check=False))
    assert form.preprocessing is not None and {"Mul", "Sub"} <= set(kinds(form.file))
    u8 = random_pictures((9, 9, 3))
    graph = from_model(form.qdq, normalization=after_preprocessing(ZERO_TO_ONE, form.preprocessing))
    codes = np.rint(outputs(form.file, ZERO_TO_ONE.floats(u8)) * 255)
    require_near(interpreter.run(graph, u8) - codes, 0.1)


@pytest.mark.parametrize("rounding", sorted(ROUNDINGS))
def test_weights_are_rounded_as_qonnx_says(rounding):
    """Half a step either side, and every quarter between, as in QONNX's table of rounding modes."""
    values = np.arange(-12, 13).reshape(1, 25) / 4
    expected = {
        "ROUND": np.rint(values),
        "HALF_EVEN": np.rint(values),
        "CEIL": np.ceil(values),
        "FLOOR": np.floor(values),
        "UP": np.where(values > 0, np.ceil(values), np.floor(values)),
        "DOWN": np.trunc(values),
        "ROUND_TO_ZERO": np.trunc(values),
        "HALF_UP": np.where(values > 0, np.floor(values + 0.5), np.ceil(values - 0.5)),
        "HALF_DOWN": np.where(values > 0, np.ceil(values - 0.5), np.floor(values + 0.5)),
    }[rounding]
    net = OnnxNet((1,))
    numbers = (net.const(1.0), net.const(0.0), net.const(8.0))
    w = net.op("Quant", net.const(values), *numbers, domain=QONNX, signed=1, narrow=0, rounding_mode=rounding)
    form = normal_form(net.model(net.op("MatMul", net.qdq("x", 1.0), w), 25, full_check=False))
    codes = next(numpy_helper.to_array(t) for t in form.qdq.graph.initializer if t.dims == [1, 25])
    np.testing.assert_array_equal(codes, expected)


def test_bipolar_weights():
    values = np.float32([[0.3, -0.2, 0.0, -4.0]])
    net = OnnxNet((1,))
    w = net.op("BipolarQuant", net.const(values), net.const(0.5), domain=QONNX)
    form = checked_form(net.model(net.op("MatMul", net.qdq("x", 1.0), w), 4, full_check=False))
    np.testing.assert_array_equal(outputs(form.qdq, np.float32([[3.0]])), [[1.5, -1.5, 1.5, -1.5]])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"bits": 9.0}, "one width of 1..8 bits"),
        ({"zero": 0.5}, "one whole zero point"),
        ({"rounding_mode": "FLOOR"}, "rounded to the nearest code"),
        ({"rounding_mode": "SOMEHOW"}, "expected a rounding among"),
        ({"kind": "BipolarQuant"}, "activations of 2 bits or more"),
        ({"kind": "Trunc"}, "got Trunc; export with QCDQ"),
    ],
)
def test_what_quantizers_cannot_say_is_refused(change, words):
    net = OnnxNet((2,))
    numbers = (net.const(0.1), net.const(change.get("zero", 0.0)), net.const(change.get("bits", 8.0)))
    kind, mode = change.get("kind", "Quant"), change.get("rounding_mode", "ROUND")
    y = net.op(kind, "x", *numbers, domain=QONNX, name="here", signed=1, narrow=0, rounding_mode=mode)
    with pytest.raises(FormError, match=f"node here .*{words}"):
        normal_form(net.model(y, 2, full_check=False))


def test_dynamic_quantization_is_refused_with_advice(tmp_path):
    onnx.save(float_network(4), tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", weight_type=QuantType.QUInt8)
    model = onnx.load(tmp_path / "dynamic.onnx")
    assert {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"} <= set(kinds(model))
    with pytest.raises(FormError, match=r"dynamically quantized network \(\d+ layers\).*--calibrate PICTURES"):
        normal_form(model)


def test_half_precision_becomes_float32_exactly(tmp_path):
    options = {"extra_options": {"QuantizeBias": False}, "activation_type": QuantType.QInt8}
    model = quantized(tmp_path, float_network(5), X, **options)
    for constant in model.graph.initializer:
        array = numpy_helper.to_array(constant)
        if array.dtype == np.float32:
            constant.CopyFrom(numpy_helper.from_array(array.astype(np.float16), constant.name))
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    for constant in wide.graph.initializer:
        array = numpy_helper.to_array(constant)
        if array.dtype == np.float16:
            constant.CopyFrom(numpy_helper.from_array(array.astype(np.float32), constant.name))
    output = model.graph.output[0].name
    for node in model.graph.node:
        for names, old, new in ((node.input, "x", "half"), (node.output, output, "y_half")):
            for i, name in enumerate(names):
                names[i] = new if name == old else name
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16))
    model.graph.node.append(helper.make_node("Cast", ["y_half"], [output], to=TensorProto.FLOAT))
    del model.graph.value_info[:]
    form = checked_form(model)
    assert "Cast" not in kinds(form.qdq)
    np.testing.assert_array_equal(outputs(form.qdq, X), outputs(checked_form(wide).qdq, X))
    require_near(steps_apart(checked_form(wide), U8, X), 0.05)
