"""From a run folder to a bundle: the ladder, what is written, what is refused, and that nothing is half there."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from benchmarks.peers import engines
from compile import build as builder
from compile import verify
from compile.qdq.importer import load
from compile.source.opened import SourceError, open_source, read_labels
from runtime import Engine, open_bundle
from targets import find
from targets.reference import interpreter
from tests.compile.test_onnx_foreign import small
from tests.support.graphs import pictures, resnet_like
from tests.support.runs import run_record
from train.integers.export import export_run

BITS = {"w8a8": ((8, 8),), "mixed": ((8, 8), (4, 4), (3, 2)), "w2a2": ((2, 2),)}


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A run as training leaves it: three variants of a small ResNet; two of equal bits share their weights."""
    graphs = {name: resnet_like(bits, seed=1) for name, bits in BITS.items()}
    folder = tmp_path_factory.mktemp("runs") / "small"
    export_run(folder, graphs, run_record(graphs, accuracy={"clean": 0.5}), pictures(graphs["w8a8"], 6, 3))
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
            np.testing.assert_array_equal(got, interpreter.run(graph, x))


def test_a_file_of_onnxruntime_s_quantizer_builds(bundle, run_folder, tmp_path, capsys):
    """Its picture is a float tensor and its output is quantized, unlike ours."""
    model = onnx.load(run_folder / "w8a8.onnx")
    floats = engines.as_floats(model, open_bundle(bundle).golden()[0])
    onnx.save(engines.float_network(model), tmp_path / "fp32.onnx")
    file = engines.quantized(tmp_path / "fp32.onnx", floats, tmp_path)["int8-u8s8"]
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
    np.testing.assert_array_equal(got, interpreter.run(graph, x))


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
    monkeypatch.setattr(builder, "open_source", lambda *_: broken)
    with pytest.raises(verify.VerificationError, match="recorded: expected equal logits, 1 of 60"):
        builder.build([run_folder], find("x86:avx2"), out)
    assert (out / "manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("manifest", ['{"manifest_version": 3}', '{"files": {}}', "[]", "no JSON"])
def test_a_folder_that_holds_more_than_a_bundle_is_not_replaced(run_folder, tmp_path, manifest):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text(manifest)
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="mine: expected no such folder, or a bundle to replace and nothing else"):
        builder.build([run_folder], find("x86:avx2"), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


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


def test_brackets_in_a_path_are_printed(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert builder.main([str(run_folder), "--target", "x86", "--out", "a[bold]b[/x]", "--no-times"]) == 0
    assert "a[bold]b[/x]" in capsys.readouterr().out and (tmp_path / "a[bold]b[/x]" / "manifest.json").is_file()


@pytest.mark.parametrize("settings, budget", [({"budget": 0.25}, 0.25), ({}, None), (None, None)])
def test_a_run_s_own_budget_goes_along(run_folder, tmp_path, settings, budget):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    about |= {} if settings is None else {"settings": settings}
    (folder / "run.json").write_text(json.dumps(about))
    assert open_source([folder]).budget == budget


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": ["a\tb"] * 10}, "expected labels to be printable text"),
        ({"labels": "0123456789"}, "labels"),
        ({"labels": []}, "at least 1 labels"),
        ({"name": 7}, "name"),
        ({"selector": {}}, "selector: expected format"),
        ({"selector": []}, "selector to be an object"),
        ({"budgets": 3}, "budgets"),
        ({"budgets": [{}]}, "'budget'"),
        ({"escalation": {"up": [0, 1, 2], "budgets": []}}, "a selector beside an escalation"),
        ({"accuracy": "x"}, "accuracy to be an object"),
        ({"accuracy": {"clean": 2}}, "clean finite in 0..1"),
        ({"cost": None}, "cost to be a number"),
        ({"cost": -1.0}, "cost finite in 0"),
    ],
)
def test_what_the_runtime_would_refuse_is_refused_before_the_work(run_folder, tmp_path, change, words):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    of_variant = change.keys() & {"accuracy", "cost"}
    (about["variants"][1] if of_variant else about).update(change)
    (folder / "run.json").write_text(json.dumps(about))
    with pytest.raises(SourceError, match=words):
        open_source([folder])


@pytest.mark.parametrize("settings", [{"budget": "1"}, {"budget": 0}, {"budget": float("nan")}, [1]])
def test_a_damaged_own_budget_is_refused(run_folder, tmp_path, settings):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"settings": settings}))
    with pytest.raises(SourceError, match="budget|damaged"):
        open_source([folder])


