"""The engine: exact logits, choice of variants, threads, refusals."""

import shutil
import threading

import numpy as np
import pytest

from runtime import BundleError, Engine, Prediction
from runtime.scores import softmax
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
