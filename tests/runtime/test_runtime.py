"""The engine: exact logits, choice of variants, threads, refusals."""

import json
import math
import shutil
import threading

import numpy as np
import pytest

from runtime import BundleError, Engine, Prediction
from runtime.bundle.manifest import signed
from runtime.choice import quality
from runtime.engine import softmax
from targets.reference import interpreter
from tests.conftest import BITS
from tests.support.graphs import pictures, resnet_like


@pytest.fixture(scope="module")
def graphs():
    return {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}


def test_logits_equal_the_reference(small_bundle, graphs):
    with Engine(small_bundle) as engine:
        assert list(engine.variants) == list(BITS)
        for turn in range(2):  # variants share buffers: what one leaves must not matter to the next
            for name, graph in graphs.items():
                x = pictures(graph, 12, turn)
                got = np.stack([p.logits for p in engine.infer_batch(x, variant=name)])
                np.testing.assert_array_equal(got, interpreter.run(graph, x))


def test_prediction(small_bundle, graphs):
    x = pictures(graphs["w8a8"], 4, 1)[3]
    with Engine(small_bundle) as engine:
        p = engine.infer(x)
    assert isinstance(p, Prediction) and p.variant == "w8a8" and p.quality is None  # the most accurate of the fixture
    assert p.first == p.variant and not p.escalated
    assert p.logits.dtype == np.int32 and p.logits.shape == (10,) and p.index == p.logits.argmax()
    assert p.label == f"class {p.index}" and 0 < p.seconds < 5
    assert p.scores.dtype == np.float32 and p.scores.argmax() == p.index and abs(p.scores.sum() - 1) < 1e-6
    with pytest.raises(AttributeError):
        p.label = "else"


def test_arguments_that_are_none(small_bundle):
    with Engine(small_bundle) as engine:
        x = np.zeros(engine.bundle.manifest.shape, np.uint8)
        with pytest.raises(BundleError, match="expected a variant among w8a8, w4a4, again; got 'nope'"):
            engine.logits(x, "nope")
        for wrong in ([[1]], None, x[1:], x.astype(np.float32)):
            with pytest.raises(ValueError, match=r"expected a picture uint8 \[16, 16, 3\], got"):
                engine.logits(wrong, "w8a8")
    for budget in ("0.3", float("nan"), True, [1]):
        with pytest.raises(ValueError, match="expected a budget as a number"):
            Engine(small_bundle, budget=budget)
    for count in (1.5, "2", None):
        with pytest.raises(ValueError, match="expected 1 to 64 threads, a whole number, got"):
            Engine(small_bundle, threads=count)
    Engine(small_bundle, budget=np.float32(1), threads=np.int64(1)).close()


def test_softmax_of_large_logits():
    np.testing.assert_array_equal(softmax(np.array([2**31 - 1, -(2**31)], np.int32), 1.0), np.array([1, 0], np.float32))
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
    np.testing.assert_array_equal(predictions[0].logits, interpreter.run(graphs["w4a4"], dark[None])[0])


def test_budgets_of_the_selector(selecting):
    light = np.full((16, 16, 3), 220, np.uint8)
    for budget, expected in ((None, "w8a8"), (math.inf, "w8a8"), (0.8, "w8a8"), (0.79, "w4a4"), (0.5, "w4a4")):
        with Engine(selecting, budget=budget) as engine:
            assert engine.infer(light).variant == expected, budget
    with pytest.raises(ValueError, match="expected at least 0.5"):
        Engine(selecting, budget=0.49)


@pytest.mark.parametrize("own, expected", [(0.9, "w8a8"), (0.6, "w4a4"), (0.1, "w4a4"), (None, "w8a8")])
def test_the_bundle_s_own_budget_is_the_default(selecting, own, expected):
    """As where the run was reported: one below the smallest of the table means that."""
    manifest = json.loads((selecting / "manifest.json").read_text())
    (selecting / "manifest.json").write_text(json.dumps(signed(manifest | {"budget": own})))
    light = np.full((16, 16, 3), 220, np.uint8)
    with Engine(selecting) as engine:
        assert engine.infer(light).variant == expected and engine.budget == (max(own, 0.5) if own else math.inf)
    with Engine(selecting, budget=math.inf) as engine:
        assert engine.infer(light).variant == "w8a8" and engine.budget == math.inf
    with Engine(selecting, variant="w4a4") as engine:
        assert engine.budget is None


def test_the_own_budget_without_a_selector(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    for own, expected in ((0.95, "again"), (0.1, "w4a4"), (None, "w8a8")):
        (folder / "manifest.json").write_text(json.dumps(signed(manifest | {"budget": own})))
        with Engine(folder) as engine:
            assert engine.infer(np.zeros((16, 16, 3), np.uint8)).variant == expected


def test_a_bundle_older_than_the_own_budget_opens(selecting):
    manifest = json.loads((selecting / "manifest.json").read_text())
    del manifest["budget"]
    (selecting / "manifest.json").write_text(json.dumps(signed(manifest)))
    with Engine(selecting) as engine:
        assert engine.budget == math.inf


def test_the_least_budget_can_be_typed(selecting):
    manifest = json.loads((selecting / "manifest.json").read_text())
    manifest["budgets"][1]["budget"] = 0.2765510850812211
    (selecting / "manifest.json").write_text(json.dumps(signed(manifest)))
    with pytest.raises(ValueError, match="expected at least 0.2766, the"):
        Engine(selecting, budget=0.27655)
    Engine(selecting, budget=0.2766).close()


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


@pytest.mark.parametrize(
    "change, words",
    [
        ({"format": 1}, "expected format 3"),
        ({"costs": [1, 2]}, "costs"),
        ({"offset": None}, "offset"),
        ({"threshold": 1.5}, "threshold"),
        ({"features": ["noise"]}, "features"),
    ],
)
def test_damaged_selectors_are_refused(selecting, change, words):
    manifest = json.loads((selecting / "manifest.json").read_text())
    manifest["selector"].update(change)
    (selecting / "manifest.json").write_text(json.dumps(signed(manifest)))
    with pytest.raises(BundleError, match=words):
        Engine(selecting)


def test_selector_for_other_variants_is_refused(selecting):
    manifest = json.loads((selecting / "manifest.json").read_text())
    del manifest["variants"][2]
    (selecting / "manifest.json").write_text(json.dumps(signed(manifest)))
    with pytest.raises(BundleError, match="selector: expected one among 2 variants, got one among 3"):
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
        (folder / "manifest.json").write_text(json.dumps(signed(manifest)))
        with Engine(folder, variant="w4a4") as new:
            np.testing.assert_array_equal(
                np.stack([new.infer(p).logits for p in x]), interpreter.run(graphs["w4a4"], x)
            )
        np.testing.assert_array_equal(np.stack([old.infer(p).logits for p in x]), np.stack(before))


def test_a_library_that_is_none_is_refused(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"][0]["library"] = "tables.bin"
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))
    with pytest.raises(BundleError, match="tables.bin: expected a library, cannot load it"):
        Engine(folder)


def test_a_bundle_of_source_only_says_how_to_compile_it(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["lib/w4a4.so"]
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))
    library = (folder / "lib" / "w4a4.so").read_bytes()
    (folder / "lib" / "w4a4.so").unlink()
    with pytest.raises(BundleError, match="expected the library lib/w4a4.so.*sh lib/rebuild.sh"):
        Engine(folder)
    (folder / "lib" / "w4a4.so").write_bytes(library)  # compiled on the device
    Engine(folder).close()
