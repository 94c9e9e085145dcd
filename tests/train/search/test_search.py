"""Whole searches for bits: killed and resumed, the same seed, and configurations given by file."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from compile.qdq.exporter import to_onnx
from tests.support.sessions import bare_session, killed_after_checkpoint
from train.bits import configs
from train.data.batches import generator
from train.integers.lowering import lower
from train.learn import learn
from train.loop.state import SEARCH
from train.network.architectures import architecture, open_layers
from train.phases.full_precision import FULL_NAME
from train.search import fracbits, ilp
from train.search.shared import Search
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

DATA = "--limit 48 --batch 16 --epochs 1 --families clean,contrast --workers 1 --checkpoint-minutes 0".split()
SMALL = [*DATA, *"--widths 2,4,8 --search-epochs 4".split()]
SEARCH_CHECKPOINTS = 7  # until a search is killed


def learned(folder, cache, method, *more):
    """(settings, student) of a small run of the whole training."""
    settings = parse([*SMALL, "--method", method, "--out", str(folder), "--cache", str(cache), *more])
    return settings, learn(settings).student


def at_checkpoint_of_the_search(number: int):
    """Whether a checkpoint is the search's of that number, from 1."""
    phases = []

    def condition(state) -> bool:
        phases.append(state.phase)
        return phases.count(SEARCH) == number

    return condition


def onnx_bytes(net, variant: str) -> bytes:
    return to_onnx(lower(net, variant), {}).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "method,more",
    [
        ("fracbits", ()),
        ("ilp", ("--variants", "2")),
        ("dqmq", ("--kinds", "2")),
        ("dqmq", ("--kinds", "2", "--quantizer", "csq")),
    ],
)
def test_a_search_killed_and_resumed_ends_the_same(tmp_path, method, more):
    cache = tmp_path
    _, whole = learned(tmp_path / "whole", cache, method, *more)
    with killed_after_checkpoint(at_checkpoint_of_the_search(SEARCH_CHECKPOINTS)):
        learned(tmp_path / "again", cache, method, *more)
    assert (tmp_path / "again" / configs.CONFIGS_FILE).exists()  # the best so far
    _, resumed = learned(tmp_path / "again", cache, method, *more, "--resume")
    for name in (configs.CONFIGS_FILE, "metrics.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    written = configs.read(tmp_path / "whole" / configs.CONFIGS_FILE)
    assert written.variants and all(v.method == method for v in written.variants)
    budget = 0.5 * 2**0.5 + 1e-6
    assert all(v.cost <= budget for v in written.variants if not v.kinds)
    assert whole.bits == resumed.bits == written.bits
    for name in whole.bits:
        assert onnx_bytes(whole, name) == onnx_bytes(resumed, name)
    if method == "dqmq" and "csq" not in more:
        places = (
            f"--configs {tmp_path / 'whole' / configs.CONFIGS_FILE} --out {tmp_path / 'given'} --cache {cache}".split()
        )
        student = learn(parse([*DATA, "--widths", "2,4,8", *places])).student
        for (name, tensor), searched in zip(student.state_dict().items(), whole.state_dict().values(), strict=True):
            assert torch.equal(tensor, searched), name


@pytest.mark.parametrize("method,module", [("fracbits", fracbits), ("ilp", ilp)])
def test_losses_kept_are_those_of_the_bits_kept(tmp_path, monkeypatch, method, module):
    """By time many pairs of widths cost the same, and variants get the widest of these."""
    judged = {}

    def judge_bits(net, indices, parts):
        bits = tuple(tuple(net.widths[k] for k in row) for row in indices.tolist())
        return judged.setdefault(bits, 0.5 + len(judged) / 4096)

    monkeypatch.setattr(module, "judge_bits", judge_bits)
    settings, _ = learned(tmp_path / "run", tmp_path, method, "--cost", "latency", "--target", "x86", "--budget", "0.9")
    layers = open_layers(architecture(settings.network.arch, (8, 8, 3), 10))
    for v in configs.read(tmp_path / "run" / configs.CONFIGS_FILE).variants:
        assert v.loss == judged[tuple(tuple(v.bits[layer.name]) for layer in layers)]


def test_random_numbers_of_a_search_are_its_own():
    assert not torch.equal(
        torch.rand(3, generator=generator(0, "search", "widths", 0, 0)),
        torch.rand(3, generator=generator(0, "search", "widths", 0, 1)),
    )


def test_a_search_learns_from_the_teacher_given(tmp_path):
    """The full-precision network given as teacher changes nothing; another one does."""
    settings, _ = learned(tmp_path / "full", tmp_path, "fracbits")
    own, other = tmp_path / "full" / FULL_NAME, tmp_path / "other.safetensors"
    save_file({k: -v if v.ndim > 1 else v for k, v in load_file(own).items()}, other)
    searched = []
    for name, teacher in ("alone", None), ("same", own), ("taught", other):
        more = () if teacher is None else ("--teacher", str(teacher), "--teacher-arch", settings.network.arch)
        learned(tmp_path / name, tmp_path, "fracbits", "--weights", str(own), "--fp-epochs", "0", *more)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        searched.append([json.loads(line) for line in lines if '"search"' in line])
    assert searched[0] and searched[0] == searched[1] != searched[2]


@pytest.mark.parametrize(
    "budget,count,wanted",
    [
        (0.5, 1, [0.5]),
        (0.5, 3, [0.3 / 2**0.5 + 0.2, 0.5, 0.3 * 2**0.5 + 0.2]),
        (1.0, 2, [1.0]),
        (0.2, 3, [0.2, 0.016 / 2**0.5 + 0.2, 0.016 * 2**0.5 + 0.2]),
    ],
)
def test_budgets_lie_apart_by_what_they_leave(budget, count, wanted):
    """Also near the least cost, here 0.2, and near that of 8 bits."""
    table = SimpleNamespace(least=lambda a_bits: {None: 0.2}[a_bits])
    budgets = Search(bare_session(parse(["--budget", str(budget)])), table).budgets(count)
    assert budgets == pytest.approx(wanted, rel=1e-6)
