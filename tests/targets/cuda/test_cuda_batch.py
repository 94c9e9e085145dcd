"""A bundle for several pictures at once, from the build to the engine; the CUDA C++ runs on the CPU."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("torch")

from compile import build as builder
from compile.settings import BuildSettings
from runtime import Engine, open_bundle
from runtime.engine import group_by_variant
from runtime.execution import library
from runtime.machine import cuda
from targets import find
from targets.cuda.emulation import host
from targets.reference import interpreter
from tests.support.graphs import pictures, resnet_like
from tests.support.runs import write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "c++", "clang++"))),
        reason="no C++ compiler here to run the CUDA source with; apt install g++",
    ),
]
BITS = {"w8a8": ((8, 8),), "mixed": ((8, 8), (4, 4), (3, 2))}
BATCH = 3


@pytest.fixture(scope="module")
def graphs() -> dict:
    return {name: resnet_like(bits, seed=1, size=8) for name, bits in BITS.items()}


@pytest.fixture(scope="module")
def bundle(graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    run = write_run(folder / "small", graphs, pictures(graphs["w8a8"], 4, 3))
    settings = BuildSettings(find("cuda:sm_80"), (run,), folder / "bundle", source_only=True, times=False, batch=BATCH)
    return builder.build(settings).bundle


def emulated(folder):
    """Stands for the libraries of a bundle: their functions run the source that lies there."""

    def open_library(name, data):
        return lambda function: over_source(folder / Path(name).with_suffix(".cu"))

    return open_library


def over_source(path):
    """Returns main of a source, emulated."""
    runner = host.Runner(path)

    def main(*tensors):
        x, weights, table, workspace, logits = (np.from_dlpack(t) for t in tensors)
        np.asarray(logits)[:] = runner(x.copy(), weights, table, workspace.size, logits.size)

    return main


class LookOnHost:
    """What the bundle's look does for pictures of the input's size; its library is a source that nobody compiled."""

    def __init__(self, _bundle, _level, picture, logits, _lam):
        self.picture, self.logits = picture, logits

    def take(self, picture):
        self.picture[...] = picture

    def rank(self):
        return int(self.logits.argmax()), 0


@pytest.fixture
def here(monkeypatch, bundle):
    """This machine takes the place of one with an A100."""
    monkeypatch.setattr(cuda, "features", lambda: frozenset({"sm_80"}))
    monkeypatch.setattr(library, "_MEMORY", {})
    monkeypatch.setattr(library, "open_library", emulated(bundle))
    monkeypatch.setattr("runtime.bundle.opened.Bundle.library", lambda self, variant: b"")
    monkeypatch.setattr("runtime.engine.Look", LookOnHost)


@pytest.mark.parametrize("count", (1, 3, 7))
def test_the_engine_runs_pictures_together(bundle, graphs, here, count):
    assert open_bundle(bundle).manifest.pictures == BATCH
    with Engine(bundle) as engine:
        for name, graph in graphs.items():
            x = pictures(graph, count, 5)
            found = engine.infer_batch(list(x), variant=name)
            np.testing.assert_array_equal(np.stack([p.logits for p in found]), interpreter.run(graph, x))
            assert all(p.variant == name and p.seconds > 0 for p in found)


def test_pictures_of_one_variant_go_together():
    assert group_by_variant(dict(enumerate("abaaba")), 3) == [[0, 2, 3], [1, 4], [5]]
    assert group_by_variant(dict(enumerate("aba")), 1) == [[0], [1], [2]]
    assert group_by_variant({4: "a", 7: "b", 9: "a"}, 3) == [[4, 9], [7]]


def test_a_processor_takes_one_picture(bundle, graphs, tmp_path, capsys):
    words = [str(bundle.parent / "small"), "--target", "x86:avx2", "--out", str(tmp_path / "b"), "--batch", "2"]
    assert builder.main(words) == 2
    assert "expected one picture at a time, got 2" in capsys.readouterr().err
