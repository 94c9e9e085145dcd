"""Commands on a device: golden logits compared, pictures classified, latency measured, bundles described."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime import __main__ as command
from runtime import open_bundle
from runtime.bundle.opened import runnable
from runtime.choice.quality import NAMES
from runtime.pictures import files as pictures
from tests.conftest import BITS
from tests.runtime.changes import read_manifest, write_manifest

pytestmark = pytest.mark.slow


def test_check_counts_every_differing_logit(small_bundle, tmp_path, capsys):
    assert command.main(["check", str(small_bundle), "--json", str(tmp_path / "c.json")]) == 0
    levels = [v.name for v in runnable(open_bundle(small_bundle).manifest)]
    assert json.loads((tmp_path / "c.json").read_text()) == [
        {"variant": name, "level": level, "pictures": 5, "logits": 50, "differing": 0}
        for level in levels
        for name in BITS
    ]
    assert "0 logits differ" in capsys.readouterr().out
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    data = dict(np.load(folder / "golden.npz"))
    data["logits_w4a4"][[0, 3, 3], [1, 2, 9]] += 1
    np.savez(folder / "golden.npz", **data)
    manifest = read_manifest(folder)
    del manifest["files"]["golden.npz"]
    assert command.main(["check", str(folder)]) == 2  # not what was built
    content = (folder / "golden.npz").read_bytes()
    manifest["files"]["golden.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_manifest(folder, manifest)
    assert command.main(["check", str(folder), "--json", str(tmp_path / "d.json")]) == 1
    assert [r["differing"] for r in json.loads((tmp_path / "d.json").read_text())] == [0, 3, 0] * len(levels)
    assert f"{3 * len(levels)} logits differ; this device computes something else" in capsys.readouterr().out


def test_infer_command(selecting, tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "dark.npy", np.full((20, 20, 3), 20, np.uint8))
    (tmp_path / "light.ppm").write_bytes(b"P6\n4 3\n255\n" + bytes([220] * 36))
    files = [str(tmp_path / "dark.npy"), str(tmp_path / "light.ppm")]
    assert command.main(["infer", str(selecting), *files, "--json", str(tmp_path / "i.json")]) == 0
    assert [r["variant"] for r in json.loads((tmp_path / "i.json").read_text())] == ["w4a4", "w8a8"]
    assert "luma" in capsys.readouterr().out
    (tmp_path / "bundles").mkdir()
    selecting.rename(tmp_path / "bundles" / "b")
    monkeypatch.chdir(tmp_path)
    assert command.main(["infer", *files, "--budget", "0.5"]) == 0  # the newest bundle
    assert "bundle: bundles/b" in capsys.readouterr().out
    for words in (["--variant", "again", "bundles/b", *files], ["bundles/b", files[0], "--variant", "again", files[1]]):
        assert command.main(["infer", *words, "--json", "o.json"]) == 0  # options anywhere
        assert [r["variant"] for r in json.loads(Path("o.json").read_text())] == ["again", "again"]
    for words in (["infer", *files, "--colour"], ["check", "a", "b"]):
        with pytest.raises(SystemExit):
            command.main(words)
    assert command.main(["infer", "none.png"]) == 1
    for wrong in (["infer"], ["check", "nowhere"], ["infer", *files, "--variant", "x"]):
        assert command.main(wrong) == 2
        assert "error: " in capsys.readouterr().err


def test_info_command(small_bundle, tmp_path, capsys):
    assert command.main(["info", str(small_bundle), "--json", str(tmp_path / "i.json")]) == 0
    record = json.loads((tmp_path / "i.json").read_text())
    opened = open_bundle(small_bundle)
    assert list(record) == ["name", "target", "level", "budget", "variants", "budgets"]
    assert [r["variant"] for r in record["variants"]] == list(BITS) and record["level"] == opened.level().name
    for key in ("bytes", "cost", "macs"):
        assert [r[key] for r in record["variants"]] == [getattr(v, key) for v in opened.variants]
    assert record["budget"] is None and record["budgets"] == []
    out = capsys.readouterr().out
    assert opened.level().name in out and "budget: none of its own, so any cost" in out


@pytest.mark.parametrize("own, default", [(0.6, 1), (0.01, 1), (0.8, 0), (None, 0)])
def test_info_marks_the_own_budget(selecting, tmp_path, capsys, own, default):
    manifest = read_manifest(selecting)
    write_manifest(selecting, manifest | {"budget": own})
    assert command.main(["info", str(selecting), "--json", str(tmp_path / "i.json")]) == 0
    record = json.loads((tmp_path / "i.json").read_text())
    assert record["budget"] == own and [b["default"] for b in record["budgets"]] == [i == default for i in range(2)]
    marked = [line for line in capsys.readouterr().out.splitlines() if line.endswith("<- default")]
    assert len(marked) == 1 and marked[0].split()[0] == ("0.8", "0.5")[default]


def test_records_of_infer_are_numbers(selecting, tmp_path, capsys):
    """And the table stays narrow."""
    np.save(tmp_path / "dark.npy", np.full((20, 20, 3), 20, np.uint8))
    words = ["infer", str(selecting), str(tmp_path / "dark.npy"), "--json", str(tmp_path / "i.json")]
    assert command.main(words) == 0
    (record,) = json.loads((tmp_path / "i.json").read_text())
    out = capsys.readouterr().out.splitlines()
    assert record["score"] == max(record["scores"]) == record["scores"][record["index"]]
    assert record["classes"] == [f"class {i}" for i in range(10)] and record["label"] == f"class {record['index']}"
    assert len(record["logits"]) == 10 and all(type(v) is int for v in record["logits"])
    assert record["first"] == record["variant"] == "w4a4" and record["escalated"] is False and record["ms"] > 0
    assert list(record["quality"]) == list(NAMES) and record["quality"]["luma"] == 20 * 256
    assert out[0] == f"level {record['level']}, budget inf" and out[1].split()[-3:] == ["luma", "noise", "detail"]
    assert out[2].split()[-3] == "5120" and "blocks" not in out[1] and max(map(len, out)) <= 80
    assert command.main([*words, "--variant", "again"]) == 0
    assert json.loads((tmp_path / "i.json").read_text())[0]["quality"] is None


def test_unusual_pictures_are_classified_and_warned_of(selecting, tmp_path, capsys):
    """Each by its name, once; the warning is no error."""
    codes = np.arange(40 * 40, dtype=">u2").reshape(40, 40)
    for name in ("a.pgm", "b.pgm"):
        (tmp_path / name).write_bytes(b"P5\n40 40\n65535\n" + codes.tobytes())
    assert command.main(["infer", str(selecting), str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "a.pgm" in out and "b.pgm" in out
    for name, line in zip(("a.pgm", "b.pgm"), err.splitlines(), strict=True):
        assert line.startswith(f"warning: {tmp_path / name}: its values are 0..1599 of 65535: of 11 bits stored in 16")


def test_a_bad_picture_loses_no_other(selecting, tmp_path, capsys):
    good = tmp_path / "good.ppm"
    good.write_bytes(b"P6\n4 3\n255\n" + bytes([220] * 36))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    np.save(tmp_path / "wide.npy", np.zeros((4, 4), np.uint16))
    files = [str(tmp_path / name) for name in ("bad.png", "good.ppm", "wide.npy")]
    for words in (files, [str(tmp_path)]):
        assert command.main(["infer", str(selecting), *words, "--json", str(tmp_path / "i.json")]) == 1
        out, err = capsys.readouterr()
        records = json.loads((tmp_path / "i.json").read_text())
        assert "good.ppm" in out and [record["picture"] for record in records] == [str(good)]
        assert [line.split(": ")[:2] for line in err.splitlines()] == [["error", files[0]], ["error", files[2]]]
    assert command.main(["infer", str(selecting), files[0]]) == 1
    assert command.main(["infer", str(selecting), str(selecting / "lib")]) == 2
    assert "expected pictures in this folder" in capsys.readouterr().err


def test_what_cannot_be_read_leaves_the_others(selecting, tmp_path, capsys, monkeypatch):
    good, loop = tmp_path / "good.ppm", tmp_path / "loop.png"
    good.write_bytes(b"P6\n4 3\n255\n" + bytes([220] * 36))
    (tmp_path / "empty").mkdir()
    loop.symlink_to(loop)
    wrong = [str(tmp_path / "empty"), "x" * 300, str(loop), "a\0b"]
    for words in ([str(selecting), *wrong, str(good)], [str(selecting), str(good), *wrong]):
        assert command.main(["infer", *words]) == 1
        out, err = capsys.readouterr()
        assert "good.ppm" in out and len(err.splitlines()) == len(wrong)
        assert all(any(line.startswith(f"error: {word}") for line in err.splitlines()) for word in wrong[:3])
    monkeypatch.setattr(pictures, "_READERS", ((b"P6", raising(MemoryError)), *pictures._READERS))
    np.save(tmp_path / "other.npy", np.zeros((9, 9, 3), np.uint8))
    assert command.main(["infer", str(selecting), str(good), str(tmp_path / "other.npy")]) == 1
    out, err = capsys.readouterr()
    assert "other.npy" in out and f"error: {good}: expected a picture that fits into memory" in err


def raising(error):
    def read(data):
        raise error

    return read


def test_bench_command(selecting, tmp_path, capsys):
    words = ["--calls", "5", "--threads", "2", "--json", str(tmp_path / "b.json")]
    assert command.main(["bench", str(selecting), *words]) == 0
    records = json.loads((tmp_path / "b.json").read_text())
    assert [(r["step"], r["variant"]) for r in records] == [*(("run", n) for n in BITS), ("select", ""), ("infer", "")]
    assert all(0 < r["min_us"] <= r["median_us"] <= r["p99_us"] and r["threads"] == 2 for r in records)
    assert "median_us" in capsys.readouterr().out
