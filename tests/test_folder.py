"""A run takes new folders, empty ones and earlier runs'; all others stay as they are, and nothing is computed first."""

import json

import pytest

from train import run
from train.folder import check_own, writable
from train.recost import recost
from train.settings import Settings, SettingsError, parse


def no_data(*given):
    raise LookupError("data are loaded")


@pytest.mark.parametrize("left", ["checkpoint/mine.txt", "results.json", "settings.json"])
def test_a_stranger_s_folder_is_refused_before_all_work_and_stays(tmp_path, monkeypatch, left):
    monkeypatch.setattr(run, "load", no_data)
    file = tmp_path / "out" / left
    file.parent.mkdir(parents=True)
    file.write_text('{"editor": "mine"}')
    for begin in (lambda: run.learn(parse(["--out", str(tmp_path / "out")])),
                  lambda: recost(tmp_path, tmp_path / "out")):
        with pytest.raises(SettingsError, match="--out .*expected no such folder.* got one with .*name another"):
            begin()
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [file]
    assert file.read_text() == '{"editor": "mine"}'


def test_new_folders_empty_ones_and_runs_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "load", no_data)
    kept = tmp_path / "run" / "results.json"
    for name in ("new", "empty", "run"):
        if name != "new":
            (tmp_path / name).mkdir()
        if name == "run":
            (tmp_path / name / "settings.json").write_text(json.dumps(Settings().record()))
            kept.write_text("[]")
        with pytest.raises(LookupError):
            run.learn(parse(["--out", str(tmp_path / name), "--cache", str(tmp_path / "cache")]))
    assert kept.read_text() == "[]"  # as long as the data are not there


def test_places_that_hold_no_files_are_named_with_their_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "load", no_data)
    file = tmp_path / "file"
    file.write_text("mine")
    for flag, place in (("--out", file), ("--out", file / "below"), ("--cache", file)):
        words = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), flag, str(place)]
        with pytest.raises(SettingsError, match=f"{flag} {place}: expected a folder"):
            run.learn(parse(words))
    with pytest.raises(SettingsError, match="--data .*file: there is no such folder"):
        Settings(data=file)
    for flag in ("--out", "--cache", "--data", "--weights"):
        with pytest.raises(SystemExit):
            parse([flag, ""])
        assert f"{flag}: expected a path, got ''" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_looking_leaves_nothing(tmp_path):
    check_own(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    writable("--out", tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []
