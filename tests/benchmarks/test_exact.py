"""The exactness benchmark counts what differs, here and under emulation, and writes its records."""

import json

import numpy as np
import pytest

from benchmarks import exact
from compile.build import build
from compile.settings import BuildSettings
from runtime import BundleError, open_bundle
from targets import find
from targets.reference import interpreter
from tests.conftest import BITS
from tests.support.graphs import pictures, resnet_like
from tests.support.runs import run_record
from train.integers.export import export_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The same two variants for x86 and for an emulated ARM board, with their ONNX files."""
    folder = tmp_path_factory.mktemp("exact")
    graphs = {name: resnet_like(BITS[name], seed=5, size=16) for name in ("w8a8", "w4a4")}
    export_run(folder / "run", graphs, run_record(graphs), pictures(graphs["w8a8"], 3, 3))
    targets = {"x86": find("x86"), "arm": find("arm:cortex-a72")}
    return {
        name: build(BuildSettings(target, (folder / "run",), folder / name, golden=1)).bundle
        for name, target in targets.items()
    }


@pytest.mark.parametrize("name, count, runs_on", [("x86", 40, ""), ("arm", 3, "emulated cortex-a72")])
def test_records(bundles, tmp_path, monkeypatch, name, count, runs_on):
    monkeypatch.chdir(tmp_path)
    arguments = [str(bundles[name]), "--dataset", "digits", "--count", str(count), "--json", "e.json"]
    assert exact.main(arguments) == 0
    records = json.loads((tmp_path / "e.json").read_text())
    assert [(r["variant"], r["pictures"], r["differing"]) for r in records] == [("w8a8", count, 0), ("w4a4", count, 0)]
    assert all(set(r) == {"variant", "target", "cpu", "pictures", "differing", "correct"} for r in records)
    assert all(0 <= r["correct"] <= count and r["cpu"].startswith(runs_on) for r in records)


def test_some_variants_only(bundles, tmp_path):
    arguments = ["--dataset", "digits", "--count", "2", "--variants", "w4a4", "--json", str(tmp_path / "e.json")]
    assert exact.main([str(bundles["x86"]), *arguments]) == 0
    assert [r["variant"] for r in json.loads((tmp_path / "e.json").read_text())] == ["w4a4"]


def test_differing_pictures_and_right_classes_are_counted(small_bundle):
    graph, bundle = resnet_like(BITS["w4a4"], seed=2, size=16), open_bundle(small_bundle)
    x = pictures(graph, 30, 6)
    right = interpreter.run(graph, x).argmax(1)
    run, _ = exact.compiled(bundle, bundle.variant("w4a4"))
    assert exact.compare(graph, run, x, right, "") == {"pictures": 30, "differing": 0, "correct": 30}

    def wrong(picture):
        logits = run(picture)
        logits[:2] += int(np.array_equal(picture, x[7]) or np.array_equal(picture, x[20]))
        return logits

    labels = right.copy()
    labels[:5] = (labels[:5] + 1) % 10
    counted = exact.compare(graph, wrong, x, labels, "")
    assert counted["differing"] == 2 and 23 <= counted["correct"] <= 25


def test_errors(small_bundle, tmp_path, capsys):
    assert exact.main([str(tmp_path)]) == 2
    assert exact.main([str(small_bundle), "--dataset", "cifar10", "--data", str(tmp_path / "no"), "--count", "1"]) == 2
    assert "error: " in capsys.readouterr().err
    assert exact.main([str(small_bundle), "--dataset", "digits", "--count", "1", "--variants", "w9"]) == 2
    assert "expected a variant among w8a8, w4a4" in capsys.readouterr().err
    bundle = open_bundle(small_bundle)
    object.__setattr__(bundle.manifest, "files", {})
    with pytest.raises(BundleError, match="expected an ONNX file of w8a8"):
        exact.graph_of(bundle, bundle.variants[0])
