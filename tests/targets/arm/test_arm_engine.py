"""The real `Engine` in an arm64 Python under QEMU (numpy, apache-tvm-ffi, runtime/), on bundles cross-compiled here."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from compile.build import build
from compile.qdq.importer import load
from compile.settings import BuildSettings
from targets import TargetError, find
from targets.arm import toolchain
from targets.arm.emulation import qemu
from targets.reference import interpreter
from tests.support.graphs import pictures, resnet_like

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
BITS = {"w8a8": ((8, 8),), "mixed": ((8, 8), (4, 4), (2, 2))}

CLASSIFY = """
import sys, time, numpy as np
from pathlib import Path
from runtime import Engine
bundle, inputs, outputs, threads = sys.argv[1:]
with Engine(bundle, threads=int(threads)) as engine:
    for call in engine._loaded._runs.values() if engine.threads > 1 else ():
        call.__class__.__call__ = lambda pace: pace._together()  # helpers take part in every picture
    x = np.load(inputs)
    got = {name: np.stack([p.logits for p in engine.infer_batch(list(x), variant=name)]) for name in engine.variants}
np.savez(outputs, **got)
import platform
never = {"tvm", "torch", "onnx", "compile", "targets", "train"}
print(engine.level, platform.machine(), sorted(set(sys.modules) & never))
"""


@pytest.fixture(scope="module", autouse=True)
def ready():
    """The box and a linker, or a skip that says what is missing."""
    try:
        toolchain.linker()
        qemu.make()
    except (TargetError, qemu.BoxError) as error:
        pytest.skip(f"no arm64 Python here: {error}")


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory) -> list[Path]:
    from tests.support.runs import run_record
    from train.integers.export import export_run

    folder = tmp_path_factory.mktemp("runs") / "small"
    graphs = {name: resnet_like(bits, seed=3) for name, bits in BITS.items()}
    export_run(folder, graphs, run_record(graphs, accuracy={"clean": 0.5}), pictures(graphs["w8a8"], 4, 3))
    return [folder]


@pytest.fixture(scope="module")
def bundles(onnx_files, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    settings = [BuildSettings(find(name), tuple(onnx_files), folder / name) for name in ("arm", "arm:cortex-a76")]
    return {s.target.name: build(s).bundle for s in settings}


@pytest.mark.parametrize("cpu, threads", [("cortex-a72", 1), ("cortex-a72", 2), ("cortex-a76", 1), ("cortex-a76", 3)])
def test_engine_equals_the_reference_by_the_best_code(bundles, onnx_files, tmp_path, cpu, threads):
    graphs = {name: load(onnx_files[0] / f"{name}.onnx") for name in BITS}
    x = pictures(graphs["w8a8"], 12, 8)
    np.save(tmp_path / "x.npy", x)
    files = [str(tmp_path / name) for name in ("x.npy", "y.npz")]
    done = qemu.run(["-c", CLASSIFY, str(bundles["arm"]), *files, str(threads)], cpu, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"arm:{cpu} aarch64 []"
    with np.load(tmp_path / "y.npz") as got:
        for name, graph in graphs.items():
            np.testing.assert_array_equal(got[name], interpreter.run(graph, x))


@pytest.mark.parametrize("cpu, levels", [("cortex-a72", ["cortex-a72"]), ("cortex-a76", ["cortex-a76", "cortex-a72"])])
def test_check_replays_the_golden_data_by_all_code_that_runs(bundles, tmp_path, cpu, levels):
    done = qemu.run(["-m", "runtime", "check", str(bundles["arm"]), "--json", str(tmp_path / "c.json")], cpu, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "c.json").read_text())
    assert [(r["variant"], r["level"]) for r in rows] == [(n, f"arm:{level}") for level in levels for n in BITS]


def test_a_processor_without_the_dot_product_is_refused_its_bundle(bundles):
    done = qemu.run(["-m", "runtime", "check", str(bundles["arm:cortex-a76"])], "cortex-a72", ROOT)
    assert done.returncode != 0 and "lacks asimddp" in done.stdout + done.stderr, done.stdout + done.stderr


def test_a_changed_byte_is_refused(bundles, tmp_path):
    changed = shutil.copytree(bundles["arm"], tmp_path / "changed")
    library = next((changed / "lib").glob("*.so"))
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(data)
    done = qemu.run(["-m", "runtime", "check", str(changed)], "cortex-a72", ROOT)
    assert done.returncode != 0 and library.name in done.stdout + done.stderr, done.stdout + done.stderr


def test_the_device_needs_no_more_than_its_two_packages(bundles):
    """The box has numpy and apache-tvm-ffi (with typing-extensions) alone, and the bundle names its processor."""
    site = {p.name.split("-")[0] for p in (qemu.make() / "site").glob("*.dist-info")}
    assert {s.lower().replace("_", "-") for s in site} == {"numpy", "apache-tvm-ffi", "typing-extensions"}
    target = json.loads((bundles["arm"] / "manifest.json").read_text())["target"]
    assert (target["name"], target["machine"]) == ("arm", "aarch64")
    assert target["levels"] == [
        {"name": "arm:cortex-a76", "requires": ["asimd", "asimddp"]},
        {"name": "arm:cortex-a72", "requires": ["asimd"]},
    ]
