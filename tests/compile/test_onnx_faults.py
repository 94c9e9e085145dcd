"""Files that once were read otherwise than ONNX means them, or took minutes and gigabytes: refused, or right."""

import resource
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from compile.ladder.layers import compare_layers
from compile.ladder.onnx_file import PictureInput
from compile.qdq.importer import Normalization, OnnxError, from_model, load
from compile.qdq.limits import MOST_CODES, MOST_SIDE
from tests.support.foreign import OnnxNet

UNIT = Normalization((0.0,), (1.0,))
C = 6  # channels, and rows and columns of the map: any axis fits


def added(shape, place: str, quantized: bool) -> onnx.ModelProto:
    """A constant of a shape, added behind a Conv, a quantizer, a flattened map or a Gemm; C classes."""
    rng, net = np.random.default_rng(5), OnnxNet((3, C, C))
    values = rng.normal(0, 0.5, shape)

    def constant() -> str:
        if not quantized:
            return net.const(values)
        return net.weight(np.rint(values * 50), 0.02, TensorProto.INT8)

    weight = net.weight(rng.integers(-90, 91, (C, 3, 1, 1)), 0.02)
    x = net.op("Conv", net.qdq("x", 1 / 255), weight, name="conv")
    if place == "quantizer":
        x = net.qdq(x, 0.02, 128)
    if place in ("conv", "quantizer"):
        x = net.op("Add", x, constant(), name="add")
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", net.qdq(x, 0.03, 128)), 0.02, 128))
    if place == "flat":
        x = net.qdq(net.op("Add", x, constant(), name="add"), 0.02, 128)
    x = net.op("Gemm" if place != "matmul" else "MatMul", x, net.weight(rng.integers(-90, 91, (C, C)), 0.01))
    if place in ("gemm", "matmul"):
        x = net.op("Add", x, constant(), name="add")
    return net.model(net.qdq(x, 0.02, 128), C, full_check=False)


MAPS = [(), (1,), (C, 1, 1), (1, C, 1, 1), (1, 1, 1, 1)]
MAPS_OTHERWISE = [(C,), (C, 1), (1, C), (1, 1, 1, C), (1, 1, C, 1), (C, 1, 1, 1), (C, C, 1), (1, C, C, C)]
FLAT, FLAT_OTHERWISE = [(), (1,), (C,), (1, C), (1, 1)], [(C, 1), (1, 1, C), (C, C)]


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    "place, shapes", [("conv", MAPS), ("quantizer", MAPS), ("flat", FLAT), ("gemm", FLAT), ("matmul", FLAT)]
)
def test_constants_along_channels_are_added_as_onnx_does(place, shapes, quantized):
    for shape in shapes:
        model = added(shape, place, quantized)
        graph = from_model(model, normalization=UNIT)
        pictures = np.random.default_rng(0).integers(0, 256, (4, C, C, 3), np.uint8)
        layers = compare_layers(model, graph, pictures, PictureInput(UNIT)).layers
        assert len(layers) > 2 and all(layer.alone_largest <= 1 for layer in layers), (shape, layers)
        assert all(layer.alone_differing <= layer.codes / 10 for layer in layers), (shape, layers)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    "place, shapes",
    [
        ("conv", MAPS_OTHERWISE),
        ("quantizer", MAPS_OTHERWISE),
        ("flat", FLAT_OTHERWISE),
        ("gemm", FLAT_OTHERWISE),
        ("matmul", FLAT_OTHERWISE),
    ],
)
def test_constants_along_other_axes_are_refused(place, shapes, quantized):
    for shape in shapes:
        with pytest.raises(OnnxError, match=r"add \(Add\): expected a constant, or one for each of 6 channels"):
            from_model(added(shape, place, quantized), normalization=UNIT)


def test_the_third_operand_of_a_gemm_has_one_dimension():
    def net(shape):
        n = OnnxNet((3, 1, 1))
        x = n.op("Flatten", n.qdq("x", 1 / 255))
        x = n.op("Gemm", x, n.weight(np.ones((3, C)), 0.1), n.const(np.ones(shape)), name="last")
        return n.model(n.qdq(x, 0.02), C, full_check=False)

    for shape in ((), (1,), (C,), (1, C)):
        from_model(net(shape), normalization=UNIT)
    with pytest.raises(OnnxError, match=r"last \(Gemm\): expected a bias along the channels, got \[6, 1\]"):
        from_model(net((C, 1)), normalization=UNIT)


