"""Two processes are one: the same losses, step by step, where the batch norms of both see the same statistics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import paired_training
from train.loop.parallel import Processes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def test_two_processes_have_the_losses_of_one(tmp_path):
    path = tmp_path / "losses.json"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *launcher, paired_training.__file__, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    one = paired_training.curves(Processes())
    two = json.loads(path.read_text())
    assert {k: len(v) for k, v in one.items()} == {"full": 4, "joint": 4}
    for phase, losses in one.items():
        assert len(set(losses)) == 4
        # float64 sums in another order; 4-bit rounding would show a wrong gradient at once
        assert two[phase] == pytest.approx(losses, rel=1e-9), phase
