"""Words of the command line: bundles, pictures and options anywhere, and errors that say what to do."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from runtime import __main__ as command
from runtime import open_bundle
from runtime.arguments import Request, parse_arguments
from runtime.bundle.opened import runnable


def test_words_become_a_request(small_bundle, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    assert parse_arguments([]) is None
    assert parse_arguments(["check"]) == Request("check", None, None)
    words = ["infer", str(small_bundle), "a.png", "--no-escalate", "--budget", "inf", "b.png", "--json", "-"]
    assert parse_arguments(words) == Request(
        "infer", small_bundle, "-", (Path("a.png"), Path("b.png")), escalate=False, budget=math.inf
    )
    for first in ("a.png", str(tmp_path / "pictures")):  # no bundle, so a picture, or a folder of them
        request = parse_arguments(["infer", first, "b.png"])
        assert request == Request("infer", None, None, (Path(first), Path("b.png")))


def test_what_is_missing_is_said_to_be_missing(small_bundle, tmp_path, capsys):
    assert command.main(["check", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: expected a bundle" in (err := capsys.readouterr().err) and "this path is missing" in err
    assert command.main(["infer", str(small_bundle), str(tmp_path / "none.png")]) == 1
    assert "none.png: expected a picture file, this one is missing" in capsys.readouterr().err


def test_wrong_words_are_one_line_that_names_the_help(small_bundle, capsys):
    for words in (
        ["check", "a", "b"],
        ["info", "--colour"],
        ["bench", "--threads", "two"],
        ["paint"],
        ["--bogus"],
        ["--bogus", "check"],
    ):
        with pytest.raises(SystemExit) as ended:
            command.main(words)
        err = capsys.readouterr().err
        assert ended.value.code == 2 and err.startswith("error: ") and err.endswith(" --help\n")
        assert len(err.splitlines()) == 1


def test_words_that_say_what_happens(small_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.png").touch()
    for words, begin, end in (
        (["cat.png"], "cat.png: there is no such bundle or picture, and no bundle under", "infer BUNDLE cat.png"),
        (["nothere", "cat.png"], "nothere: there is no such bundle or picture, and no bundle", "infer BUNDLE cat.png"),
        (["nothere"], "nothere: there is no such bundle or picture, and no bundle under", "infer BUNDLE PICTURE"),
        (["here.png", "b.png"], "here.png: this is no bundle, and no bundle under", "infer BUNDLE here.png b.png"),
    ):
        assert command.main(["infer", *words]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {begin}") and err.endswith(f"python -m runtime {end}\n")
    assert command.main([]) == 0
    assert "usage: python -m runtime" in capsys.readouterr().out
    for calls in ("0", "-5", "1.5", "x"):
        with pytest.raises(SystemExit):
            command.main(["bench", str(small_bundle), "--calls", calls])
        assert "expected a whole number of at least 1" in capsys.readouterr().err


def test_a_level_by_name(small_bundle, tmp_path, capsys):
    last = runnable(open_bundle(small_bundle).manifest)[-1].name
    words = [str(small_bundle), "--level", last, "--json", str(tmp_path / "b.json")]
    assert command.main(["bench", *words, "--calls", "2"]) == 0
    assert {r["level"] for r in json.loads((tmp_path / "b.json").read_text())} == {last}
    np.save(tmp_path / "p.npy", np.zeros((20, 20, 3), np.uint8))
    assert command.main(["infer", *words, str(tmp_path / "p.npy"), "--threads", "2"]) == 0
    assert command.main(["bench", str(small_bundle), "--level", "x86:mmx"]) == 2
    assert "expected a level among" in capsys.readouterr().err
