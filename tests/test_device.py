"""On the device: the command line, what importing the runtime costs, and what it installs."""

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from runtime import __main__ as command
from runtime import open_bundle
from runtime.bundle import runnable
from tests.conftest import BITS

ROOT = Path(__file__).parents[1]


def test_check_counts_every_differing_logit(small_bundle, tmp_path, capsys):
    assert command.main(["check", str(small_bundle), "--json", str(tmp_path / "c.json")]) == 0
    levels = [v.name for v in runnable(open_bundle(small_bundle).manifest)]
    assert json.loads((tmp_path / "c.json").read_text()) == [
        {"variant": name, "level": level, "pictures": 5, "logits": 50, "differing": 0}
        for level in levels for name in BITS]
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
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert command.main(["check", str(folder), "--json", str(tmp_path / "d.json")]) == 1
    assert [r["differing"] for r in json.loads((tmp_path / "d.json").read_text())] == [0, 3, 0] * len(levels)
    assert f"{3 * len(levels)} logits differ; this device computes something else" in capsys.readouterr().out


def test_infer_command(selecting, tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "dark.npy", np.full((20, 20, 3), 20, np.uint8))
    (tmp_path / "light.ppm").write_bytes(b"P6\n4 3\n255\n" + bytes([220] * 36))
    files = [str(tmp_path / "dark.npy"), str(tmp_path / "light.ppm")]
    assert command.main(["infer", str(selecting), *files, "--json", str(tmp_path / "i.json")]) == 0
    assert [r["variant"] for r in json.loads((tmp_path / "i.json").read_text())] == ["w4a4", "w8a8"]
    assert "luma=" in capsys.readouterr().out
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
    for wrong in (["infer"], ["infer", "none.png"], ["check", "nowhere"], ["infer", *files, "--variant", "x"]):
        assert command.main(wrong) == 2
        assert "error: " in capsys.readouterr().err


def test_info_command(small_bundle, tmp_path, capsys):
    assert command.main(["info", str(small_bundle), "--json", str(tmp_path / "i.json")]) == 0
    records, opened = json.loads((tmp_path / "i.json").read_text()), open_bundle(small_bundle)
    assert [r["variant"] for r in records] == list(BITS) and {r["level"] for r in records} == {opened.level().name}
    assert [r["bytes"] for r in records] == [v.bytes for v in opened.variants]
    assert opened.level().name in capsys.readouterr().out


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
from runtime.__main__ import check
differing = sum(row["differing"] for row in check({bundle!r}))
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
