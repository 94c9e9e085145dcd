"""From a run folder to a bundle: what is written, that it is checked, and that nothing is half there."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.peers import engines, float_network
from compile import build as builder
from compile import verify
from compile.qdq.importer import Normalization, load
from compile.report import BuildReport
from compile.settings import BuildSettings
from compile.source.opened import open_source
from runtime import Engine, open_bundle
from targets import find
from targets.reference import interpreter
from tests.compile.conftest import VARIANTS
from tests.support.graphs import pictures

pytestmark = pytest.mark.slow


def build(out: Path, *sources: Path, target: str = "x86:avx2", **options) -> BuildReport:
    return builder.build(BuildSettings(find(target), sources, out, **options))


def test_engine_equals_reference(run_folder, bundle):
    with Engine(bundle) as engine:
        assert list(engine.variants) == list(VARIANTS)
        for name in VARIANTS:
            graph = load(run_folder / f"{name}.onnx")
            x = pictures(graph, 16, 9)
            got = np.stack([p.logits for p in engine.infer_batch(list(x), variant=name)])
            np.testing.assert_array_equal(got, interpreter.run(graph, x))


def test_a_file_of_onnxruntime_s_quantizer_builds(bundle, run_folder, tmp_path, capsys):
    """Its picture is a float tensor and its output is quantized, unlike ours."""
    model = onnx.load(run_folder / "w8a8.onnx")
    floats = float_network.as_floats(model, open_bundle(bundle).golden()[0])
    onnx.save(float_network.float_network(model), tmp_path / "fp32.onnx")
    file = engines.quantize_by_onnxruntime(tmp_path / "fp32.onnx", floats, tmp_path)["int8-u8s8"]
    image = load(run_folder / "w8a8.onnx").tensors["image"]
    normalization = Normalization(tuple(z / 255 for z in image.zero_point), (1 / 255 / image.scale,) * 3)
    mean, std = (",".join(map(str, values)) for values in (normalization.mean, normalization.std))
    words = [str(file), "--target", "x86", "--out", str(tmp_path / "b")]
    assert builder.main(words) == 2
    assert "normalization" in capsys.readouterr().err
    assert builder.main([*words, "--mean", mean, "--std", std]) == 0
    assert re.search(r"onnxruntime +6 classes +8 .*(indicative|equal)\n", capsys.readouterr().out)
    graph = load(file, normalization)
    x = pictures(graph, 6, 5)
    with Engine(tmp_path / "b") as engine:
        got = np.stack([p.logits for p in engine.infer_batch(list(x))])
    np.testing.assert_array_equal(got, interpreter.run(graph, x))


def test_weights_shrink_with_the_bits_and_equal_ones_are_stored_once(bundle, run_folder, tmp_path):
    stored = {v["name"]: v["bytes"] for v in json.loads((bundle / "manifest.json").read_text())["variants"]}
    assert stored["w2a2"] < stored["mixed"] < stored["w8a8"]
    same = tmp_path / "same.onnx"
    same.write_bytes((run_folder / "w8a8.onnx").read_bytes())
    once = build(tmp_path / "once", run_folder / "w8a8.onnx").bundle
    twice = build(tmp_path / "twice", run_folder / "w8a8.onnx", same).bundle
    assert (once / "weights.bin").stat().st_size == (twice / "weights.bin").stat().st_size
    assert sorted(p.name for p in (twice / "lib").iterdir()) == ["look.so", "w8a8.so"]


def test_same_source_same_bundle(run_folder, bundle, tmp_path):
    again = build(tmp_path / "again", run_folder, target="x86").bundle
    for path in sorted(p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file()):
        assert (again / path).read_bytes() == (bundle / path).read_bytes(), path


def test_a_build_that_differs_fails_and_leaves_the_old_bundle(run_folder, tmp_path, monkeypatch):
    out = build(tmp_path / "bundle", run_folder).bundle
    before = (out / "manifest.json").read_bytes()
    source = open_source([run_folder])
    wrong = source.variants[0].logits.copy()
    wrong[2, 5] += 1
    broken = replace(source, variants=[replace(source.variants[0], logits=wrong)])
    monkeypatch.setattr(builder, "open_source", lambda *_: broken)
    with pytest.raises(verify.VerificationError, match="golden data = reference: expected equal logits, 1 of 60"):
        build(out, run_folder)
    assert (out / "manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("manifest", ['{"manifest_version": 3}', '{"files": {}}', "[]", "no JSON"])
def test_a_folder_that_holds_more_than_a_bundle_is_not_replaced(run_folder, tmp_path, manifest):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text(manifest)
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="mine: expected no such folder, or a bundle to replace and nothing else"):
        build(tmp_path / "mine", run_folder)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_wrong_kernel_is_caught(run_folder, tmp_path, monkeypatch):
    from targets.x86 import family

    right = family.FAMILY.runner

    def off_by_one(library, target, function):
        run = right(library, target, function)
        return lambda *arguments: run(*arguments) + 1

    monkeypatch.setattr(family, "FAMILY", replace(family.FAMILY, runner=off_by_one))
    with pytest.raises(verify.VerificationError, match="x86:avx2 = reference: expected equal logits, 40 of 40 differ"):
        build(tmp_path / "bundle", run_folder)
    assert not list(tmp_path.iterdir())


def test_dump_leaves_every_stage(run_folder, tmp_path):
    build(tmp_path / "b", run_folder / "mixed.onnx", dump=tmp_path / "dump")
    left = {p.name for p in (tmp_path / "dump" / "mixed").iterdir()}
    stages = {"1-onnx.txt", "2-graph.txt", "3-plan.txt", "4-tir.py", "mixed.s", "mixed.o", "5-times.json"}
    assert stages <= left
    assert "layer1.0.conv1" in (tmp_path / "dump" / "mixed" / "2-graph.txt").read_text()
    assert "vpmaddubsw" in (tmp_path / "dump" / "mixed" / "mixed.s").read_text()
    (times,) = json.loads((tmp_path / "dump" / "mixed" / "5-times.json").read_text())
    assert times["levels"] == ["x86:avx2"] and len(times["rows"]) > 5
    ladder = (tmp_path / "dump" / "6-verification.txt").read_text().splitlines()
    assert len(ladder) == 4 and ladder[2].startswith("mixed: x86:avx2 = reference, demands bit for bit: equal (4 ")
    assert ladder[3].startswith("look: x86:avx2 = reference, demands bit for bit: equal (4 ")


def test_what_a_build_returns(run_folder, tmp_path):
    """Variants that share their code have one table of layers, unless more is asked for."""
    same = tmp_path / "same.onnx"
    same.write_bytes((run_folder / "w8a8.onnx").read_bytes())
    files = (run_folder / "w8a8.onnx", same)
    report = build(tmp_path / "b", *files, times=False)
    assert report.bundle == tmp_path / "b" and report.target == "x86:avx2"
    assert report.bytes == sum(p.stat().st_size for p in report.bundle.rglob("*") if p.is_file())
    assert [(v.name, v.code_of, len(v.tables)) for v in report.variants] == [("w8a8", "w8a8", 1), ("same", "w8a8", 0)]
    assert all(rung.holds and rung.ran for rung in report.rungs) and len(report.rungs) == 2 * 3 + 1
    every = build(tmp_path / "b", *files, times=False, every_table=True)
    assert [len(v.tables) for v in every.variants] == [1, 1]


def test_brackets_in_a_path_are_printed(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert builder.main([str(run_folder), "--target", "x86", "--out", "a[bold]b[/x]", "--no-times"]) == 0
    assert "a[bold]b[/x]" in capsys.readouterr().out and (tmp_path / "a[bold]b[/x]" / "manifest.json").is_file()


def test_a_uint8_picture_takes_no_normalization(run_folder, tmp_path, capsys):
    """Nor has a run use for labels."""
    words = ["--out", str(tmp_path / "b"), "--mean", "0", "--std", "1"]
    for source in (run_folder, run_folder / "w8a8.onnx"):
        assert builder.main([str(source), *words]) == 2
        err = capsys.readouterr().err
        assert "leave --mean and --std out" in err and str(source) in err
    (tmp_path / "names").write_text("a\n")
    assert builder.main([str(run_folder), "--labels", str(tmp_path / "names")]) == 2
    assert "leave --labels out" in capsys.readouterr().err
