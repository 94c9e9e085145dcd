"""Some hundred damaged files of one seed: each is refused clearly, or gives onnxruntime's codes.

More by hand: python -m tests.compile.fuzz_onnx --count 20000 --seed 1
"""

import sys

import numpy as np
import pytest

from compile.qdq import patterns
from tests.compile import fuzz_onnx, onnx_damages
from tests.compile.onnx_networks import network


@pytest.mark.slow
def test_damaged_files_are_refused_or_right():
    outcomes = fuzz_onnx.fuzz(seed=0, count=400)
    assert set(outcomes) <= set(fuzz_onnx.GOOD), outcomes
    assert sum(outcomes.values()) == 400 and outcomes["equal"] > 40 and outcomes["refused"] > 100


def test_undamaged_networks_are_right():
    outcomes = [fuzz_onnx.judge(network(np.random.default_rng([7, k]))) for k in range(40)]
    assert {outcome for outcome, _ in outcomes} == {"equal"}, outcomes


def test_the_same_numbers_give_the_same_file():
    first, second = onnx_damages.damaged(4, 11), onnx_damages.damaged(4, 11)
    assert first[0].SerializeToString() == second[0].SerializeToString() and first[1] == second[1]


def test_a_constant_read_along_another_axis_is_seen(monkeypatch):
    """The judge finds the fault that the importer once had."""
    from tests.compile.test_onnx_faults import C, added

    model = added((1, 1, 1, C), "conv", False)
    assert fuzz_onnx.judge(model)[0] == "refused"

    def careless(node, shape, layout, operand):
        return patterns.replace(operand, array=operand.array.reshape(-1))

    monkeypatch.setattr(patterns, "along_channels", careless)
    assert fuzz_onnx.judge(model)[0] == "differs"


@pytest.mark.parametrize("code, outcome", [("import time; time.sleep(60)", "hang"), ("import os; os.abort()", "crash")])
def test_files_that_end_or_stop_the_process_are_counted(monkeypatch, code, outcome):
    if outcome == "hang":
        monkeypatch.setattr(fuzz_onnx, "START_SECONDS", 0.5)
    (record,) = fuzz_onnx.answers([sys.executable, "-c", code], 0, 5, 10)
    assert (record["number"], record["outcome"]) == (5, outcome)
