"""Damaged files are refused with one error or give a graph: a small seeded part of tests/support/tflite_fuzz."""

import numpy as np
import pytest

pytest.importorskip("tflite", reason="no schema: pip install tflite==2.18.0 flatbuffers")

from targets.reference import interpreter
from tests.compile.tflite.test_operators import CASES
from tests.support.tflite_cases import photos
from tests.support.tflite_fuzz import damaged, imported

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_damaged_file_is_refused_or_gives_a_graph_that_runs(name):
    outcomes = []
    for seed in range(16):
        case = CASES[name]()
        graph = imported(damaged(case, np.random.default_rng([seed, 77])), case)
        outcomes.append(graph is None)
        if graph is not None:
            logits = interpreter.run(graph, photos(1, graph.tensors[graph.input].shape))
            assert logits.shape == (1, int(np.prod(graph.tensors[graph.output].shape)))
    assert any(outcomes)
