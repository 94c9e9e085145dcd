"""A .tflite file through a whole build: the ladder with LiteRT, and without it, where the build says so."""

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("tflite", reason="no schema: pip install tflite==2.18.0 flatbuffers")

from compile.build import build, main
from compile.printing import BuildPrinter
from compile.settings import BuildSettings
from compile.source.opened import open_source
from compile.tflite import peer
from compile.tflite.peer import PeerError
from compile.verify import FOREIGN_AGREEMENT, verify_variant
from runtime.bundle.opened import open_bundle
from runtime.engine import Engine
from targets import find
from targets.reference import interpreter
from tests.support.tflite_cases import conv_case, photos

pytestmark = pytest.mark.slow


@pytest.fixture(params=["INT8", "UINT8"])
def file(request, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(conv_case(request.param).net.to_bytes())
    return path


def test_a_bundle_of_a_tflite_file_gives_the_integers(file, tmp_path):
    lines: list[str] = []
    settings = BuildSettings(find("x86"), (file,), out=tmp_path / "bundle", dump=tmp_path / "dump", times=False)
    report = build(settings, BuildPrinter(write=lines.append))
    graph = open_source([file]).variants[0].graph
    pictures = photos(5)
    with Engine(report.bundle) as engine:
        answers = np.stack([engine.infer(picture).logits for picture in pictures])
    assert np.array_equal(answers, interpreter.run(graph, pictures))
    manifest = open_bundle(report.bundle).manifest
    assert manifest.variants[0].onnx is None and "tflite/model.tflite" in manifest.files
    assert "CONV_2D" in (tmp_path / "dump" / "model" / "1-tflite.txt").read_text()
    assert report.rungs[0].answers == "LiteRT" and report.rungs[0].holds


def test_where_litert_is_missing_the_build_says_that_it_was_not_asked(file, tmp_path, monkeypatch, capsys):
    def missing(*_):
        raise PeerError(f"it is not installed; {peer.INSTALL}")

    monkeypatch.setattr(peer, "open_interpreter", missing)
    out = tmp_path / "bundle"
    assert main([str(file), "--target", "x86", "--out", str(out), "--no-times"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "NOT CHECKED: model was not compared with LiteRT" in printed and "pip install ai-edge-litert" in printed


def test_a_litert_that_answers_otherwise_fails_the_build(file, monkeypatch):
    source = open_source([file])
    variant = source.variants[0]
    monkeypatch.setattr("compile.verify.run_litert", lambda *_: -interpreter.run(variant.graph, source.pictures))
    rung = verify_variant(variant, source.pictures, [], 1)[0]
    assert rung.needed == np.ceil(FOREIGN_AGREEMENT * len(source.pictures)) and not rung.holds
    with pytest.raises(ValueError, match="model: LiteRT ~ reference: expected the same class of 6 pictures"):
        rung.require()


def test_a_refused_file_ends_the_build_with_one_line(tmp_path, capsys):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\x10\0\0\0TFL3" + bytes(64))
    assert main([str(path), "--target", "x86", "--out", str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: model: expected ") and len(error.splitlines()) == 1
