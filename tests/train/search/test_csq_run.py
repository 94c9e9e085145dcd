"""A whole CSQ search, from the full-precision network to the ONNX files: killed, resumed, sharp at its end."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from compile.qdq.importer import load as load_onnx
from targets.reference import interpreter
from tests.support.sessions import killed_after_checkpoint
from tests.train.search.test_search import SEARCH_CHECKPOINTS, SMALL, at_checkpoint_of_the_search, onnx_bytes
from train.bits import configs
from train.bits.cost import CostTable, bitops
from train.data.datasets import load, spread, thin
from train.data.views import evaluation_views
from train.evidence.metrics import MetricsRecord
from train.finish import finish
from train.learn import learn
from train.network.architectures import open_layers
from train.network.network import Network
from train.report.exact_bits import exact_bits
from train.search import csq
from train.search.csq import CsqPhase
from train.search.depths import mix_exactly
from train.search.integers import give_integers, open_variants
from train.search.shared import Search
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

CSQ = "--method csq --widths 2,3,4,5,8 --variants 2 --hold-out pixelate --test-pictures 12".split()


@dataclass(frozen=True)
class SmallRun:
    folder: Path
    cache: Path
    student: Network
    calls: list[tuple]
    phase: CsqPhase


def words(folder, cache, *more) -> list[str]:
    return [*SMALL, *CSQ, "--out", str(folder), "--cache", str(cache), *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> SmallRun:
    """A small run, its phase, and what `give_integers` got each time with a copy of the student it left."""
    folder = tmp_path_factory.mktemp("csq")
    calls, phases = [], []

    def watched(net, indices, student, pictures):
        give_integers(net, indices, student, pictures)
        calls.append((net, indices, copy.deepcopy(student), pictures))

    def train(search, phase):
        phases.append(phase)
        search.session.train(phase, phase.validate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csq, "give_integers", watched)
        patch.setattr(Search, "train", train)
        settings = parse(words(folder / "whole", folder))
        family = learn(settings)
    finish(settings, family.dataset, family.full_precision, family.student, family.configs, family.device)
    return SmallRun(folder / "whole", folder, family.student, calls, phases[0])


def test_a_search_killed_and_resumed_ends_the_same(whole, tmp_path):
    again = tmp_path / "again"
    with killed_after_checkpoint(at_checkpoint_of_the_search(SEARCH_CHECKPOINTS)):
        learn(parse(words(again, whole.cache)))
    resumed = learn(parse(words(again, whole.cache, "--resume"))).student
    for name in (configs.CONFIGS_FILE, "metrics.jsonl"):
        assert (again / name).read_bytes() == (whole.folder / name).read_bytes()
    for name in whole.student.bits:
        assert onnx_bytes(whole.student, name) == onnx_bytes(resumed, name)


def test_joint_training_starts_where_the_exact_bits_were(whole):
    """Same logits of the same batch, so the same accuracy; running statistics are those of whole pictures."""
    net, indices, first, pictures = whole.calls[-1]
    table = CostTable.of(bitops, whole.student.arch, net.widths)
    (name,) = (n for n, bits in first.bits.items() if bits == table.config(indices))
    with torch.no_grad():
        wanted = net(pictures, mix_exactly(indices, net))
        logits = copy.deepcopy(first).train()(pictures, name)
    assert first.bits == whole.student.bits and torch.equal(logits, wanted)


def test_the_end_is_sharp_and_nothing_decays(whole):
    """Temperatures reach every layer's planes; depths have a rate of their own, and no weight decay."""
    phase = whole.phase
    net, indices, settings = phase.net.relaxed, phase.rounded(), phase.search.settings
    soft = phase.soft_mixture(1.0)
    assert soft.beta == 200.0 and phase.soft_mixture(0.0).beta == 1.0
    for per_variant, k in zip(open_variants(net), indices[:, 0].tolist(), strict=True):
        y = torch.eye(len(net.widths))[k]
        with torch.no_grad():
            off = per_variant.w(None, y, y.tolist(), soft.beta) - per_variant.w.hard(k)
            assert float((off.abs() / per_variant.w.log_step(k).exp() > 0.01).float().mean()) < 0.01
    rates = {id(p): group["peak"] for group in phase.optimizer.param_groups for p in group["params"]}
    assert {group["weight_decay"] for group in phase.optimizer.param_groups} == {0}
    assert rates[id(phase.net.depths.depth)] == settings.bits.policy_lr
    assert all(rates[id(per_variant.w.positive)] == settings.training.lr for per_variant in open_variants(net))


def test_what_a_search_leaves(whole):
    written = configs.read(whole.folder / configs.CONFIGS_FILE)
    inner = {layer.name for layer in open_layers(whole.student.arch)}
    assert whole.student.bits == written.bits and {v.method for v in written.variants} == {"csq"}
    assert {a for v in written.variants for name, (_, a) in v.bits.items() if name in inner} == {4}
    lines = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    ends = [r for r in lines if r["phase"] == "search" and "gap" in r]
    assert len(ends) == 4
    assert all(r["gap"] == pytest.approx(100 * (r["accuracy/soft"] - r["accuracy/hard"])) for r in ends)
    assert ends[-1]["hard_cost"] <= 0.5 + 1e-9
    assert {ends[-1][f"w_bits/{name}"] for name in inner} <= {2.0, 3.0, 4.0, 5.0, 8.0}
    assert (whole.folder / "plots" / "widths.png").stat().st_size > 5000
    assert f"{ends[-1]['gap']:+.2f} points lost" in (whole.folder / "report.md").read_text()


@pytest.mark.parametrize("gap,message", [(0.3, "over 0.1 point: planes are not sharp"), (0.1, "not over 0.1 point.")])
def test_report_says_whether_planes_were_sharp_enough(gap, message):
    end = {"accuracy/soft": 0.5 + gap / 100, "accuracy/hard": 0.5, "gap": gap}
    joint = MetricsRecord("joint", 1, {})
    assert message in exact_bits([MetricsRecord("search", 1, end), joint])[2] and exact_bits([joint]) == []


def test_files_compute_what_the_run_says(whole):
    folder, cache = whole.folder, whole.cache
    settings = parse(words(folder, cache))
    data = thin(load("digits", None, cache), settings.data.limit)
    chosen = spread(len(data.test_y), settings.judging.test_pictures)
    views = evaluation_views(data.test_x[chosen], ("clean", "contrast", "pixelate"), 0, cache, 1)
    results = json.loads((folder / "results.json").read_text())
    for variant in json.loads((folder / "run.json").read_text())["variants"]:
        graph = load_onnx(folder / variant["onnx"])
        for (family, severity), pictures in views.items():
            right = int((interpreter.run(graph, np.asarray(pictures)).argmax(1) == data.test_y[chosen]).sum())
            place = ("csq", variant["name"], family, severity)
            (record,) = (r for r in results if (r["arm"], r["variant"], r["family"], r["severity"]) == place)
            assert record["correct"] == right
