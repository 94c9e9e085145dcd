"""The ladder of files that training did not make: layer by layer beside onnxruntime, whose refusals are one line."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compile.ladder import onnx_file
from compile.ladder.layers import as_map, compare_layers, first_that_differs, output_zero_points
from compile.ladder.onnx_file import OnnxFile, OnnxRunError, PictureInput
from compile.qdq.importer import Normalization, from_model
from compile.source.opened import BuildVariant, open_source
from compile.verify import VerificationError, file_rung, make_rung
from targets.reference import interpreter
from targets.reference.nodes import Conv, Tensor
from tests.support.foreign import OnnxNet

pytestmark = pytest.mark.slow

UNIT = Normalization((0.0,), (1.0,))
SOURCE = PictureInput(UNIT)
S8 = TensorProto.INT8


def network(net: OnnxNet | None = None, start: str = "x", scale: float = 0.011) -> OnnxNet:
    """Two convolutions, of unsigned and signed codes, a mean and a classifier."""
    rng, net = np.random.default_rng(3), net or OnnxNet((3, 8, 8))

    def weight(*shape):
        return net.weight(rng.integers(-90, 91, shape), 0.007)

    x = net.qdq(start, 1 / 255)
    x = net.qdq(net.op("Relu", net.op("Conv", x, weight(6, 3, 3, 3), name="first")), scale)
    x = net.qdq(net.op("Conv", x, weight(8, 6, 3, 3), name="second"), 0.05, 3, S8)
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", x), 0.02, -4, S8))
    net.last = net.qdq(net.op("Gemm", x, weight(5, 8), name="last", transB=1), 0.01, 0, S8)
    return net


def model_of(net: OnnxNet) -> onnx.ModelProto:
    return net.model(net.last, 5)


def opened(tmp_path, model: onnx.ModelProto) -> BuildVariant:
    onnx.save(model, tmp_path / "net.onnx")
    return open_source([tmp_path / "net.onnx"], UNIT).variants[0]


def pictures(count: int = 6, shape=(8, 8, 3)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def test_every_quantizer_is_compared_in_running_order():
    model = model_of(network())
    sides = compare_layers(model, from_model(model, normalization=UNIT), pictures(), SOURCE)
    assert [layer.codes for layer in sides.layers] == [6 * n for n in (6 * 6 * 6, 4 * 4 * 8, 8, 5)]
    assert all(layer.alone_largest <= 1 and layer.differing <= layer.codes / 10 for layer in sides.layers)
    graph = from_model(model, normalization=UNIT)
    np.testing.assert_array_equal(sides.reference, interpreter.run(graph, pictures()))


def test_a_layer_that_is_computed_otherwise_is_named(tmp_path):
    """Only it differs alone; those behind it differ from the picture on."""
    variant = opened(tmp_path, model_of(network()))
    nodes = list(variant.graph.nodes)
    at = next(k for k, node in enumerate(nodes) if node.name == "second")
    assert isinstance(nodes[at], Conv)
    nodes[at] = replace(nodes[at], bias=nodes[at].bias + (40 << int(nodes[at].requant.left[0])) * 500)
    wrong = replace(variant, graph=replace(variant.graph, nodes=tuple(nodes)))
    expected = interpreter.run(wrong.graph, pictures())
    rung = file_rung(wrong, pictures(), expected)
    names = [layer.tensor for layer in rung.layers]
    assert rung.misread is not None and rung.misread.tensor == nodes[at].output == names[1]
    assert [layer.is_misread for layer in rung.layers] == [False, True, False, False]
    assert rung.layers[2].differing > 0 and first_that_differs(rung.layers[1:]) == rung.misread
    with pytest.raises(VerificationError, match=f"layer {rung.misread.tensor} alone is"):
        rung.require()


def test_files_of_training_are_compared_by_layer_where_a_logit_differs(tmp_path):
    variant = replace(opened(tmp_path, model_of(network())), exact=True)
    sides = compare_layers(onnx.load(variant.onnx), variant.graph, pictures(), SOURCE)
    assert file_rung(variant, pictures(), sides.runtime).layers == ()
    assert len(file_rung(variant, pictures(), sides.runtime + 1).layers) == 4


def test_optimizations_are_off(tmp_path, monkeypatch):
    """At BASIC onnxruntime would quantize the float bias of this file."""
    levels = []
    session = onnx_file.onnxruntime.InferenceSession

    def watched(data, options, **kwargs):
        levels.append(options.graph_optimization_level)
        return session(data, options, **kwargs)

    monkeypatch.setattr(onnx_file.onnxruntime, "InferenceSession", watched)
    variant = opened(tmp_path, model_of(network()))
    file_rung(variant, pictures(), interpreter.run(variant.graph, pictures()))
    assert levels == [onnx_file.LEVELS.ORT_DISABLE_ALL]


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_float_pictures_in_nhwc(batch):
    """As tf2onnx writes them; a batch of the file's own is filled up."""
    net = OnnxNet((8, 8, 3))
    net.input.type.tensor_type.shape.dim[0].Clear()
    if batch != "N":
        net.input.type.tensor_type.shape.dim[0].dim_value = batch
    model = model_of(network(net, net.op("Transpose", "x", perm=[0, 3, 1, 2])))
    graph = from_model(model, normalization=UNIT)
    sides = compare_layers(model, graph, pictures(), SOURCE)
    plain = compare_layers(model_of(network()), graph, pictures(), SOURCE)
    np.testing.assert_array_equal(sides.runtime, plain.runtime)


