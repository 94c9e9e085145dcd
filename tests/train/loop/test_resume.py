"""Resuming with other files than a run had is refused, wherever these lie."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from train.learn import learn
from train.loop.checkpoint import CheckpointError
from train.phases.full_precision import FULL_NAME
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

SMALL = "--limit 48 --batch 4 --epochs 1 --families clean --bits 4 --workers 1".split()


def test_resume_refuses_other_weights_of_the_same_name_wherever_they_lie(tmp_path):
    run, small = tmp_path / "run", [*SMALL, "--cache", str(tmp_path / "cache")]
    learn(parse([*small, "--out", str(tmp_path / "first")]))
    for name in "ab":
        (tmp_path / name).mkdir()
        tensors = {k: t + (name == "b") for k, t in load_file(tmp_path / "first" / FULL_NAME).items()}
        save_file(tensors, tmp_path / name / FULL_NAME)
    one, other = ([*small, "--weights", str(tmp_path / name / FULL_NAME), "--out", str(run)] for name in "ab")
    learn(parse(one))
    with pytest.raises(CheckpointError, match="weights was 'full.safetensors .*' and is 'full.safetensors "):
        learn(parse([*other, "--resume"]))
    shutil.move(tmp_path / "a", tmp_path / "moved")
    learn(parse([*small, "--weights", str(tmp_path / "moved" / FULL_NAME), "--out", str(run), "--resume"]))


def test_resume_refuses_pictures_that_changed(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in "ab":
            folder = tmp_path / "own" / part / kind
            folder.mkdir(parents=True)
            for k in range(8):
                Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    places = f"--dataset folder:{tmp_path / 'own'} --cache {tmp_path / 'cache'} --out {tmp_path / 'run'}".split()
    learn(parse([*SMALL, *places]))
    Image.new("RGB", (12, 12)).save(tmp_path / "own" / "train" / "a" / "0.png")
    with pytest.raises(CheckpointError, match="pictures was .* and is .*; give the same, or start anew"):
        learn(parse([*SMALL, *places, "--resume"]))


def test_resume_refuses_another_number_of_threads_and_tells_what_it_drops(tmp_path, capfd):
    """Sums of floats come in another order with more threads, and so do other bytes."""
    words = [*SMALL, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    threads = torch.get_num_threads()
    learn(parse(words))
    whole = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    (tmp_path / "run" / "metrics.jsonl").write_bytes(whole + b'{"phase": "joint", "step": 9}\n')
    (tmp_path / "run" / "weights.999999999.tmp.safetensors").write_bytes(b"half")
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(CheckpointError, match=f"threads was {threads} and is {threads + 1}; .*OMP_NUM_THREADS"):
            learn(parse([*words, "--resume"]))
    finally:
        torch.set_num_threads(threads)
    capfd.readouterr()
    learn(parse([*words, "--resume"]))
    assert "metrics.jsonl: 30 bytes behind the last checkpoint were dropped" in capfd.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == whole
    assert not list((tmp_path / "run").glob("*.tmp*"))
