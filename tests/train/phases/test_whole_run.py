"""A small run from its pictures to its files, which compute what the run printed."""

import json

import numpy as np
import pytest

from compile.qdq.importer import load as load_onnx
from targets.reference import interpreter
from train.data.datasets import load, spread, thin
from train.data.views import evaluation_views
from train.run import run_training
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

SMALL = "--limit 64 --batch 32 --epochs 1 --families clean,contrast,jpeg --bits 8,3 --hold-out pixelate".split()


def test_a_run_prints_what_its_files_compute(tmp_path):
    places = f"--test-pictures 20 --workers 1 --cache {tmp_path / 'cache'} --out {tmp_path / 'run'}".split()
    settings = parse([*SMALL, *places])
    run_training(settings)
    folder = tmp_path / "run"
    records = json.loads((folder / "results.json").read_text())
    assert {"arm", "variant", "family", "severity", "heldout", "pictures", "correct", "cost", "seed", "stderr"} == set(
        records[0]
    )
    data = thin(load("digits", None, settings.place.cache), 64)
    chosen = spread(len(data.test_y), 20)
    views = evaluation_views(data.test_x[chosen], ("clean", "jpeg", "contrast", "pixelate"), 0, settings.place.cache, 1)
    about = json.loads((folder / "run.json").read_text())
    for variant in about["variants"]:
        graph = load_onnx(folder / variant["onnx"])
        for (family, severity), pictures in views.items():
            right = int((interpreter.run(graph, np.asarray(pictures)).argmax(1) == data.test_y[chosen]).sum())
            place = ("fixed", variant["name"], family, severity)
            (record,) = (r for r in records if (r["arm"], r["variant"], r["family"], r["severity"]) == place)
            assert record["correct"] == right and record["cost"] == variant["cost"] and record["pictures"] == 20
            assert record["heldout"] == (family == "pixelate")
    assert about["variants"][0]["cost"] == 1.0 and about["variants"][1]["cost"] < 0.25
    costs = {arm: [r["cost"] * r["pictures"] for r in records if r["arm"] == arm] for arm in ("adaptive", "random")}
    assert sum(costs["adaptive"]) == pytest.approx(sum(costs["random"]), rel=1e-9)  # equal but for summation order
