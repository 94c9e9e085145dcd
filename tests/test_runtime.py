"""The engine: exact logits, choice of variants, threads, refusals, the command line, and what importing it costs."""

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest

from compile import reference
from runtime import BundleError, Engine, Prediction, quality
from runtime import __main__ as command
from runtime.engine import softmax
from runtime.selector import ONE, Selector
from tests.conftest import BITS
from tests.graphs import pictures, resnet_like

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def graphs():
    return {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}


def selector(luma: int) -> Selector:
    """w8a8 for pictures whose mean luma is over `luma` codes, w4a4 for others; "again" is never chosen."""
    d, k = len(quality.NAMES), len(BITS)
    zero, at = np.zeros(d, np.int64), quality.NAMES.index("luma")
    offset, multiplier, hidden = zero.copy(), zero.copy(), zero[None].copy()
    offset[at], multiplier[at], hidden[0, at] = luma * 256, 64, 1
    one = lambda value: np.array(value, np.int64)  # noqa: E731
    return Selector(offset=offset, multiplier=multiplier, shift=zero, hidden_weight=hidden, hidden_bias=one([0]),
                    hidden_shift=one(0), output_weight=one([[1], [0], [0]]), output_bias=one([40000, 40000, 100]),
                    output_shift=one(0), group_weight=np.zeros((1, d, d), np.int64), group_offset=zero[None].copy(),
                    threshold=one(0), fallback=one([ONE // 2] * k), costs=one([ONE, ONE // 2, ONE]))


@pytest.fixture
def selecting(small_bundle, tmp_path):
    """A copy of the bundle with a selector and a table of two budgets."""
    folder = shutil.copytree(small_bundle, tmp_path / "selecting")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["selector"] = selector(100).to_dict()
    entries = ((0.8, 0.0, 0.9), (0.5, 1000.0, 0.7))
    manifest["budgets"] = [dict(zip(("budget", "lambda", "accuracy"), entry, strict=True)) for entry in entries]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_logits_equal_the_reference(small_bundle, graphs):
    with Engine(small_bundle) as engine:
        assert list(engine.variants) == list(BITS)
        for turn in range(2):  # variants share buffers: what one leaves must not matter to the next
            for name, graph in graphs.items():
                x = pictures(graph, 12, turn)
                got = np.stack([p.logits for p in engine.infer_batch(x, variant=name)])
                np.testing.assert_array_equal(got, reference.run(graph, x))


def test_prediction(small_bundle, graphs):
    x = pictures(graphs["w8a8"], 4, 1)[3]
    with Engine(small_bundle) as engine:
        p = engine.infer(x)
    assert isinstance(p, Prediction) and p.variant == "w8a8" and p.quality is None  # the most accurate of the fixture
    assert p.logits.dtype == np.int32 and p.logits.shape == (10,) and p.index == p.logits.argmax()
    assert p.label == f"class {p.index}" and 0 < p.seconds < 5
    assert p.scores.dtype == np.float32 and p.scores.argmax() == p.index and abs(p.scores.sum() - 1) < 1e-6
    with pytest.raises(AttributeError):
        p.label = "else"


def test_softmax_of_large_logits():
    np.testing.assert_array_equal(softmax(np.array([2**31 - 1, -2**31], np.int32), 1.0), np.array([1, 0], np.float32))
    expected = np.exp([1, 0]) / np.exp([1, 0]).sum()  # rounded to float32
    np.testing.assert_allclose(softmax(np.array([3, 1], np.int32), 0.5), expected, rtol=1e-7)


def test_any_size_and_kind_of_picture(small_bundle):
    rng = np.random.default_rng(0)
    shapes = [(16, 16, 3), (40, 23, 3), (7, 9, 3), (30, 30), (20, 20, 4)]
    imgs = [rng.integers(0, 256, shape, np.uint8) for shape in shapes] + [rng.random((16, 16, 3))]
    with Engine(small_bundle) as engine:
        batch = engine.infer_batch(imgs)
        for img, p in zip(imgs, batch, strict=True):
            np.testing.assert_array_equal(engine.infer(img).logits, p.logits)
        assert engine.infer_batch([]) == []
        shapes = (((4, 4, 2), np.uint8), ((4, 4, 3), np.int64), ((0, 3, 3), np.uint8))
        for wrong in ("picture.png", *(np.zeros(shape, dtype) for shape, dtype in shapes)):
            with pytest.raises((TypeError, ValueError), match="expected"):
                engine.infer(wrong)


def test_selector_decides_by_quality(selecting, graphs):
    dark, light = np.full((16, 16, 3), 20, np.uint8), np.full((30, 30, 3), 220, np.uint8)
    with Engine(selecting) as engine:
        predictions = engine.infer_batch([dark, light, dark])
        assert [p.variant for p in predictions] == ["w4a4", "w8a8", "w4a4"]
        assert engine.infer(light).variant == "w8a8"
        assert engine.infer(light, variant="again").variant == "again"
    assert predictions[0].quality == dict(zip(quality.NAMES, quality.features(dark[None])[0].tolist(), strict=True))
    np.testing.assert_array_equal(predictions[0].logits, reference.run(graphs["w4a4"], dark[None])[0])


def test_budgets_of_the_selector(selecting):
    light = np.full((16, 16, 3), 220, np.uint8)
    for budget, expected in ((None, "w8a8"), (5.0, "w8a8"), (0.8, "w8a8"), (0.79, "w4a4"), (0.5, "w4a4")):
        with Engine(selecting, budget=budget) as engine:
            assert engine.infer(light).variant == expected, budget
    with pytest.raises(ValueError, match="expected at least 0.5"):
        Engine(selecting, budget=0.49)


def test_budgets_without_a_selector(small_bundle):
    for budget, expected in ((None, "w8a8"), (1.0, "w8a8"), (0.95, "again"), (0.5, "w4a4")):
        with Engine(small_bundle, budget=budget) as engine:
            assert engine.infer(np.zeros((16, 16, 3), np.uint8)).variant == expected
    with pytest.raises(ValueError, match="expected at least 0.5"):
        Engine(small_bundle, budget=0.1)


def test_one_variant_for_all(selecting):
    with Engine(selecting, variant="w4a4") as engine:
        p = engine.infer(np.full((16, 16, 3), 220, np.uint8))
        assert p.variant == "w4a4" and p.quality is None
    with pytest.raises(BundleError, match="expected a variant among w8a8, w4a4, again; got 'w2a2'"):
        Engine(selecting, variant="w2a2")
    with pytest.raises(ValueError, match="expected a budget or a variant"):
        Engine(selecting, variant="w4a4", budget=1.0)


@pytest.mark.parametrize("change, words", [
    ({"format": 2}, "expected format 1"), ({"costs": [1, 2]}, "costs"), ({"offset": None}, "offset"),
    ({"threshold": 1.5}, "threshold"), ({"features": ["noise"]}, "features"),
])
def test_damaged_selectors_are_refused(selecting, change, words):
    manifest = json.loads((selecting / "manifest.json").read_text())
    manifest["selector"].update(change)
    (selecting / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=words):
        Engine(selecting)


def test_selector_for_other_variants_is_refused(selecting):
    manifest = json.loads((selecting / "manifest.json").read_text())
    del manifest["variants"][2]
    (selecting / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="expected a selector among 2 variants, got one among 3"):
        Engine(selecting)


def test_newest_bundle_is_the_default(small_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="python -m compile.build"):
        Engine()
    shutil.copytree(small_bundle, tmp_path / "bundles" / "mine")
    with Engine() as engine:
        engine.infer(np.zeros((16, 16, 3), np.uint8))
    assert capsys.readouterr().out == "bundle: bundles/mine\n"


def test_threads_share_an_engine(selecting, graphs):
    x = pictures(graphs["w8a8"], 8, 3)
    with Engine(selecting) as engine:
        alone = np.stack([p.logits for p in engine.infer_batch(x)])
        wrong = []

        def work(k: int):
            for i in range(200):
                j = (k + i) % len(x)
                if not np.array_equal(engine.infer(x[j]).logits, alone[j]):
                    wrong.append(j)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_closed_engines_say_so_and_can_be_closed_again(small_bundle):
    engine = Engine(small_bundle)
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="this one was closed"):
        engine.infer(np.zeros((16, 16, 3), np.uint8))


def test_a_bundle_built_anew_in_its_place_is_what_runs(small_bundle, tmp_path, graphs):
    """The dynamic linker knows libraries by name; an engine must not be handed the old one."""
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    x = pictures(graphs["w8a8"], 4, 1)
    with Engine(folder, variant="w8a8") as old:
        before = [old.infer(p).logits for p in x]
        shutil.rmtree(folder)
        shutil.copytree(small_bundle, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        files, (w8a8, w4a4, _) = dict(manifest["files"]), manifest["variants"]  # w8a8.so: the other network
        for name, source in (("w8a8.so", "w4a4.so"), ("w4a4.so", "w8a8.so")):
            shutil.copy(small_bundle / "lib" / source, folder / "lib" / name)
            manifest["files"][f"lib/{name}"] = files[f"lib/{source}"]
        w8a8["library"], w4a4["library"] = w4a4["library"], w8a8["library"]
        manifest["variants"] = [w8a8, w4a4]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with Engine(folder, variant="w4a4") as new:
            np.testing.assert_array_equal(np.stack([new.infer(p).logits for p in x]), reference.run(graphs["w4a4"], x))
        np.testing.assert_array_equal(np.stack([old.infer(p).logits for p in x]), np.stack(before))


def test_a_library_that_is_none_is_refused(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"][0]["library"] = "tables.bin"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="tables.bin: expected a library with a function main"):
        Engine(folder)


def test_a_bundle_of_source_only_says_how_to_compile_it(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["lib/w4a4.so"]
    manifest["producer"]["built"] = {"lib/w4a4.so": {"command": "nvcc -O3 w4a4.cu"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    library = (folder / "lib" / "w4a4.so").read_bytes()
    (folder / "lib" / "w4a4.so").unlink()
    with pytest.raises(BundleError, match="expected the library lib/w4a4.so.*nvcc -O3 w4a4.cu"):
        Engine(folder)
    (folder / "lib" / "w4a4.so").write_bytes(library)  # compiled on the device
    Engine(folder).close()


def test_check_counts_every_differing_logit(small_bundle, tmp_path, capsys):
    assert command.main(["check", str(small_bundle), "--json", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text()) == [
        {"variant": name, "pictures": 5, "logits": 50, "differing": 0} for name in BITS]
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
    assert [r["differing"] for r in json.loads((tmp_path / "d.json").read_text())] == [0, 3, 0]
    assert "3 logits differ; this device computes something else" in capsys.readouterr().out


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
    for wrong in (["infer"], ["infer", "none.png"], ["check", "nowhere"], ["infer", *files, "--variant", "x"]):
        assert command.main(wrong) == 2
        assert "error: " in capsys.readouterr().err


def test_bench_command(selecting, tmp_path, capsys):
    assert command.main(["bench", str(selecting), "--calls", "5", "--json", str(tmp_path / "b.json")]) == 0
    records = json.loads((tmp_path / "b.json").read_text())
    assert [(r["step"], r["variant"]) for r in records] == [*(("run", n) for n in BITS), ("select", ""), ("infer", "")]
    assert all(0 < r["min_us"] <= r["median_us"] <= r["p99_us"] for r in records)
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
