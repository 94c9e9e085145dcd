"""Reading a float file keeps its function; what cannot be quantized is refused by name."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from compile.calibrate.errors import CalibrationError
from compile.calibrate.simplify import read_float
from tests.compile.calibrate.networks import (
    MODELS,
    SIZE,
    chain,
    conv,
    file_values,
    fire,
    gated,
    head,
    photos,
    read,
    saved,
    values_of,
)
from tests.support.foreign import OnnxNet

pytestmark = pytest.mark.slow


def floats(n: int = 5) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (n, 3, SIZE, SIZE)).astype(np.float32)


def same_function(folder, model, network=None):
    x = floats()
    network = network or read(folder, model)
    # float32 sums in another order, and batch norms folded in float32
    np.testing.assert_allclose(values_of(network, x), file_values(model, x), rtol=1e-4, atol=1e-4)
    return network


@pytest.mark.parametrize("model", [*MODELS.values(), fire, gated], ids=[*MODELS, "fire", "gated"])
def test_the_function_stays(tmp_path, model):
    network = same_function(tmp_path, model())
    assert "MatMul" not in {node.op_type for node in network.nodes}


def batch_norms(before: bool) -> onnx.ModelProto:
    """A batch norm behind a convolution, or in front of one, where nothing can take it in."""
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    x = conv(net, rng, "x", 8, 3)
    x = net.op("Relu", x) if before else x
    moments = [net.const(v) for v in (rng.uniform(0.5, 2, 8), rng.normal(0, 1, 8), rng.normal(0, 1, 8))]
    x = net.op("BatchNormalization", x, *moments, net.const(rng.uniform(0.5, 2, 8)))
    return net.model(head(net, rng, net.op("Relu", x), 8), 6)


@pytest.mark.parametrize("before", [False, True])
def test_batch_norms_become_part_of_a_convolution_or_one_of_their_own(tmp_path, before):
    network = same_function(tmp_path, batch_norms(before))
    kinds = [node.op_type for node in network.nodes]
    assert kinds.count("Conv") == 1 + before and "BatchNormalization" not in kinds


def padded(mode: str) -> onnx.ModelProto:
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    if mode == "Pad":
        x = net.op("Pad", "x", net.const([0, 0, 0, 0, 0, 0, 1, 1], TensorProto.INT64))
        x = conv(net, rng, x, 8, 3, strides=[2, 2], pads=[1, 0, 0, 0])
    else:
        x = net.op("Conv", "x", net.const(rng.normal(0, 1, (8, 3, 3, 3))), auto_pad=mode, strides=[2, 2])
    x = net.op("Dropout", net.op("Identity", net.op("Relu", x)))
    return net.model(head(net, rng, x, 8), 6)


@pytest.mark.parametrize("mode", ["Pad", "SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pads_become_those_of_the_convolution(tmp_path, mode):
    network = same_function(tmp_path, padded(mode))
    assert [node.op_type for node in network.nodes] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert not any(a.name == "auto_pad" and a.s != b"NOTSET" for a in network.nodes[0].attribute)


def test_a_softmax_at_the_end_goes(tmp_path):
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    logits = head(net, rng, net.op("Relu", conv(net, rng, "x", 8, 3)), 8)
    network = read(tmp_path, net.model(net.op("Softmax", logits, axis=1), 6))
    assert network.output == logits


def test_a_picture_with_channels_last(tmp_path):
    rng, net = np.random.default_rng(0), OnnxNet((SIZE, SIZE, 3))
    x = net.op("Transpose", "x", perm=[0, 3, 1, 2])
    model = net.model(head(net, rng, net.op("Relu", conv(net, rng, x, 8, 3)), 8), 6)
    network, x = read(tmp_path, model), floats()
    assert network.channels_last
    expected = file_values(model, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(values_of(network, x), expected, rtol=1e-4, atol=1e-4)


def test_a_reshape_of_one_picture_takes_many(tmp_path):
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    net.input.type.tensor_type.shape.dim[0].dim_value = 1
    x = net.op("GlobalAveragePool", net.op("Relu", conv(net, rng, "x", 8, 3)))
    x = net.op("Reshape", x, net.const([1, 8], TensorProto.INT64))
    same_function(tmp_path, net.model(net.op("Gemm", x, net.const(rng.normal(0, 1, (8, 6)))), 6, full_check=False))


def test_an_open_size_is_asked_for(tmp_path):
    model = chain()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
    path = saved(tmp_path, model)
    with pytest.raises(CalibrationError, match="leaves them open; give --size N"):
        read_float(path)
    assert read_float(path, 20).shapes["x"] == (1, 3, 20, 20)
    with pytest.raises(CalibrationError, match="--size 20: expected the file's own size"):
        read_float(saved(tmp_path, chain()), 20)


def with_operator(kind: str, **attributes) -> onnx.ModelProto:
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    x = net.op(kind, conv(net, rng, "x", 8, 3), name="odd", **attributes)
    return net.model(head(net, rng, x, 8), 6)


@pytest.mark.parametrize(
    "model, message",
    [
        (lambda: with_operator("Sin"), r"node odd \(Sin\): expected one of Add, .*, got Sin; rewrite the network"),
        (lambda: with_operator("InstanceNormalization_"), "cannot take it"),
    ],
    ids=["unknown", "unsound"],
)
def test_refusals(tmp_path, model, message):
    try:
        built = model()
    except onnx.checker.ValidationError:
        built = chain()
        built.graph.node[0].op_type = "Nonsense"
    with pytest.raises(CalibrationError, match=message):
        read(tmp_path, built)


def test_a_constant_that_no_layer_takes_in_is_refused(tmp_path):
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    x = net.op("Relu", conv(net, rng, "x", 8, 3))
    x = net.op("Mul", x, net.const(rng.normal(0, 1, (1, 1, SIZE, SIZE))), name="mask")
    with pytest.raises(CalibrationError, match=r"node mask \(Mul\): expected two computed operands, got a constant"):
        read(tmp_path, net.model(head(net, rng, x, 8), 6))


def test_files_that_are_no_float_classifier_are_refused(tmp_path):
    model = chain()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(CalibrationError, match="expected one input, a float32 picture"):
        read(tmp_path, model)
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(CalibrationError, match="expected an ONNX file"):
        read_float(tmp_path / "text.onnx")
    net = OnnxNet((3, SIZE, SIZE))
    quantized = net.qdq("x", 0.1)
    path = saved(tmp_path, net.model(net.op("Flatten", quantized, axis=1), 3 * SIZE * SIZE))
    with pytest.raises(CalibrationError, match="expected a float network, got a quantized one"):
        read_float(path)


def test_photos_differ():
    assert len(np.unique(photos(4).reshape(4, -1), axis=0)) == 4
