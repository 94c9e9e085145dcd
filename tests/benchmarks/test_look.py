"""The benchmark of choosing times both sides, each with its own checkout's code."""

import json
from pathlib import Path

import pytest

pytest.importorskip("tvm_ffi")

from benchmarks import look

ROOT = Path(__file__).parents[2]


def test_both_sides_take_turns(selecting_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(look, "WARM_UP", 1)
    out = tmp_path / "times.json"
    bundle = str(selecting_bundle)
    assert (
        look.main([bundle, "--before", str(ROOT), "--before-bundle", bundle, "--calls", "2", "--json", str(out)]) == 0
    )
    times = json.loads(out.read_text())["times"]
    steps = {(t["side"], t["step"]) for t in times}
    assert {("before", "select"), ("after", "select"), ("before", "infer"), ("after", "choosing")} <= steps
    assert all(0 < t["least_us"] <= t["median_us"] for t in times)
    assert "of before" in capsys.readouterr().out


def test_one_option_alone_is_refused(selecting_bundle, capsys):
    with pytest.raises(SystemExit):
        look.main([str(selecting_bundle), "--before", str(ROOT)])
    assert "expected --before and --before-bundle" in capsys.readouterr().err
