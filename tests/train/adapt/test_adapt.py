"""A whole adaptation on a small network: the run folder builds and answers, a resumed run gives the same bytes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from compile.source.opened import open_source as open_build_source
from compile.source.run_folder import read_run
from targets.reference import interpreter
from tests.train.adapt.test_checkpoint import trained
from train.adapt import adapt as adaptation
from train.adapt.__main__ import main
from train.adapt.adapt import adapt
from train.adapt.checkpoint import float_network
from train.adapt.pictures import AdaptPictures
from train.adapt.settings import AdaptSettings
from train.adapt.source import AdaptSource, open_source
from train.evidence.evidence import Evidence
from train.network.weights import save_weights

pytestmark = pytest.mark.slow

LABELS = [f"class {i}" for i in range(7)]
SHAPE = (16, 16, 3)


def photos(count: int, seed: int) -> np.ndarray:
    """Smooth pictures uint8 [count, 16, 16, 3] with some detail."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    return np.clip(coarse + rng.normal(0, 8, (count, *SHAPE)), 0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def source() -> AdaptSource:
    return AdaptSource(*float_network(trained("resnet8", SHAPE)))


@pytest.fixture(scope="module")
def pictures() -> AdaptPictures:
    return AdaptPictures(photos(24, 1), photos(60, 2), photos(12, 3))


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> AdaptSettings:
    return AdaptSettings(bits=("8", "4"), fitted=24, budget=0.9, cache=tmp_path_factory.mktemp("cache"), workers=1)


@pytest.fixture(scope="module")
def run(source, pictures, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "adapted"
    adapt(source, pictures, settings, LABELS, out)
    return out


def test_the_run_folder_is_one_that_builds(run, pictures):
    record = read_run(run)
    names = [v.name for v in record.variants]
    assert names[:2] == ["w8a8", "w8a8-all"] and "w4a4-all" in names and record.settings["bits"] == "8,4"
    assert all(v.base == v.name.partition("-")[0] + "-all" for v in record.variants if v.kinds)
    source = open_build_source([run])
    assert source.labels == LABELS and source.selector is not None and source.budget == 0.9
    for variant in source.variants:
        np.testing.assert_array_equal(interpreter.run(variant.graph, source.pictures), variant.logits)


def test_one_set_of_codes_serves_all_kinds_but_those_of_clean_pictures(run, pictures):
    variants = {v.name: v for v in open_build_source([run]).variants}
    record = {v.name: v for v in read_run(run).variants}
    for name, known in record.items():
        if not known.base:
            continue
        own, base = variants[name].graph.convs(), variants[known.base].graph.convs()
        shared = [np.array_equal(a.weight, b.weight) for a, b in zip(own, base, strict=True)]
        assert all(shared) or not any(shared[1:-1])


def test_test_pictures_without_labels_are_judged_by_the_networks_own_answers(run):
    evidence = Evidence.read(run)
    clean = evidence.by_view(evidence.full_precision)[0]
    assert evidence.views[0] == ("clean", 0) and clean.all()
    report = (run / "report.md").read_text()
    assert "adaptive" in report and "w8a8-all" in report


def test_a_run_that_was_killed_goes_on_and_ends_the_same(run, source, pictures, settings, tmp_path, monkeypatch):
    out = tmp_path / "adapted"

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "gather", stop)
        with pytest.raises(KeyboardInterrupt):
            adapt(source, pictures, settings, LABELS, out)
    monkeypatch.setattr(adaptation.Family, "make", stop)  # nothing is fitted again
    adapt(source, pictures, settings, LABELS, out)
    names = sorted(p.name for p in run.glob("*.onnx"))
    assert names == sorted(p.name for p in out.glob("*.onnx"))
    for name in (*names, "golden.npz", "configs.json", "results.json"):
        assert (out / name).read_bytes() == (run / name).read_bytes(), name
    assert not (out / "evaluation").exists()


def test_a_damaged_part_is_fitted_again(source, pictures, settings, tmp_path):
    from train.adapt.kept import read_variants, write_variants

    known = {"v": open_source}  # any content will do for a file that is none
    (tmp_path / "w8a8-variants.json").write_text(json.dumps([{"name": "w8a8", "kinds": [], "base": ""}]))
    (tmp_path / "w8a8.onnx").write_bytes(b"damaged" * 9)
    assert read_variants(tmp_path, "w8a8", "origin") is None and known
    write_variants(tmp_path, "w8a8", "origin", [])
    assert read_variants(tmp_path, "w8a8", "origin") == []


def test_the_command_adapts_a_checkpoint_to_a_folder(tmp_path, capsys):
    save_weights(trained("resnet8", SHAPE), tmp_path / "net.safetensors")
    folder = tmp_path / "photos"
    for k, picture in enumerate(photos(40, 4)):
        (folder / f"{k % 7}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{k % 7}" / f"{k}.png")
    out = tmp_path / "run"
    words = [str(tmp_path / "net.safetensors"), "--pictures", str(folder), "--out", str(out), "--arch", "resnet8"]
    words += ["--classes", "7", "--size", "16", "--fitted", "16", "--judged", "12", "--weights", "kept"]
    main([*words, "--cache", str(tmp_path / "cache"), "--labelled"])
    record = read_run(out)
    assert record.variants[0].name == "w8a8" and not any("-all" in v.name for v in record.variants)
    assert f"run: {out}" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--pictures": "nowhere"}, "expected a folder of pictures, but there is no such folder"),
        ({"--pictures": "few"}, "expected at least 32 pictures in this folder and those in it, got 3"),
        ({"--arch": ""}, "expected --arch with one of resnet8"),
        ({"--bits": "5"}, "--bits: expected some of 8, w4a8, 4, got '5'"),
        ({"--fitted": "2"}, "--fitted: expected 8 pictures or more, got 2"),
        ({"--hold-out": "fog"}, "--hold-out: expected some of gaussian_noise"),
        ({"network": "net.txt"}, "expected a float ONNX file or a checkpoint"),
        ({"network": "net.onnx"}, "expected a float ONNX file, but there is no such file"),
        ({"--out": "occupied"}, "expected no such folder, an empty one, or that of an earlier run"),
    ],
)
def test_bad_requests_are_told_in_one_line(tmp_path, capsys, changed, message):
    save_weights(trained("resnet8", SHAPE), tmp_path / "net.safetensors")
    for name, count in (("photos", 34), ("few", 3)):
        (tmp_path / name).mkdir()
        for k, picture in enumerate(photos(count, 5)):
            Image.fromarray(picture).save(tmp_path / name / f"{k}.png")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "letters.txt").write_text("mine")
    words = {"network": "net.safetensors", "--pictures": "photos", "--out": "run", "--arch": "resnet8"}
    words |= {"--classes": "7", "--size": "16"}
    words |= changed
    places = ("network", "--pictures", "--out")
    line = [str(tmp_path / words.pop("network"))]
    for name, value in words.items():
        line += [name, str(tmp_path / value) if name in places else value] if value else []
    with pytest.raises(SystemExit) as end:
        main(line)
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1