def sum_of(first: float, second: float, result: float) -> onnx.ModelProto:
    """Two convolutions with outputs of these scales, added."""
    rng, net = np.random.default_rng(2), OnnxNet((3, 4, 4))
    x = net.qdq("x", 1 / 255)
    parts = [
        net.qdq(net.op("Conv", x, net.weight(rng.integers(-90, 91, (4, 3, 1, 1)), scale)), scale, 128)
        for scale in (first, second)
    ]
    x = net.qdq(net.op("Add", *parts, name="sum"), result, 128)
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", x), result, 128))
    return net.model(net.qdq(net.op("Gemm", x, net.weight(rng.integers(-90, 91, (4, 4)), 0.01)), result, 128), 4)


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e3, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("result", [0.01, 1.0, 100.0])
def test_scales_of_an_addition_that_lie_apart(ratio, result):
    """Every code is within one of onnxruntime's, or the file is refused."""
    model = sum_of(0.02, 0.02 * ratio, result * 0.02)
    try:
        graph = from_model(model, normalization=UNIT)
    except OnnxError as error:
        assert "operands of an Add whose scales allow products exact to 0.0625 of a code" in str(error)
        assert ratio > 256 * result
        return
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    layers = compare_layers(model, graph, pictures, PictureInput(UNIT)).layers
    assert all(layer.alone_largest <= 1 for layer in layers), layers


def sized(height: int, width: int) -> onnx.ModelProto:
    net = OnnxNet((3, height, width))
    x = net.op("Conv", net.qdq("x", 1 / 255), net.weight(np.ones((4, 3, 1, 1)), 0.1))
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", net.qdq(x, 0.1)), 0.05))
    return net.model(net.op("Gemm", x, net.weight(np.ones((4, 2)), 0.1)), 2, full_check=False)


def picture_of_many(place: str, size: int) -> onnx.ModelProto:
    """A map of that many rows, by the picture or by a padded convolution."""
    if place == "picture":
        return sized(size, 8)
    net = OnnxNet((3, 8, 8))
    x = net.op("Conv", net.qdq("x", 1 / 255), net.weight(np.ones((4, 3, 1, 1)), 0.1), pads=[size - 8, 0, 0, 0])
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", net.qdq(x, 0.1)), 0.05))
    return net.model(net.op("Gemm", x, net.weight(np.ones((4, 2)), 0.1)), 2, full_check=False)


@pytest.mark.parametrize("place", ["picture", "padding"])
@pytest.mark.parametrize("size", [MOST_SIDE + 1, 1 << 20, 1 << 31, 1 << 40])
def test_huge_maps_of_small_files_are_refused_at_once(place, size):
    model = picture_of_many(place, size)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(OnnxError, match="expected a map of 1..65535 rows, columns and channels"):
        from_model(model, normalization=UNIT)
    assert time.perf_counter() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_maps_of_many_codes_are_refused():
    side = int(MOST_CODES**0.5)
    with pytest.raises(OnnxError, match="16,777,216 codes at most, got 3 x 4097 x 4096"):
        from_model(sized(side + 1, side), normalization=UNIT)


@pytest.mark.parametrize("height, width", [(0, 8), (8, 0), (0, 0)])
def test_maps_of_nothing_are_refused(height, width):
    with pytest.raises(OnnxError, match="^input tensor 'x': expected .* with H, W and C given"):
        from_model(sized(height, width), normalization=UNIT)


@pytest.mark.parametrize("name", ["a" * 4096, "a/" * 2000, "..", "/dev/zero", ""])
def test_names_of_external_data_are_one_clear_error(tmp_path, name):
    model = sized(8, 8)
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", name
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OnnxError) as raised:
        load(tmp_path / "net.onnx", UNIT)
    assert len(str(raised.value)) < 1000 and str(tmp_path / "net.onnx") in str(raised.value)


@pytest.mark.slow
def test_the_command_line_has_no_traceback_for_what_onnxruntime_refuses(tmp_path):
    model = sized(8, 8)
    model.graph.node[1].name = model.graph.node[0].name
    onnx.save(model, tmp_path / "net.onnx")
    words = [str(tmp_path / "net.onnx"), "--mean", "0", "--std", "1", "--no-times", "--out", str(tmp_path / "b")]
    command = [sys.executable, "-m", "compile.build", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "two nodes with same node name" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "b").exists()
