"""What importing the runtime costs on a device, and what it installs there."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import runtime
from runtime.version import VERSION

ROOT = Path(__file__).parents[2]


def test_the_package_says_its_version_and_ships_its_types():
    assert runtime.__version__ == VERSION
    assert (ROOT / "runtime" / "py.typed").is_file() and '"py.typed"' in (ROOT / "pyproject.toml").read_text()


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