def test_places_are_checked_before_the_work(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(builder, "open_source", lambda *_: pytest.fail("it worked first"))
    (tmp_path / "file").touch()
    for words in (["--out", "file/x"], ["--dump", "file"], ["--out", "b", "--dump", "file/x/y"]):
        words = [str(tmp_path / w) if not w.startswith("-") else w for w in words]
        assert builder.main([str(run_folder), "--target", "x86", *words]) == 2
        assert f"{words[-2]} {words[-1]}: expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--mean", "0,nan,0", "--std", "1,1,1"], "expected numbers such as"),
        (["--mean", "0,0,0", "--std", "1,0,1"], "expected numbers above 0, got 0"),
        (["--mean", "0,0,0", "--std", "1"], "as many numbers each, got 3 and 1"),
        (["--mean", "a", "--std", "1"], "expected numbers such as"),
        (["--mean", "0"], "belong together"),
    ],
)
def test_impossible_normalizations(capsys, words, expected):
    with pytest.raises(SystemExit):
        builder.main(["x.onnx", *words])
    assert expected in capsys.readouterr().err


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
    with pytest.raises(ValueError, match="mean and std for each of 3 channels, got 2 and 2"):
        load(_float_file(tmp_path), ((0, 0), (1, 1)))


def _float_file(folder) -> Path:
    onnx.save(small(), folder / "float.onnx")
    return folder / "float.onnx"


def test_labels_of_files(run_folder, tmp_path):
    file, names = run_folder / "w8a8.onnx", tmp_path / "names.txt"
    names.write_text("".join(f"name {i}\n" for i in range(10)))
    assert open_source([file], None, read_labels(names)).labels == [f"name {i}" for i in range(10)]
    assert open_source([file]).labels[3] == "class 3"
    with pytest.raises(SourceError, match="expected 10 labels, one a logit, got 9"):
        open_source([file], None, [str(i) for i in range(9)])
    for content, words in ((b"a\n\nb\n", "line 2 has none"), (b"", "line 1"), (b"\xff\xfe", "cannot read it")):
        names.write_bytes(content)
        with pytest.raises(SourceError, match=words):
            read_labels(names)
    with pytest.raises(SourceError, match="cannot read it"):
        read_labels(tmp_path)


def test_the_target_is_this_machine_s_unless_told(run_folder, monkeypatch, capsys):
    found = []
    monkeypatch.setattr(builder, "build", lambda paths, target, *_, **__: found.append(target.name))
    for machine, name in (("x86_64", "x86"), ("aarch64", "arm")):
        monkeypatch.setattr(builder.cpu, "machine", lambda machine=machine: machine)
        assert builder.main([str(run_folder)]) == 0 and found.pop() == name
    monkeypatch.setattr(builder.cpu, "machine", lambda: "riscv64")
    with pytest.raises(SystemExit):
        builder.main([str(run_folder)])
    assert "--target" in capsys.readouterr().err


def test_one_table_of_layers_for_each_code(run_folder, tmp_path):
    same = tmp_path / "same.onnx"
    same.write_bytes((run_folder / "w8a8.onnx").read_bytes())
    for verbose, tables in ((False, 1), (True, 2)):
        console = Console(file=io.StringIO(), width=200)
        builder.build(
            [run_folder / "w8a8.onnx", same],
            find("x86:avx2"),
            tmp_path / "b",
            console=console,
            times=False,
            verbose=verbose,
        )
        out = console.file.getvalue()
        assert out.count(": kernels, ") == tables
        assert "1 of 2: w8a8\n" in out and "2 of 2: same, the code of w8a8\n" in out


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 99}', '{"format": 1}', "null"])
def test_damaged_run_is_refused(run_folder, tmp_path, damage):
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(SourceError):
        open_source([tmp_path])


@pytest.mark.parametrize("cut, at", [(100, None), (0, 10), (0, 60), (0, 130), (5, 1)])
def test_damaged_golden_data_is_refused(run_folder, tmp_path, cut, at):
    copy = shutil.copytree(run_folder, tmp_path / "run")
    path = copy / json.loads((copy / "run.json").read_text())["golden"]
    data = bytearray(path.read_bytes())
    if at is not None:
        data[at] ^= 0xFF
    path.write_bytes(data[: len(data) - cut])
    try:
        open_source([copy])
    except SourceError as error:
        assert "damaged" in str(error) and "export the run again" in str(error)
    else:
        assert not cut  # a byte that the reader does not look at
