"""Runs in processes of their own: killed and resumed they end with the same bytes, and two of them train as one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.learn import learn
from train.loop.checkpoint import CHECKPOINT_FILE, METADATA_ENTRY, CheckpointError, load_checkpoint
from train.loop.state import CheckpointState
from train.run import run_training
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

LEARN = """
import sys
from train.learn import learn
from train.settings.command_line import parse
learn(parse(sys.argv[1:]))
"""
SMALL = "--limit 96 --batch 32 --epochs 2 --families clean,contrast --workers 1".split()
EPOCH_STEPS = 3
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}


def started(folder, cache, *more, launcher=(sys.executable, "-c", LEARN)) -> subprocess.Popen:
    """A small training run in a process of its own."""
    return subprocess.Popen(
        [*launcher, *SMALL, "--out", str(folder), "--cache", str(cache), *more],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> None:
    try:
        output, _ = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it started
        raise
    assert process.returncode == 0, output


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(run folder, cache) of a small training run."""
    folder, cache = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cache")
    finish(started(folder, cache))
    return folder, cache


@pytest.mark.parametrize("phase,step", [("full", 2), ("joint", 4)])
def test_kill_and_resume_end_with_the_same_bytes(uninterrupted, tmp_path, phase, step):
    folder, cache = uninterrupted
    process = started(tmp_path, cache, "--checkpoint-minutes", "0")
    while process.poll() is None and not reached(tmp_path, phase, step):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.stdout.read()
    finish(started(tmp_path, cache, "--resume"))
    (tensors, state), (whole_tensors, whole_state) = load_checkpoint(tmp_path), load_checkpoint(folder)
    assert tensors.keys() == whole_tensors.keys() and state == whole_state
    for name, tensor in tensors.items():
        assert torch.equal(tensor, whole_tensors[name]), name
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == (folder / CHECKPOINT_FILE).read_bytes()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    steps = [e.step for e in board.Scalars("joint/loss/w4a4")]
    assert steps == sorted(set(steps)) and steps


def reached(folder: Path, phase: str, step: int) -> bool:
    """Whether the run's checkpoint was taken inside the phase, at that step or later."""
    if not (folder / CHECKPOINT_FILE).exists():
        return False
    # The metadata alone: tensors are read from the path once more, where the run may have put its next checkpoint.
    with safe_open(folder / CHECKPOINT_FILE, "pt") as file:
        entry = json.loads(file.metadata()[METADATA_ENTRY])
    state = CheckpointState.from_dict(json.loads(entry["state"]))
    if state.phase != phase or state.position is None:
        return False
    return EPOCH_STEPS * state.position.epoch + state.position.step >= step


def test_resume_refuses_other_settings(uninterrupted):
    folder, cache = uninterrupted
    with pytest.raises(CheckpointError, match="bits was '8,4,2' and is '4'"):
        run_training(parse([*SMALL, "--out", str(folder), "--cache", str(cache), "--resume", "--bits", "4"]))
    with pytest.raises(CheckpointError, match="start without --resume"):
        run_training(parse([*SMALL, "--out", str(folder / "other"), "--cache", str(cache), "--resume"]))


def test_resume_brings_lost_and_damaged_files_back(uninterrupted, tmp_path):
    folder, cache = uninterrupted
    again = shutil.copytree(folder, tmp_path / "again")
    (again / "full.safetensors").unlink()
    (again / "configs.json").write_text("{")
    learn(parse([*SMALL, "--out", str(again), "--cache", str(cache), "--resume"]))
    for name in ("full.safetensors", "configs.json", "metrics.jsonl"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_two_processes_train_as_one(uninterrupted, tmp_path):
    folder, cache = uninterrupted
    script = tmp_path / "learn.py"
    script.write_text(LEARN)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    finish(started(tmp_path / "two", cache, launcher=launcher))
    one, two = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (folder, tmp_path / "two")
    )
    assert [(r["phase"], r["step"]) for r in one] == [(r["phase"], r["step"]) for r in two]  # one writer
    first = [r for r in one + two if r["phase"] == "full" and r["step"] == 1]
    # Same weights and pictures; but batch norms see half of 32 pictures each: the first loss moves by some percent.
    assert first[1]["loss/full"] == pytest.approx(first[0]["loss/full"], rel=0.1)
    last = [[r for r in records if "loss/w8a8" in r][-1] for records in (one, two)]
    assert last[1]["loss/w8a8"] == pytest.approx(last[0]["loss/w8a8"], rel=0.35)  # and over 12 steps the paths part
