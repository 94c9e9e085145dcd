"""Choosing anew without training gives what training with those settings would have given."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from train.bits.configs import CONFIGS_FILE as CONFIGS
from train.bits.configs import read
from train.bits.cost import layer_cost, relative
from train.evidence.evidence import OUTCOMES_FILE
from train.network.architectures import architecture
from train.recost.changes import Changes
from train.recost.command_line import parse as parse_recost
from train.recost.recost import recost
from train.run import run_training
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

SMALL = (
    "--limit 96 --batch 16 --epochs 1 --fp-epochs 1 --families clean,gaussian_noise --bits 8,4,2 --workers 1 "
    "--test-pictures 40"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "b"  # the name is in the files
    run_training(parse([*SMALL.split(), "--out", str(out)]))
    return out


def files(folder) -> dict[str, bytes]:
    """Content of all that both ways of making a run leave, but for times of training."""
    names = ("*.onnx", "results.json", "settings.json", "golden.npz", "report.md", CONFIGS, "plots/*.png")
    return {p.name: p.read_bytes() for name in names for p in folder.glob(name)}


def test_another_budget_is_what_training_with_it_gives(run, tmp_path):
    more = ["--budget", "0.2", "--escalate", "--unseen-loss", "0.1"]
    run_training(parse([*SMALL.split(), *more, "--out", str(tmp_path / "trained" / "b")]))
    recost(*parse_recost([str(run), "--out", str(tmp_path / "chosen" / "b"), *more]))
    trained, chosen = (files(tmp_path / name / "b") for name in ("trained", "chosen"))
    assert trained.keys() == chosen.keys() and [k for k in trained if trained[k] != chosen[k]] == []
    abouts = [json.loads((tmp_path / name / "b" / "run.json").read_text()) for name in ("trained", "chosen")]
    assert abouts[0] == abouts[1]
    outcomes = [tmp_path / name / "b" / OUTCOMES_FILE for name in ("trained", "chosen")]
    with np.load(outcomes[0]) as a, np.load(outcomes[1]) as b:
        assert set(a.files) == set(b.files) and all(np.array_equal(a[k], b[k]) for k in a.files)


def test_another_cost_is_that_of_its_table(run, tmp_path):
    out = recost(run, tmp_path / "b", Changes(cost="latency", target="x86", budget=0.9))
    about = json.loads((out / "run.json").read_text())
    cost, arch = layer_cost("latency", "x86"), architecture("resnet8", tuple(about["input"]["shape"]), 10)
    wanted = {name: relative(cost, arch, bits) for name, bits in read(run / CONFIGS).bits.items()}
    assert {v["name"]: v["cost"] for v in about["variants"]} == wanted
    assert {v.name: v.cost for v in read(out / CONFIGS).variants} == wanted
    assert about["settings"]["cost"] == "latency" and about["settings"]["budget"] == 0.9
    records = json.loads((out / "results.json").read_text())
    assert {r["cost"] for r in records if r["variant"] == "w4a4" and r["arm"] == "fixed"} == {wanted["w4a4"]}
    assert "**cost**: the target's measured time" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    "changes, message",
    [(Changes(budget=2.0), "--budget: expected a share"), (Changes(cost="latency", target="z80"), "z80")],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(run, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        recost(run, tmp_path / "b", changes)
    assert not (tmp_path / "b").exists()


def test_a_trained_run_is_not_written_over_and_nothing_of_an_earlier_one_is_left(run, tmp_path):
    trained, out = shutil.copytree(run, tmp_path / "trained"), tmp_path / "out"
    (trained / "checkpoint").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="--out .*trained: expected a new folder, or one of an earlier recost"):
        recost(run, trained, Changes(budget=0.9))
    recost(run, out, Changes(budget=0.9))
    (out / "w5a5.onnx").write_bytes(b"of a variant that is no longer there")
    recost(run, out, Changes(budget=0.8))
    assert not (out / "w5a5.onnx").exists()
    assert {p.name for p in out.glob("*.onnx")} == {p.name for p in run.glob("*.onnx")}


def test_a_folder_that_is_no_whole_run_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="expected another folder"):
        recost(run, run)
    with pytest.raises(ValueError, match="expected a finished run"):
        recost(tmp_path, tmp_path / "b")
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(ValueError, match="expected outcomes"):
        recost(tmp_path, tmp_path / "b")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"arch": "resnet9"}, "run.json: expected an arch of resnet8, .* got arch 'resnet9'"),
        ({"arch": ["resnet8"]}, "run.json: expected arch to be text, got .*'resnet8'.*; the file is damaged"),
        ({"input": {}}, "run.json: input: expected a field 'shape'"),
        ({"input": {"shape": [32, 32]}}, "run.json: expected input .*, got .32, 32"),
        ({"settings": {"budget": "0.5"}}, "--budget: expected a share .* got '0.5'"),
        ({"settings": {"cost": "watts"}}, "--cost: expected one of bitops, .* got 'watts'"),
        ({"settings": {"seed": None}}, "expected a seed"),
        ({"settings": {"escalate": "no"}}, "got 'x86' and 'no'"),
        ({"variants": 1}, r"expected the variants of configs.json in run.json.*w2a2"),
        ({"golden": "none.npz"}, "expected its files none.npz, not found"),
    ],
)
def test_a_damaged_run_is_told_and_leaves_nothing(run, tmp_path, change, message):
    damaged = shutil.copytree(run, tmp_path / "a")
    about = json.loads((run / "run.json").read_text())
    settings = {**about["settings"], **change.get("settings", {})}
    kept = {"variants": about["variants"][: change.get("variants")]}
    (damaged / "run.json").write_text(json.dumps({**about, **change, **kept, "settings": settings}))
    with pytest.raises(ValueError, match=message):
        recost(damaged, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_in_another_cost_the_pareto_list_is_one_again(run, tmp_path):
    """Weights wide and activations narrow is dear to store: what was in order by BitOPs is not by size."""
    source = shutil.copytree(run, tmp_path / "a")
    trained = read(run / CONFIGS)
    inner = trained.variants[0].bits
    seen = tuple(
        replace(
            trained.variants[0],
            name=f"s{w}{a}",
            cost=cost,
            loss=loss,
            bits={name: bits if name in ("conv1", "linear") else (w, a) for name, bits in inner.items()},
        )
        for w, a, cost, loss in ((8, 2, 0.3, 3.0), (4, 5, 0.4, 2.0), (5, 8, 0.7, 1.0))
    )
    replace(trained, pareto=seen).write(source)
    listed = read(recost(source, tmp_path / "b", Changes(cost="size")) / CONFIGS).pareto
    assert [v.name for v in listed] == ["s45", "s58"] and listed[0].cost < listed[1].cost
