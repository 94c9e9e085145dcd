"""Whole files: what ends a graph, what is refused and how it is said, and what the reader checks."""

import sys

import numpy as np
import pytest

pytest.importorskip("tflite", reason="no schema: pip install tflite==2.18.0 flatbuffers")

from compile.tflite.errors import TfliteError
from compile.tflite.file import read_bytes, read_file
from compile.tflite.importer import from_model, load
from targets.reference import interpreter
from targets.reference.nodes import Conv, Gather, Mul
from tests.support.tflite_cases import SHAPE, Case, conv_case, photos, picture, quantized
from tests.support.tflite_reference import Quant
from tests.support.tflite_writer import Network, NewOperator

SCORES = Quant(1 / 256, -128)


def graph_of(net: Network):
    return from_model(read_bytes(net.to_bytes()), "network")


def ended(*kinds: str, classes: int = 3) -> Network:
    net, x, _ = picture()
    out = net.classifier(x, classes=classes)
    for kind in kinds:
        kind_of = "FLOAT32" if kind == "DEQUANTIZE" else "INT8"
        after = net.tensor((1, classes), kind_of, None if kind == "DEQUANTIZE" else SCORES.scale, SCORES.zero)
        options = {"Beta": 1.0} if kind == "SOFTMAX" else {}
        net.output = out = net.operator(kind, [out], after, **options)
    return net


@pytest.mark.parametrize(
    "kinds", [(), ("SOFTMAX",), ("LOGISTIC",), ("SOFTMAX", "DEQUANTIZE"), ("SOFTMAX", "QUANTIZE"), ("DEQUANTIZE",)]
)
def test_a_graph_ends_with_the_logits(kinds):
    graph, plain = graph_of(ended(*kinds)), graph_of(ended())
    pixels = photos(5)
    assert np.array_equal(interpreter.run(graph, pixels), interpreter.run(plain, pixels))
    assert graph.tensors[graph.output].scale == plain.tensors[plain.output].scale


def test_a_softmax_of_another_temperature_is_refused():
    net = ended("SOFTMAX")
    net.operators[-1].options["Beta"] = 2.0
    with pytest.raises(TfliteError, match=r"operator 2 \(SOFTMAX\): expected a beta of 1, got 2.0"):
        graph_of(net)


def test_a_logistic_of_one_value_gives_two_classes():
    graph, one = graph_of(ended("LOGISTIC", classes=1)), ended(classes=1)
    logits = interpreter.run(graph, photos(5))
    assert logits.shape == (5, 2) and not logits[:, 0].any() and logits[:, 1].any()
    assert isinstance(graph.nodes[-1], Gather)
    with pytest.raises(TfliteError, match="at least two classes"):
        graph_of(one)


def test_squeeze_and_excite_multiplies_every_pixel():
    net, x, quant = picture()
    mean = net.operator("MEAN", [x, net.constant([1, 2])], quantized(net, (1, 1, 1, 3), quant))
    out = Quant(0.01, -3)
    result = net.operator("MUL", [mean, x], quantized(net, (1, *SHAPE), out))
    net.classifier(result)

    def expected(codes):
        means = quant.code(quant.real(codes).mean((0, 1), keepdims=True))
        return out.code(quant.real(means) * quant.real(codes))

    case = Case(net, result, expected, steps=2, share=0.6)  # the mean may be a step away
    case.check()
    assert any(isinstance(n, Mul) and case.graph().tensors[n.b].shape == (1, 1, 3) for n in case.graph().nodes)


def test_an_almost_dead_channel_is_computed_in_coarser_steps():
    case = conv_case()
    weights = case.net.tensors[1]
    weights.scale[2] = np.float32(1e-9)
    bias = case.net.tensors[2]
    bias.data[2] = 2_147_268_000
    conv = next(n for n in case.graph().nodes if isinstance(n, Conv))
    assert np.flatnonzero(np.abs(conv.weight.astype(int)).max((1, 2, 3)) < 80).tolist() == [2]
    values = interpreter.run_all(case.graph(), photos(2))[1][f"tensor_{case.result}"][..., 2]
    real = 2_147_268_000 * 1e-9 / 127.5
    assert np.array_equal(np.unique(values), [round(real / 0.05) + 10 + 128])


