"""On the device: the command line, what importing the runtime costs, and what it installs."""

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from runtime import __main__ as command
from runtime import open_bundle
from runtime.bundle.manifest import signed
from runtime.bundle.opened import runnable
from runtime.choice.quality import NAMES
from runtime.pictures import files as pictures
from tests.conftest import BITS

ROOT = Path(__file__).parents[2]


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
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["golden.npz"]
    assert command.main(["check", str(folder)]) == 2  # not what was built
    content = (folder / "golden.npz").read_bytes()
    manifest["files"]["golden.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))
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
    found, opened = json.loads((tmp_path / "i.json").read_text()), open_bundle(small_bundle)
    assert [r["variant"] for r in found["variants"]] == list(BITS) and found["level"] == opened.level().name
    for key in ("bytes", "cost", "macs"):
        assert [r[key] for r in found["variants"]] == [getattr(v, key) for v in opened.variants]
    assert found["budget"] is None and found["budgets"] == []
    out = capsys.readouterr().out
    assert opened.level().name in out and "budget: none of its own, so any cost" in out


@pytest.mark.parametrize("own, default", [(0.6, 1), (0.01, 1), (0.8, 0), (None, 0)])
def test_info_marks_the_own_budget(selecting, tmp_path, capsys, own, default):
    manifest = json.loads((selecting / "manifest.json").read_text())
    (selecting / "manifest.json").write_text(json.dumps(signed(manifest | {"budget": own})))
    assert command.main(["info", str(selecting), "--json", str(tmp_path / "i.json")]) == 0
    found = json.loads((tmp_path / "i.json").read_text())
    assert found["budget"] == own and [b["default"] for b in found["budgets"]] == [i == default for i in range(2)]
    marked = [line for line in capsys.readouterr().out.splitlines() if line.endswith("<- default")]
    assert len(marked) == 1 and marked[0].split()[0] == ("0.8", "0.5")[default]


def test_records_of_infer_are_numbers(selecting, tmp_path, capsys):
    """And the table stays narrow."""
    np.save(tmp_path / "dark.npy", np.full((20, 20, 3), 20, np.uint8))
    words = ["infer", str(selecting), str(tmp_path / "dark.npy"), "--json", str(tmp_path / "i.json")]
    assert command.main(words) == 0
    (found,), out = json.loads((tmp_path / "i.json").read_text()), capsys.readouterr().out.splitlines()
    assert found["score"] == max(found["scores"]) == found["scores"][found["index"]]
    assert len(found["logits"]) == 10 and all(type(v) is int for v in found["logits"])
    assert found["first"] == found["variant"] == "w4a4" and found["escalated"] is False and found["ms"] > 0
    assert list(found["quality"]) == list(NAMES) and found["quality"]["luma"] == 20 * 256
    assert out[0] == f"level {found['level']}, budget inf" and out[1].split()[-3:] == ["luma", "noise", "detail"]
    assert out[2].split()[-3] == "5120" and "blocks" not in out[1] and max(map(len, out)) <= 80
    assert command.main([*words, "--variant", "again"]) == 0
    assert json.loads((tmp_path / "i.json").read_text())[0]["quality"] is None


def test_a_bad_picture_loses_no_other(selecting, tmp_path, capsys):
    good = tmp_path / "good.ppm"
    good.write_bytes(b"P6\n4 3\n255\n" + bytes([220] * 36))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    np.save(tmp_path / "wide.npy", np.zeros((4, 4), np.uint16))
    files = [str(tmp_path / name) for name in ("bad.png", "good.ppm", "wide.npy")]
    for words in (files, [str(tmp_path)]):
        assert command.main(["infer", str(selecting), *words, "--json", str(tmp_path / "i.json")]) == 1
        out, err = capsys.readouterr()
        assert "good.ppm" in out and [r["picture"] for r in json.loads((tmp_path / "i.json").read_text())] == [str(good)]
        assert [line.split(": ")[:2] for line in err.splitlines()] == [["error", files[0]], ["error", files[2]]]
    assert command.main(["infer", str(selecting), files[0]]) == 1
    assert command.main(["infer", str(selecting), str(selecting / "lib")]) == 2
    assert "expected pictures in this folder" in capsys.readouterr().err


def test_json_is_checked_before_the_work(small_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "describe_bundle", lambda bundle: pytest.fail("it worked first"))
    for path in ("folder", "", "none/x.json", "file/x.json", "x" * 300):
        assert command.main(["info", str(small_bundle), "--json", path]) == 2
        err = capsys.readouterr().err
        assert f"--json {path!r}: expected" in err and "tmp" not in err
    for name in ("manifest.json", "weights.bin", "new.json"):
        assert command.main(["info", str(small_bundle), "--json", str(small_bundle / name)]) == 2
        assert "expected a file outside the bundle" in capsys.readouterr().err
    (tmp_path / "link.json").symlink_to(small_bundle / "manifest.json")
    assert command.main(["info", str(small_bundle), "--json", "link.json"]) == 2
    (tmp_path / "link.json").unlink()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_json_goes_where_it_is_sent(small_bundle, tmp_path, capfd):
    """Into a device and a pipe, which stay what they are, and to where a link leads."""
    words = ["info", str(small_bundle), "--json"]
    pipe, found, link = tmp_path / "pipe", [], tmp_path / "link"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(json.loads(pipe.read_text())))
    reader.start()
    assert command.main([*words, str(pipe)]) == 0
    reader.join()
    assert found[0]["name"] == "small" and stat.S_ISFIFO(pipe.stat().st_mode)
    link.symlink_to(tmp_path / "real")
    assert command.main([*words, str(link)]) == 0
    assert link.is_symlink() and json.loads((tmp_path / "real").read_text()) == found[0]
    capfd.readouterr()
    assert command.main([*words, "/dev/full"]) == 2
    assert "--json '/dev/full': expected a file that can be written" in capfd.readouterr().err
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


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


