"""A run that goes on from another one's end: the same networks, no private variants, one line where that fails."""

import json
import shutil

import pytest
import torch
from PIL import Image

from tests.support.sessions import killed_after_checkpoint
from train.bits.configs import CONFIGS_FILE as CONFIGS
from train.bits.configs import read
from train.bits.cost import CostError
from train.learn import learn
from train.loop.checkpoint import CHECKPOINT_FILE, CheckpointError, load_checkpoint
from train.loop.session import Resume
from train.loop.state import PRIVATE
from train.run import run_training
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

DATA = "--limit 96 --batch 16 --families clean,gaussian_noise --workers 1 --budget 0.3".split()
FIRST = [*DATA, *"--epochs 1 --fp-epochs 1 --bits 4,2 --private-epochs 1".split()]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("first")
    learn(parse([*FIRST, "--out", str(out)]))
    return out


def going_on(first, out, *more):
    learn(parse([*DATA, "--start", str(first), *more, "--out", str(out)]))
    return load_checkpoint(out)


def test_networks_and_bits_are_as_at_its_end_without_private_variants(first, tmp_path):
    tensors_of_first, _ = load_checkpoint(first)
    tensors, state = going_on(first, tmp_path)
    variants = [(v.name, v.base, v.kinds) for v in read(tmp_path / CONFIGS).variants]
    assert variants == [("w4a4", "", ()), ("w2a2", "", ())]
    assert Resume(state).past(PRIVATE) and tensors
    assert all(torch.equal(t, tensors_of_first[k]) for k, t in tensors.items())
    left = {k for k in tensors_of_first.keys() - tensors.keys() if not k.startswith("optimizer.")}
    assert left and all("-q" in k for k in left)
    assert (tmp_path / "full.safetensors").read_bytes() == (first / "full.safetensors").read_bytes()


def test_private_and_static_variants_can_have_the_same_start_and_as_many_steps(first, tmp_path):
    steps = []
    for name, more, count in (("private", (), 6), ("static", ("--kinds", "1"), 2)):
        tensors, _ = going_on(first, tmp_path / name, "--private-epochs", "2", *more)
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert {line["phase"] for line in lines} == {"private", "statistics"}
        steps.append(max(line["step"] for line in lines))
        assert len(read(tmp_path / name / CONFIGS).variants) == count
        weight = "student.convs.conv1.weight"
        assert not torch.equal(tensors[weight], load_checkpoint(first)[0][weight])
    assert steps[0] == steps[1]


def test_killed_and_resumed_ends_the_same_and_no_longer_needs_its_start(first, tmp_path):
    start = shutil.copytree(first, tmp_path / "start")
    whole, _ = going_on(start, tmp_path / "whole", "--private-epochs", "2")
    with killed_after_checkpoint(lambda state: state.position is not None and state.position.epoch == 1):
        going_on(start, tmp_path / "killed", "--private-epochs", "2")
    with pytest.raises(CheckpointError, match="expected a run whose training has ended.*phase private.*--resume"):
        going_on(tmp_path / "killed", tmp_path / "third")
    shutil.rmtree(start)
    ended, _ = going_on(start, tmp_path / "killed", "--private-epochs", "2", "--resume")
    assert ended.keys() == whole.keys() and all(torch.equal(t, whole[k]) for k, t in ended.items())


def test_its_run_is_evaluated_and_exported_like_any_other(first, tmp_path):
    run_training(
        parse([*DATA, "--start", str(first), "--private-epochs", "1", "--test-pictures", "20", "--out", str(tmp_path)])
    )
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["settings"]["start"] == first.name and "bits" not in about["settings"]
    assert {v["name"] for v in about["variants"]} >= {"w4a4", "w2a2", "w4a4-q0", "w2a2-q1"}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--weights", __file__], "what --weights would"),
        (["--configs", "c.json"], "what --configs would"),
        (["--method", "ilp"], "what --method would"),
        (["--bits", "4"], "what --bits would"),
        (["--epochs", "3", "--fp-epochs", "0"], "what --epochs, --fp-epochs would"),
    ],
)
def test_what_it_brings_along_cannot_be_given_too(first, flags, message, capsys):
    with pytest.raises(SystemExit):
        parse(["--start", str(first), *flags])
    assert message in capsys.readouterr().err


def test_what_cannot_be_gone_on_from_is_refused(first, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="--start: there is no .*nowhere.*start without --start"):
        going_on(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match="expected a run with --arch resnet20, got resnet8"):
        going_on(first, tmp_path / "out", "--arch", "resnet20")
    with pytest.raises(CostError, match="--budget 0.01: the cheapest variant given, w2a2, costs 0.0"):
        going_on(first, tmp_path / "out", "--budget", "0.01")
    damaged = shutil.copytree(first, tmp_path / "damaged")
    raw = bytearray((damaged / CHECKPOINT_FILE).read_bytes())
    raw[-3] ^= 1
    (damaged / CHECKPOINT_FILE).write_bytes(raw)
    with pytest.raises(CheckpointError, match="is damaged.*start without --start"):
        going_on(damaged, tmp_path / "out")
    for kind in "ab":
        for part in ("train", "val"):
            (tmp_path / "own" / part / kind).mkdir(parents=True)
            for k in range(4):
                Image.new("RGB", (9, 9), (k, k, 9 * k)).save(tmp_path / "own" / part / kind / f"{k}.png")
    earlier = shutil.copytree(first, tmp_path / "earlier")
    with pytest.raises(CheckpointError, match="--start .*first.*: the checkpoint does not hold .*of other classes"):
        going_on(first, earlier, "--dataset", f"folder:{tmp_path / 'own'}", "--private-epochs", "1")
    assert {p.name for p in first.iterdir()} == {p.name for p in earlier.iterdir()}
    with pytest.raises(SystemExit):
        parse(["--start", str(first), "--out", str(first)])
    assert "expected another run than the one that is written" in capsys.readouterr().err