def test_dimensions_that_no_picture_has_are_refused():
    net = OnnxNet((3, 9, 8))
    model = model_of(network(net))
    with pytest.raises(OnnxRunError, match="input 'x': expected a picture .8, 8, 3., got dimensions"):
        list(OnnxFile(model).run(pictures(), SOURCE))


def _two_of_one_name(model):
    model.graph.node[1].name = model.graph.node[0].name


def _newest_ir(model):
    model.ir_version = onnx.IR_VERSION + 40


def _newest_opset(model):
    model.opset_import[0].version = 99


def _kernel_unlike_weights(model):
    node = next(n for n in model.graph.node if n.name == "second")
    node.attribute.append(helper.make_attribute("kernel_shape", [2, 2]))


def _unlike_types(model):
    next(t for t in model.graph.initializer if t.data_type == S8 and t.dims == []).data_type = TensorProto.UINT8


@pytest.mark.parametrize(
    "damage, advice",
    [
        (_two_of_one_name, "give every node a name"),
        (_newest_ir, "model.ir_version = 10"),
        (_newest_opset, "convert_version"),
        (_kernel_unlike_weights, "run in onnxruntime first"),
        (_unlike_types, "run in onnxruntime first"),
    ],
)
def test_what_onnxruntime_says_becomes_one_line_with_advice(damage, advice):
    model = model_of(network())
    damage(model)
    with pytest.raises(OnnxRunError) as raised:
        list(OnnxFile(model).run(pictures(), SOURCE))
    message = str(raised.value)
    assert "\n" not in message and "it said: " in message and advice in message, message


def test_a_file_that_onnxruntime_refuses_is_named(tmp_path):
    variant = opened(tmp_path, model_of(network()))
    _two_of_one_name(variant.opened.form.file)
    with pytest.raises(OnnxRunError, match=r"net\.onnx: expected onnxruntime .* to load the file"):
        file_rung(variant, pictures(), variant.logits)


def test_logits_of_another_count_are_an_error():
    with pytest.raises(VerificationError, match=r"expected logits \[2, 5\], got \[2, 4\]"):
        make_rung("a", "b", np.zeros((2, 4)), np.zeros((2, 5)))


@pytest.mark.parametrize("shape", [(2, 4, 5), (4, 4, 4), (5, 4, 4), (4, 4, 5), (1, 1, 7)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_codes_come_in_any_order(shape, channels_last):
    """Also where the dimensions fit both orders; and flat."""
    codes = np.random.default_rng(0).integers(0, 250, (1, *shape)).astype(np.uint8)
    graph = SimpleNamespace(tensors={"t": Tensor("t", shape, 8, 1.0, (131,))})
    like = codes.copy()
    like[0, 0, 0, 0] += 1
    centred = codes.astype(np.int64) - 131
    values = centred if channels_last else centred.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(as_map(values, graph, {"t": like}, "t"), codes)
    flat = centred.transpose(0, 3, 1, 2).reshape(1, -1)
    np.testing.assert_array_equal(as_map(flat, graph, {"t": like}, "t"), codes)


@pytest.mark.parametrize("kind, top", [(TensorProto.UINT4, 15), (TensorProto.UINT2, 3)])
def test_codes_of_fewer_bits_are_compared_too(kind, top):
    """onnxruntime gives nobody a tensor of 4 or 2 bits: the real values behind it tell."""
    net = OnnxNet((3, 8, 8), opset=21 if top > 3 else 25)
    x = net.op("Conv", net.qdq("x", 1 / 255), net.weight(np.ones((4, 3, 3, 3)), 0.007), name="first")
    x = net.qdq(net.op("Relu", x), 0.2 / top, 0, kind)
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", x), 0.02))
    net.last = net.qdq(net.op("Gemm", x, net.weight(np.ones((5, 4)), 0.1), name="last", transB=1), 0.01)
    model = model_of(net)
    sides = compare_layers(model, from_model(model, normalization=UNIT), pictures(), SOURCE)
    assert len(sides.layers) == 3 and sides.layers[0].codes == 6 * 6 * 6 * 4
    assert all(layer.alone_largest <= 1 for layer in sides.layers)


def test_zero_points_of_all_quantizing_operators():
    nodes = [
        helper.make_node("Constant", [], ["z"], value=helper.make_tensor("v", S8, [], [7])),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2]),
        helper.make_node("QLinearConv", ["b", "s", "z", "w", "s", "z", "s", "z"], ["c"]),
        helper.make_node("QuantizeLinear", ["x", "s"], ["d"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    assert output_zero_points(helper.make_model(graph)) == {"a": 7, "b": 7, "c": 7, "d": 0}
