"""From a float file and pictures to a bundle: `python -m compile.build FILE.onnx --calibrate FOLDER`."""

import json

import numpy as np
import onnx
import pytest

from compile.build import build, main, open_networks
from compile.calibrate.files import calibrate_file
from compile.calibrate.report import report_from_dict
from compile.command_line import parse_build
from compile.qdq.metadata import CALIBRATION, crop_of, properties_of
from compile.qdq.values import OnnxError
from compile.report import BuildListener
from runtime import Engine
from runtime.pictures.arrays import framed
from targets.reference import interpreter
from tests.compile.calibrate.networks import chain, photos, saved

pytestmark = pytest.mark.slow

JSON = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop": 0.75, "interpolation": "bicubic"}


class Log(BuildListener):
    def __init__(self):
        self.progress, self.reports = [], []

    def on_calibrate(self, network, done, count):
        self.progress.append((network, done, count))

    def on_calibrated(self, report):
        self.reports.append(report)


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """A command line over a float file, twelve pictures and a preprocessor file."""
    (tmp_path / "pictures").mkdir()
    for k, picture in enumerate(photos(12, size=30)):
        np.save(tmp_path / "pictures" / f"{k}.npy", picture)
    (tmp_path / "preprocess.json").write_text(json.dumps(JSON))
    path = saved(tmp_path, chain(1.5), "small")
    line = (
        f"{path} --calibrate {tmp_path}/pictures --preprocess {tmp_path}/preprocess.json --target x86:avx2 --no-times"
    )
    return [*line.split(), "--out", str(tmp_path / "out" / "bundle"), "--dump", str(tmp_path / "dump")]


def test_the_bundle_answers_as_the_integers_do(arguments, tmp_path):
    log = Log()
    report = build(parse_build([*arguments, "--bits", "4", "--rounding", "learned"]), log)
    path = tmp_path / "out" / "small-w4a4-learned.onnx"
    assert log.progress == [("small", k, 4) for k in (1, 2, 3, 4)]
    (calibration,) = log.reports
    assert calibration.calibrating == 8 and calibration.agreement.pictures == 4 and calibration.agreement.held_out
    assert [v.alone for v in calibration.layers] == sorted(v.alone for v in calibration.layers)
    kept = json.loads(properties_of(path)[CALIBRATION])
    assert report_from_dict(kept) == calibration
    for copy in (tmp_path / "dump" / path.stem / "0-calibration.json", path.with_suffix(".json")):
        assert json.loads(copy.read_text()) == kept
    assert (report.bundle / "onnx" / path.name).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["bundle", path.with_suffix(".json").name, path.name]
    photo = photos(1, seed=3, size=50)[0, :40]
    with Engine(report.bundle) as engine:
        graph = open_networks(parse_build([str(path)]), BuildListener()).variants[0].graph
        expected = interpreter.run(graph, framed(photo, (14, 14), 0.75)[None])[0]
        assert np.array_equal(engine.infer(photo).logits, expected)


def test_a_quantized_file_is_made_once(arguments, tmp_path):
    settings = parse_build(arguments)
    first = Log()
    open_networks(settings, first)
    path = tmp_path / "out" / "small-w8a8.onnx"
    content = path.read_bytes()
    again = Log()
    source = open_networks(settings, again)
    assert first.progress and not again.progress
    assert again.reports == first.reports and path.read_bytes() == content
    assert source.crop == 0.75 and len(source.pictures) == 4
    np.save(tmp_path / "pictures" / "0.npy", photos(1, seed=7, size=30)[0])
    other = Log()
    open_networks(settings, other)
    assert other.progress, "other pictures make another file"


def test_nothing_is_left_of_a_calibration_that_fails(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("compile.calibrate.files.quantized_logits", lambda *_: 1 / 0)
    settings = parse_build(arguments)
    with pytest.raises(ZeroDivisionError):
        calibrate_file(settings.sources[0], settings.calibration, tmp_path / "out", lambda done, count: None)
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_the_report_in_words(arguments):
    log = Log()
    open_networks(parse_build(arguments), log)
    text = "\n".join(log.reports[0].lines)
    assert "8 pictures calibrated" in text and "of 4 pictures held out" in text and "these are few pictures" in text
    assert "trained on pictures resized by bicubic interpolation" in text


@pytest.mark.parametrize(
    "change, message",
    [
        (["--mean", "0", "--std", "1"], "expected either --preprocess, or --mean and --std"),
        (["--bits", "5"], "expected one of 8, w4a8, 4, got '5'"),
        (["--size", "3"], "--size: expected 8 pixels or more, got 3"),
        (["--preprocess", "torchvision:lenet"], "expected one of torchvision's classifiers"),
    ],
)
def test_command_lines_that_cannot_be_followed(arguments, change, message, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, *change])
    assert message in capsys.readouterr().err


def test_flags_without_calibrate(capsys):
    with pytest.raises(SystemExit):
        main(["net.onnx", "--bits", "4"])
    assert "--bits: expected --calibrate FOLDER with it" in capsys.readouterr().err


def test_what_cannot_be_calibrated_ends_with_one_line(arguments, tmp_path, capsys):
    assert main([a if a != str(tmp_path / "small.onnx") else str(tmp_path) for a in arguments]) == 2
    assert "expected a run folder, which holds run.json" in capsys.readouterr().err
    assert main([a if a != f"{tmp_path}/pictures" else f"{tmp_path}/none" for a in arguments]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_damaged_crop_is_refused(tmp_path):
    model = chain()
    entry = model.metadata_props.add()
    entry.key, entry.value = "bitgrade.preprocessing", '{"crop": 7}'
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(OnnxError, match=r"expected a crop in 0\.\.1 .* got 7"):
        crop_of(tmp_path / "x.onnx")
