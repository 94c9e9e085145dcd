"""From a run folder to a bundle: the ladder, what is written, what is refused, and that nothing is half there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import peers
from compile import build as builder
from compile import reference, verify
from compile.onnx_import import load
from compile.source import SourceError, open_source
from runtime import Engine, open_bundle
from targets import find
from tests.graphs import pictures, resnet_like
from train.export import export_run

BITS = {"w8a8": ((8, 8),), "mixed": ((8, 8), (4, 4), (3, 2)), "w2a2": ((2, 2),)}


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A run as training leaves it: three variants of a small ResNet; two of equal bits share their weights."""
    graphs = {name: resnet_like(bits, seed=1) for name, bits in BITS.items()}
    folder = tmp_path_factory.mktemp("runs") / "small"
    run = {
        "format": 1,
        "name": "small",
        "arch": "resnet",
        "dataset": "none",
        "method": "fixed",
        "labels": [f"c{i}" for i in range(10)],
        "selector": None,
        "variants": [{"name": n, "cost": 1.0, "accuracy": {"clean": 0.5}} for n in graphs],
    }
    export_run(folder, graphs, run, pictures(graphs["w8a8"], 6, 3))
    return folder


@pytest.fixture(scope="session")
def bundle(run_folder, tmp_path_factory) -> Path:
    return builder.build([run_folder], find("x86"), tmp_path_factory.mktemp("bundles") / "small")


def test_engine_equals_reference(run_folder, bundle):
    with Engine(bundle) as engine:
        assert list(engine.variants) == list(BITS)
        for name in BITS:
            graph = load(run_folder / f"{name}.onnx")
            x = pictures(graph, 16, 9)
            got = np.stack([p.logits for p in engine.infer_batch(list(x), variant=name)])
            np.testing.assert_array_equal(got, reference.run(graph, x))


def test_a_file_of_onnxruntime_s_quantizer_builds(bundle, run_folder, tmp_path, capsys):
    """Its picture is a float tensor and its output is quantized, unlike ours."""
    model = onnx.load(run_folder / "w8a8.onnx")
    floats = peers.as_floats(model, open_bundle(bundle).golden()[0])
    onnx.save(peers.float_network(model), tmp_path / "fp32.onnx")
    file = peers.quantized(tmp_path / "fp32.onnx", floats, tmp_path)["int8-u8s8"]
    image = load(run_folder / "w8a8.onnx").tensors["image"]
    mean, std = ([str(z / 255) for z in image.zero_point], [str(1 / 255 / image.scale)] * 3)
    words = ["--mean", ",".join(mean), "--std", ",".join(std)]
    assert builder.main([str(file), "--target", "x86", "--out", str(tmp_path / "b")]) == 2
    assert "normalization" in capsys.readouterr().err
    assert builder.main([str(file), "--target", "x86", "--out", str(tmp_path / "b"), *words]) == 0
    graph = load(file, tuple(tuple(map(float, w.split(","))) for w in words[1::2]))
    x = pictures(graph, 6, 5)
    with Engine(tmp_path / "b") as engine:
        got = np.stack([p.logits for p in engine.infer_batch(list(x))])
    np.testing.assert_array_equal(got, reference.run(graph, x))


def test_weights_shrink_with_the_bits_and_equal_ones_are_stored_once(bundle, run_folder, tmp_path):
    stored = {v["name"]: v["bytes"] for v in json.loads((bundle / "manifest.json").read_text())["variants"]}
    assert stored["w2a2"] < stored["mixed"] < stored["w8a8"]
    same = tmp_path / "same.onnx"
    same.write_bytes((run_folder / "w8a8.onnx").read_bytes())
    once = builder.build([run_folder / "w8a8.onnx"], find("x86:avx2"), tmp_path / "once")
    twice = builder.build([run_folder / "w8a8.onnx", same], find("x86:avx2"), tmp_path / "twice")
    assert (once / "weights.bin").stat().st_size == (twice / "weights.bin").stat().st_size
    assert len(list((twice / "lib").iterdir())) == 1


def test_same_source_same_bundle(run_folder, bundle, tmp_path):
    again = builder.build([run_folder], find("x86"), tmp_path / "again")
    for path in sorted(p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file()):
        assert (again / path).read_bytes() == (bundle / path).read_bytes(), path


def test_a_build_that_differs_fails_and_leaves_the_old_bundle(run_folder, tmp_path, monkeypatch):
    out = builder.build([run_folder], find("x86:avx2"), tmp_path / "bundle")
    before = (out / "manifest.json").read_bytes()
    source = open_source([run_folder])
    wrong = source.variants[0].logits.copy()
    wrong[2, 5] += 1
    broken = replace(source, variants=[replace(source.variants[0], logits=wrong)])
    monkeypatch.setattr(builder, "open_source", lambda paths, normalization: broken)
    with pytest.raises(verify.VerificationError, match="recorded: expected equal logits, 1 of 60"):
        builder.build([run_folder], find("x86:avx2"), out)
    assert (out / "manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_wrong_kernel_is_caught(run_folder, tmp_path, monkeypatch):
    from targets.x86 import toolchain

    right = toolchain.runner

    def off_by_one(library, target, function):
        run = right(library, target, function)
        return lambda *arguments: run(*arguments) + 1

    monkeypatch.setattr(toolchain, "runner", off_by_one)
    with pytest.raises(verify.VerificationError, match="x86:avx2 = reference: expected equal logits, 40 of 40 differ"):
        builder.build([run_folder], find("x86:avx2"), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_dump_leaves_every_stage(run_folder, tmp_path):
    builder.build([run_folder / "mixed.onnx"], find("x86:avx2"), tmp_path / "b", dump_to=tmp_path / "dump")
    left = {p.name for p in (tmp_path / "dump" / "mixed").iterdir()}
    assert {"1-onnx.txt", "2-graph.txt", "3-plan.txt", "4-tir.py", "mixed.s", "mixed.o"} <= left
    assert "layer1.0.conv1" in (tmp_path / "dump" / "mixed" / "2-graph.txt").read_text()
    assert "vpmaddubsw" in (tmp_path / "dump" / "mixed" / "mixed.s").read_text()


def test_refusals_say_what_to_do(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert builder.main(["--target", "x86"]) == 2
    assert "python -m train.run" in capsys.readouterr().err
    assert builder.main([str(run_folder), "--target", "z80"]) == 2
    assert "expected a target among" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    assert builder.main([str(run_folder), "--target", "x86", "--out", "mine"]) == 2
    assert "or a bundle to replace" in capsys.readouterr().err
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"


@pytest.mark.parametrize("settings, budget", [({"budget": 0.25}, 0.25), ({}, None), (None, None)])
def test_a_run_s_own_budget_goes_along(run_folder, tmp_path, settings, budget):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    about |= {} if settings is None else {"settings": settings}
    (folder / "run.json").write_text(json.dumps(about))
    assert open_source([folder]).budget == budget
    (folder / "run.json").write_text(json.dumps(about | {"selector": {}}))
    assert open_source([folder]).budget is None  # no table to serve it with


@pytest.mark.parametrize("settings", [{"budget": "1"}, {"budget": 0}, {"budget": float("nan")}, [1]])
def test_a_damaged_own_budget_is_refused(run_folder, tmp_path, settings):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"settings": settings}))
    with pytest.raises(SourceError, match="budget|damaged"):
        open_source([folder])


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 99}', '{"format": 1}', "null"])
def test_damaged_run_is_refused(run_folder, tmp_path, damage):
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(SourceError):
        open_source([tmp_path])