def test_a_live_channel_whose_sums_do_not_fit_is_refused():
    case = conv_case()
    case.net.tensors[2].data[2] = 2_147_268_000
    with pytest.raises(TfliteError, match="conv_2d_0: expected an accumulator below"):
        case.graph()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: setattr(net.tensors[1], "kind", "FLOAT32"), r"tensor 1 .*expected 360 bytes"),
        (lambda net: setattr(net.tensors[2], "data", None), "expected inputs computed before it, or constants"),
        (lambda net: setattr(net.tensors[3], "kind", "INT16"), "expected int8 or uint8 codes, got INT16"),
        (lambda net: setattr(net.tensors[3], "kind", "UINT8"), "codes of one type in and out"),
        (lambda net: setattr(net.tensors[3], "scale", np.float32([np.nan])), "one positive scale"),
        (lambda net: setattr(net.tensors[3], "zero_point", np.array([200])), "a zero point of INT8"),
        (lambda net: setattr(net.tensors[1], "axis", 3), "one weight scale, or one for each of 5 output channels"),
        (lambda net: setattr(net.tensors[1], "zero_point", np.full(5, 3)), "weights of zero point 0"),
        (lambda net: setattr(net.tensors[3], "shape", (1, 7, 6, 4)), "expected a result of 168 values"),
        (lambda net: net.operators[0].options.update(StrideH=0), "a window, stride and dilation of at least 1"),
        (lambda net: net.operators[0].options.update(Padding=2), "SAME or VALID padding, got 2"),
        (lambda net: net.operators[0].options.update(FusedActivationFunction=4), "no fused activation, RELU"),
        (lambda net: net.operators[0].inputs.__setitem__(0, 99), "numbers of tensors below"),
        (lambda net: net.operators[0].inputs.__setitem__(0, 1), "a map that the network computes"),
        (lambda net: net.operators[0].outputs.__setitem__(0, -1), "expected outputs"),
        (lambda net: setattr(net.operators[0], "kind", "BATCH_MATMUL"), r"expected one of CONV_2D, .*got BATCH_MATMUL"),
        (lambda net: setattr(net, "version", 2), "version 3 of TFLite's schema"),
        (lambda net: setattr(net.tensors[3], "shape", (1, 1 << 20, 6, 5)), "at most 8388608 values"),
    ],
)
def test_a_file_that_cannot_be_taken_is_refused_by_name(change, message):
    net = conv_case().net
    change(net)
    with pytest.raises(TfliteError, match=message) as error:
        graph_of(net)
    assert "\n" not in str(error.value)


def test_hybrid_and_float_layers_are_refused_with_advice():
    hybrid = conv_case().net
    for k in (0, 3):
        hybrid.tensors[k].kind, hybrid.tensors[k].scale = "FLOAT32", np.zeros(0, np.float32)
    with pytest.raises(TfliteError, match="one QUANTIZE that takes the float picture, .*convert the model to full int"):
        graph_of(hybrid)
    inner = conv_case().net
    inner.tensors[1].kind, inner.tensors[1].data = "FLOAT32", inner.tensors[1].data.astype(np.float32)
    with pytest.raises(TfliteError, match=r"operator 0 \(CONV_2D\): expected INT8 or INT4 weights .*hybrid and float"):
        graph_of(inner)


def test_a_custom_operator_is_refused_by_its_own_name():
    net, x, quant = picture()
    out = quantized(net, (1, *SHAPE), quant)
    net.operators.append(NewOperator("CUSTOM", [x], [out], {}, custom="edgetpu-custom-op"))
    net.classifier(out)
    with pytest.raises(TfliteError, match="got CUSTOM edgetpu-custom-op"):
        graph_of(net)


def test_the_schema_is_only_needed_for_tflite_files(monkeypatch):
    content = conv_case().net.to_bytes()
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(TfliteError, match="not installed; pip install tflite==2.18.0"):
        read_bytes(content)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"not a network at all")
    with pytest.raises(TfliteError, match=r"model\.tflite: model: expected a TFLite file \(TFL3\)"):
        load(path)
    with pytest.raises(TfliteError, match="expected a file that can be read"):
        load(tmp_path / "other.tflite")


def test_the_records_can_be_read_by_people(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(conv_case().net.to_bytes())
    text = read_file(path).to_text()
    assert (
        "operator 0 (CONV_2D): [0, 1, 2] -> [3]" in text and "tensor 1 (tensor 1): INT8 [5, 3, 2, 3] constant" in text
    )
