"""Which codes a picture's uint8 values become: by type, range, metadata, or --mean and --std."""

import flatbuffers
import numpy as np
import pytest

pytest.importorskip("tflite", reason="no schema: pip install tflite==2.18.0 flatbuffers")

from compile.qdq.normalization import Normalization
from compile.tflite.errors import TfliteError
from compile.tflite.file import read_bytes
from compile.tflite.importer import from_model
from compile.tflite.metadata import read_normalized
from compile.tflite.picture import open_picture
from targets.reference.nodes import Lookup
from tests.support.tflite_cases import SHAPE, photos
from tests.support.tflite_writer import Network


def network(kind: str, scale: float | None, zero_point: int = 0, metadata: bytes | None = None) -> Network:
    net = Network(metadata=metadata)
    x = net.tensor((1, *SHAPE), kind, scale, zero_point)
    if kind == "FLOAT32":
        x = net.operator("QUANTIZE", [x], net.tensor((1, *SHAPE), "INT8", 0.02, 3))
    net.classifier(x)
    return net


def table(net: Network, normalization: Normalization | None = None) -> np.ndarray:
    """int64 [1 or C, 256]: the file's code for each uint8 value; the graph's first node must hold the same."""
    file = read_bytes(net.to_bytes())
    picture = open_picture(file, normalization)
    first = from_model(file, "network", normalization).nodes[0]
    assert isinstance(first, Lookup) != np.array_equal(picture.table, np.arange(256)[None])
    if isinstance(first, Lookup):
        assert np.array_equal(first.table, picture.table)
    return picture.table.astype(np.int64) - picture.codes.offset


def metadata(mean: list[float], std: list[float]) -> bytes:
    """TFLITE_METADATA with NormalizationOptions of the first input."""
    b = flatbuffers.Builder(256)
    values = [b.CreateNumpyVector(np.float32(v)) for v in (mean, std)]

    def row(fields: dict[int, int], count: int) -> int:
        b.StartObject(count)
        for slot, offset in fields.items():
            b.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return b.EndObject()

    def vector(offset: int) -> int:
        b.StartVector(4, 1, 4)
        b.PrependUOffsetTRelative(offset)
        return b.EndVector()

    options = row({0: values[0], 1: values[1]}, 2)
    b.StartObject(2)
    b.PrependUint8Slot(0, 1, 0)
    b.PrependUOffsetTRelativeSlot(1, options, 0)
    units = vector(b.EndObject())
    inputs = vector(row({4: units}, 7))
    b.Finish(row({3: vector(row({2: inputs}, 7))}, 8))
    return bytes(b.Output())


@pytest.mark.parametrize(("scale", "zero_point"), [(1 / 128, 128), (0.017, 114), (1.0, 0)])
def test_a_uint8_picture_is_its_own_codes(scale, zero_point):
    assert np.array_equal(table(network("UINT8", scale, zero_point)), np.arange(256)[None])


@pytest.mark.parametrize(("scale", "zero_point"), [(1 / 255, -128), (1.0, -128), (1 / 127.5, -1), (1 / 128, 0)])
def test_int8_codes_of_a_usual_range_are_the_picture_less_128(scale, zero_point):
    assert np.array_equal(table(network("INT8", scale, zero_point)), np.arange(-128, 128)[None])


def test_int8_codes_of_another_range_need_mean_and_std():
    net = network("INT8", 0.0186, -14)  # ImageNet's mean and deviation
    with pytest.raises(TfliteError, match=r"int8 codes of -2\.12 \.\. 2\.623; give --mean and --std"):
        table(net)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    codes = table(net, Normalization(mean, std))
    real = (np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]
    assert np.array_equal(codes, np.clip(np.round(real / np.float32(0.0186)) - 14, -128, 127))


def test_a_float_picture_needs_mean_and_std_and_becomes_a_table():
    net = network("FLOAT32", None)
    with pytest.raises(TfliteError, match="expected the normalization of a float picture"):
        table(net)
    codes = table(net, Normalization((0.5,), (0.25,)))
    assert np.array_equal(codes, np.clip(np.round((np.arange(256) / 255 - 0.5) / 0.25 / 0.02) + 3, -128, 127)[None])


def test_the_metadata_says_what_a_float_picture_is():
    net = network("FLOAT32", None, metadata=metadata([127.5], [127.5]))
    real = (np.arange(256) - 127.5) / 127.5
    assert np.array_equal(table(net), np.clip(np.round(real / 0.02) + 3, -128, 127)[None])


def test_the_users_numbers_win_over_the_metadata():
    net = network("FLOAT32", None, metadata=metadata([127.5], [127.5]))
    own = Normalization((0.5,), (0.25,))
    assert np.array_equal(table(net, own), table(network("FLOAT32", None), own))


def test_damaged_metadata_says_nothing():
    content = metadata([127.5] * 3, [64.0] * 3)
    assert read_normalized(content) is not None
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        read_normalized(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
    assert read_normalized(None) is None
    assert read_normalized(metadata([1.0], [0.0])) is None


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "FLOAT32"])
def test_the_files_own_runtime_gets_codes_or_floats(kind):
    net = network(kind, None if kind == "FLOAT32" else 1 / 255, -128 if kind == "INT8" else 0)
    pixels = photos(2)
    normalization = Normalization((0.5,), (0.5,)) if kind == "FLOAT32" else None
    values = open_picture(read_bytes(net.to_bytes()), normalization).file_input(pixels)
    assert values.dtype == np.dtype(kind.lower()) and values.shape == pixels.shape
    expected = {"INT8": pixels.astype(int) - 128, "UINT8": pixels, "FLOAT32": np.float32(pixels / 127.5 - 1)}[kind]
    assert np.allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 126), r"a picture \[1, H, W, C\]"), ((2, 7, 6, 3), "one picture"), ((1, 7, 6, 5), "1, 3 or 4 channels")],
)
def test_an_input_that_is_no_picture_is_refused(shape, message):
    net = Network()
    net.classifier(net.tensor(shape, "INT8", 1 / 255, -128))
    with pytest.raises(TfliteError, match=rf"tensor 0 \(tensor 0\): expected .*{message}"):
        from_model(read_bytes(net.to_bytes()))