def shell(words: str, bundle, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        f"{sys.executable} -m runtime {words.format(bundle)}",
        shell=True,
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, **environment},
    )


def test_a_terminal_of_few_letters(small_bundle, tmp_path):
    name = tmp_path / "häßlich.ppm"
    name.write_bytes(b"P6\n4 3\n255\n" + bytes([220] * 36))
    done = shell(f"infer {{}} {name}", small_bundle, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "h\\xe4\\xdflich.ppm" in done.stdout and not done.stderr


def test_a_full_disk_behind_the_output(small_bundle):
    done = shell("info {} > /dev/full", small_bundle)
    assert done.returncode == 2 and done.stderr == "error: [Errno 28] No space left on device\n"


def test_ctrl_c(small_bundle):
    done = subprocess.Popen(
        [sys.executable, "-m", "runtime", "bench", str(small_bundle), "--calls", "100000000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "w8a8.so" not in Path(f"/proc/{done.pid}/maps").read_text():  # it has begun
        time.sleep(0.1)
    done.send_signal(signal.SIGINT)
    assert done.communicate()[1] == "interrupted\n" and done.returncode == 130


def test_words_that_say_what_happens(small_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["infer", "cat.png"]) == 2
    err = capsys.readouterr().err
    assert "cat.png: taken for a picture" in err and "python -m runtime infer BUNDLE cat.png" in err
    assert command.main([]) == 0
    assert "usage: python -m runtime" in capsys.readouterr().out
    for calls in ("0", "-5", "1.5", "x"):
        with pytest.raises(SystemExit):
            command.main(["bench", str(small_bundle), "--calls", calls])
        assert "expected a whole number of at least 1" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough(small_bundle):
    """As `| head` does: the pipe is closed while the command writes."""
    done = subprocess.Popen(
        [sys.executable, "-m", "runtime", "info", str(small_bundle)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done.stdout.close()
    assert done.stderr.read() == "" and done.wait() == 0


def test_a_level_by_name(small_bundle, tmp_path, capsys):
    last = runnable(open_bundle(small_bundle).manifest)[-1].name
    words = [str(small_bundle), "--level", last, "--json", str(tmp_path / "b.json")]
    assert command.main(["bench", *words, "--calls", "2"]) == 0
    assert {r["level"] for r in json.loads((tmp_path / "b.json").read_text())} == {last}
    np.save(tmp_path / "p.npy", np.zeros((20, 20, 3), np.uint8))
    assert command.main(["infer", *words, str(tmp_path / "p.npy"), "--threads", "2"]) == 0
    assert command.main(["bench", str(small_bundle), "--level", "x86:mmx"]) == 2
    assert "expected a level among" in capsys.readouterr().err


def test_bench_command(selecting, tmp_path, capsys):
    words = ["--calls", "5", "--threads", "2", "--json", str(tmp_path / "b.json")]
    assert command.main(["bench", str(selecting), *words]) == 0
    records = json.loads((tmp_path / "b.json").read_text())
    assert [(r["step"], r["variant"]) for r in records] == [*(("run", n) for n in BITS), ("select", ""), ("infer", "")]
    assert all(0 < r["min_us"] <= r["median_us"] <= r["p99_us"] and r["threads"] == 2 for r in records)
    assert "median_us" in capsys.readouterr().out


BARE = """
import sys, time
sys.path[:0] = {paths!r}
began = time.perf_counter()
import runtime
seconds = time.perf_counter() - began
resident = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) / 1024
after_import = resident()
import tvm_ffi
with_ffi = resident()
from runtime.commands import check_bundle
differing = sum(record.differing for record in check_bundle({bundle!r}))
import json
print(json.dumps({{"seconds": seconds, "import_mb": after_import, "ffi_mb": with_ffi, "differing": differing,
                  "loaded": sorted({{name.partition(".")[0] for name in sys.modules}})}}))
"""


def test_a_bare_device_imports_little_and_runs_exactly(small_bundle, tmp_path):
    """A process that can see only runtime/, numpy, tvm_ffi and typing_extensions: no site-packages, no repository."""
    site = Path(sysconfig.get_paths()["purelib"])
    for name in ("numpy", "numpy.libs", "tvm_ffi", "typing_extensions.py"):
        if (site / name).exists():
            (tmp_path / name).symlink_to(site / name)
    (tmp_path / "runtime").symlink_to(ROOT / "runtime")
    code = BARE.format(paths=[str(tmp_path)], bundle=str(small_bundle))
    runs = []
    for _ in range(3):  # the quickest: what it costs, not what else the machine does
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout))
    assert runs[0]["differing"] == 0
    assert not {"torch", "tvm", "onnx", "train", "compile", "targets", "rich", "PIL", "cv2"} & set(runs[0]["loaded"])
    print({k: v for k, v in runs[0].items() if k != "loaded"}, [r["seconds"] for r in runs])
    assert min(r["seconds"] for r in runs) < 0.5
    assert runs[0]["import_mb"] < 60 and runs[0]["ffi_mb"] < 60


def test_device_install_is_small():
    """Beside numpy: tvm_ffi, typing_extensions and runtime/ take under 40 MB."""
    site = Path(sysconfig.get_paths()["purelib"])
    files = [p for root in (site / "tvm_ffi", ROOT / "runtime") for p in root.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in [*files, site / "typing_extensions.py"] if p.suffix != ".pyc")
    assert 1e6 < size < 40e6
