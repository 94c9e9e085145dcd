"""Files whose form concerns the runtime: one logit, several labels right at once, grey pictures, sizes and outputs."""

import numpy as np
import onnx
import pytest
from PIL import Image

from compile.build import build
from compile.command_line import parse_build
from compile.forms.options import FormOptions
from compile.settings import BuildSettings
from compile.source.opened import SourceError, open_source
from runtime import Engine
from runtime.pictures.arrays import as_grey
from targets import find
from targets.reference import interpreter
from tests.support.foreign import OnnxNet
from tests.support.form_files import ZERO_TO_ONE, random_pictures

pytestmark = pytest.mark.slow


def network(classes: int, channels: int = 3, tail: str = "", dims=("H", "W")) -> onnx.ModelProto:
    """A convolution, a mean and a dense layer with open logits, for pictures of any size."""
    rng, net = np.random.default_rng(classes), OnnxNet((channels, *dims))
    x = net.qdq("x", 1 / 255)
    w = net.weight(rng.integers(-127, 128, (8, channels, 3, 3)), np.full(8, 0.02 / channels))
    x = net.qdq(net.op("Relu", net.op("Conv", x, w, pads=[1] * 4, strides=[2, 2])), 0.02)
    x = net.qdq(net.op("Flatten", net.op("GlobalAveragePool", x)), 0.005)
    y = net.op("Gemm", x, net.weight(rng.integers(-127, 128, (8, classes)), np.float32(0.02)), name="dense")
    return net.model(net.op(tail, y) if tail else y, classes, full_check=False)


def built(folder, model, labels=()) -> Engine:
    """An engine of a bundle for AVX2 of a file that takes pictures of 9 x 9."""
    onnx.save(model, folder / "file.onnx")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    settings = BuildSettings(
        find("x86:avx2"),
        (folder / "file.onnx",),
        out=folder / "bundle",
        times=False,
        normalization=ZERO_TO_ONE,
        form=FormOptions(size=(9, 9)),
        labels=folder / "labels.txt" if labels else None,
    )
    build(settings)
    return Engine(folder / "bundle")


@pytest.mark.parametrize("tail", ["", "Sigmoid"])
def test_one_logit_answers_with_both_classes(tmp_path, tail):
    pictures = random_pictures((9, 9, 3), 60)
    with built(tmp_path, network(1, tail=tail), ["good", "bad"]) as engine:
        answers = engine.infer_batch(pictures)
        scale = engine.variants["file"].logit_scale
        assert engine.bundle.manifest.scores == "binary"
    for prediction in answers:
        second = 1 / (1 + np.exp(-float(prediction.logits[0]) * scale))
        assert prediction.label == ("bad" if prediction.logits[0] > 0 else "good") and prediction.logits.shape == (1,)
        np.testing.assert_allclose(prediction.scores, [1 - second, second], atol=1e-6)


@pytest.mark.parametrize("tail, total", [("Sigmoid", None), ("Softmax", 1), ("", 1)])
def test_scores_are_made_as_the_file_makes_them(tmp_path, tail, total):
    with built(tmp_path, network(4, tail=tail)) as engine:
        prediction = engine.infer(random_pictures((9, 9, 3), 1)[0])
        values = prediction.logits * engine.variants["file"].logit_scale
    powers = np.exp(values)
    expected = powers / powers.sum() if total else powers / (1 + powers)
    np.testing.assert_allclose(prediction.scores, expected, rtol=1e-5)


def test_one_logit_needs_two_labels(tmp_path):
    onnx.save(network(1, dims=(9, 9)), tmp_path / "file.onnx")
    with pytest.raises(SourceError, match="expected 2 labels of the one logit, got 1"):
        open_source([tmp_path / "file.onnx"], ZERO_TO_ONE, ["only"])


def test_grey_pictures_run(tmp_path):
    with built(tmp_path, network(3, channels=1)) as engine:
        grey = random_pictures((9, 9, 1), 4)
        graph = open_source([tmp_path / "file.onnx"], ZERO_TO_ONE, options=FormOptions(size=(9, 9))).variants[0].graph
        expected = interpreter.run(graph, grey)
        for picture, logits in zip(grey, expected, strict=True):
            for view in (picture, picture[:, :, 0], np.repeat(picture, 3, 2)):
                np.testing.assert_array_equal(engine.infer(view).logits, logits)


def test_grey_is_pillows():
    codes = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    codes[:2] = np.arange(128).reshape(2, 64, 1) * 2
    np.testing.assert_array_equal(as_grey(codes)[:, :, 0], np.asarray(Image.fromarray(codes).convert("L")))


def test_four_channels_are_refused_before_the_build(tmp_path):
    onnx.save(network(3, channels=4, dims=(9, 9)), tmp_path / "file.onnx")
    with pytest.raises(SourceError, match=r"expected a picture of 1 channel \(grey\) or 3 \(RGB\).*got 4"):
        open_source([tmp_path / "file.onnx"], ZERO_TO_ONE)


@pytest.mark.parametrize("text, size", [("224", (224, 224)), ("192x256", (192, 256))])
def test_sizes_of_the_command_line(text, size):
    settings = parse_build(["file.onnx", "--target", "x86:avx2", "--size", text, "--output", "logits"])
    assert settings.form == FormOptions("logits", size)


@pytest.mark.parametrize("text", ["", "x", "0", "3x4x5", "12.5", "-3", "²"])
def test_other_sizes_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        parse_build(["file.onnx", "--target", "x86:avx2", f"--size={text}"])
    assert "expected a height and width such as 224 or 192x256" in capsys.readouterr().err
