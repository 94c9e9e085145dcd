"""A run takes new folders, empty ones and earlier runs'; all others stay as they are, and nothing is computed first."""

import json

import numpy as np
import pytest
from PIL import Image

from compile.qdq.importer import load as load_onnx
from targets.reference import interpreter
from train import learn as learning
from train.loop.run_folder import check_own, check_writable
from train.recost.recost import recost
from train.run import run_training
from train.settings.command_line import parse
from train.settings.options import SettingsError
from train.settings.settings import Settings

pytestmark = pytest.mark.slow


def no_data(*_):
    raise LookupError("data are loaded")


@pytest.mark.parametrize("left", ["checkpoint/mine.txt", "results.json", "settings.json"])
def test_a_stranger_s_folder_is_refused_before_all_work_and_stays(tmp_path, monkeypatch, left):
    monkeypatch.setattr(learning, "load", no_data)
    file = tmp_path / "out" / left
    file.parent.mkdir(parents=True)
    file.write_text('{"editor": "mine"}')
    for begin in (
        lambda: learning.learn(parse(["--out", str(tmp_path / "out")])),
        lambda: recost(tmp_path, tmp_path / "out"),
    ):
        with pytest.raises(SettingsError, match="--out .*expected no such folder.* got one with .*name another"):
            begin()
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [file]
    assert file.read_text() == '{"editor": "mine"}'


def test_new_folders_empty_ones_and_runs_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "load", no_data)
    kept = tmp_path / "run" / "results.json"
    for name in ("new", "empty", "run"):
        if name != "new":
            (tmp_path / name).mkdir()
        if name == "run":
            (tmp_path / name / "settings.json").write_text(json.dumps(Settings().record()))
            kept.write_text("[]")
        with pytest.raises(LookupError):
            learning.learn(parse(["--out", str(tmp_path / name), "--cache", str(tmp_path / "cache")]))
    assert kept.read_text() == "[]"  # as long as the data are not there


def test_an_error_leaves_no_empty_folder_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "load", no_data)
    (tmp_path / "empty").mkdir()
    for name in ("new/deep/run", "empty"):
        with pytest.raises(LookupError):
            learning.learn(parse(["--out", str(tmp_path / name), "--cache", str(tmp_path / "cache")]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "empty"]


def test_a_second_run_in_the_same_place_is_refused(tmp_path, monkeypatch):
    def second(*_):
        with pytest.raises(SettingsError, match="--out .*another run is at work; wait for it, or name another"):
            learning.learn(settings)
        raise LookupError("after the second")

    settings = parse(["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")])
    monkeypatch.setattr(learning, "load", second)
    with pytest.raises(LookupError, match="after the second"):
        learning.learn(settings)
    monkeypatch.setattr(learning, "load", no_data)
    with pytest.raises(LookupError, match="data are loaded"):  # the place is free again
        learning.learn(settings)


def test_places_that_hold_no_files_are_named_with_their_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learning, "load", no_data)
    file = tmp_path / "file"
    file.write_text("mine")
    for flag, place in (("--out", file), ("--out", file / "below"), ("--cache", file)):
        words = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), flag, str(place)]
        with pytest.raises(SettingsError, match=f"{flag} {place}: expected a folder"):
            learning.learn(parse(words))
    with pytest.raises(SettingsError, match="--data .*file: there is no such folder"):
        Settings.of(data=file)
    for flag in ("--out", "--cache", "--data", "--weights"):
        with pytest.raises(SystemExit):
            parse([flag, ""])
        assert f"{flag}: expected a path, got ''" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_pictures_of_a_folder_train_in_the_size_asked_for(tmp_path):
    chance = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 8)):
        for label in ("dark", "light"):
            (tmp_path / "pets" / part / label).mkdir(parents=True)
            for k in range(count):
                pixels = chance.integers(0, 256, (60, 50, 3), np.uint8) // 2 + 120 * (label == "light")
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pets" / part / label / f"{k}.png")
    words = "--size 48 --bits 4 --epochs 1 --batch 8 --families clean,jpeg --hold-out none --workers 1".split()
    places = f"--dataset folder:{tmp_path / 'pets'} --cache {tmp_path / 'cache'} --out {tmp_path / 'out'}".split()
    run_training(parse([*words, *places]))
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["input"]["shape"] == [48, 48, 3] and about["labels"] == ["dark", "light"]
    graph = load_onnx(tmp_path / "out" / about["variants"][0]["onnx"])
    golden = np.load(tmp_path / "out" / about["golden"])
    assert golden["images"].shape[1:] == (48, 48, 3)
    assert np.array_equal(interpreter.run(graph, golden["images"]), golden["logits_w4a4"])


def test_looking_leaves_nothing(tmp_path):
    check_own(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    check_writable("--out", tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []
