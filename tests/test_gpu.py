"""On a GPU: whole networks bit for bit, and nothing that compute-sanitizer objects to.

Needs neither TVM nor nvcc: BITGRADE_CASES names a folder of `python -m benchmarks.cuda_cases`, BITGRADE_BUNDLES one of
bundles built for the GPU.  BITGRADE_CASES=cases python -m pytest -m gpu tests/test_gpu.py
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import cuda  # noqa: E402
from runtime import Engine  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def prepared(variable: str, pattern: str) -> list[Path]:
    """Folders under the one that an environment variable names."""
    root = os.environ.get(variable)
    return sorted(p.parent for p in Path(root).glob(pattern)) if root else []


CASES = [p for p in prepared("BITGRADE_CASES", "*/case.json") if not p.name.startswith("peak-")]
BUNDLES = prepared("BITGRADE_BUNDLES", "*/manifest.json")


def test_something_is_prepared():
    if not CASES and not BUNDLES:
        pytest.skip("nothing to run: set BITGRADE_CASES or BITGRADE_BUNDLES")


@pytest.mark.parametrize("folder", CASES, ids=lambda p: p.name)
def test_logits_are_the_golden_ones(folder):
    case = cuda.Compiled(cuda.Case.read(folder))
    assert case.differing() == 0
    assert case.differing() == 0  # what an earlier picture left behind does not matter


@pytest.mark.parametrize("folder", CASES, ids=lambda p: p.name)
def test_a_graph_computes_the_same(folder):
    case = cuda.Compiled(cuda.Case.read(folder))
    replay = cuda.graph_of(case)
    case.logits.zero_()
    replay()
    torch.cuda.synchronize()
    expected = case.data["logits"].reshape(-1)[:case.logits.numel()]
    np.testing.assert_array_equal(case.logits.cpu().numpy(), expected)


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda p: p.name)
def test_bundles_give_their_golden_logits(folder):
    with Engine(folder) as engine:
        pictures, expected = engine.bundle.golden()
        for name, logits in expected.items():
            np.testing.assert_array_equal(np.stack([engine.logits(p, name) for p in pictures]), logits)


@pytest.mark.parametrize("tool", ("memcheck", "racecheck", "initcheck", "synccheck"))
def test_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists() or not CASES:
        pytest.skip("needs compute-sanitizer, and BITGRADE_CASES")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9",
               sys.executable, "-m", "benchmarks.cuda", str(CASES[0].parent), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
