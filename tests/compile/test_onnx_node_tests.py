"""The onnx package's own tests of quantizing operators: what the importer takes gives their results, or is refused."""

import warnings

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from compile.ladder.layers import compare_layers
from compile.ladder.onnx_file import PictureInput
from compile.qdq.importer import Normalization, OnnxError, from_model

pytestmark = pytest.mark.slow

KINDS = ("quantizelinear", "qlinearconv", "qlinearmatmul", "convinteger", "matmulinteger")  # dequantize, dynamic too
UNIT = Normalization((0.0,), (1.0,))


def cases() -> dict[str, onnx.ModelProto]:
    """Name -> model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        every = collect_testcases(None)
    return {c.name: c.model for c in every if c.model is not None and any(kind in c.name for kind in KINDS)}


CASES = cases()


def folded(model: onnx.ModelProto, data_set: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The same model with all inputs but the first as constants, as a network's file has them."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for entry in list(whole.graph.input)[1:]:
        whole.graph.initializer.append(onnx.numpy_helper.from_array(data_set[entry.name], entry.name))
        whole.graph.input.remove(entry)
    return whole


def inputs_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Small random values of the inputs' types; scales are positive."""
    rng, values = np.random.default_rng(0), {}
    for entry in model.graph.input:
        kind = entry.type.tensor_type
        shape = [d.dim_value or 1 for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        values[entry.name] = np.asarray(rng.uniform(1, 3, shape)).astype(dtype)
    return values


def test_all_kinds_are_among_the_cases():
    names = " ".join(CASES)
    assert len(CASES) >= 40 and all(f"test_{kind}" in names for kind in (*KINDS, "dequantizelinear", "dynamicquantize"))


@pytest.mark.parametrize("constant", [False, True], ids=["as it is", "constants folded"])
@pytest.mark.parametrize("name", CASES)
def test_node(name, constant):
    """As the package has it, and with every operand but the first as a constant."""
    model = CASES[name]
    if constant:
        model = folded(model, inputs_of(model))
    takes_uint8 = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    normalization = None if takes_uint8 else UNIT
    try:
        graph = from_model(model, normalization=normalization)
    except OnnxError as error:
        assert "expected" in str(error) and len(str(error)) < 2500
        return
    pictures = np.random.default_rng(1).integers(0, 256, (4, *graph.tensors[graph.input].shape), np.uint8)
    sides = compare_layers(model, graph, pictures, PictureInput(normalization, channels_last=False))
    assert np.abs(sides.runtime - sides.reference).max() <= 1


@pytest.mark.parametrize("kind", ["u8", "s8"])
def test_a_quantizer_that_is_a_whole_network_is_right(kind):
    """What those cases would be with a picture before them: QuantizeLinear, DequantizeLinear and a layer."""
    from tests.support.foreign import OnnxNet

    net = OnnxNet((3, 2, 2))
    point, data_type = (7, onnx.TensorProto.UINT8) if kind == "u8" else (-3, onnx.TensorProto.INT8)
    x = net.qdq("x", 0.013, point, data_type)
    x = net.op("Conv", x, net.weight(np.arange(48).reshape(4, 3, 2, 2) - 24, 0.01))
    model = net.model(net.op("Flatten", net.qdq(x, 0.02, point, data_type)), 4)
    graph = from_model(model, normalization=UNIT)
    pictures = np.random.default_rng(1).integers(0, 256, (8, 2, 2, 3), np.uint8)
    output = ReferenceEvaluator(model).run(None, {"x": UNIT.floats(pictures)})[0]
    sides = compare_layers(model, graph, pictures, PictureInput(UNIT))
    assert np.abs(np.rint(output / np.float64(0.02)) - sides.reference).max() <= 1
