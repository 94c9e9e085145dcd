"""On a GPU: whole networks bit for bit, also in CUDA graphs, and nothing that compute-sanitizer objects to.

Needs neither TVM nor nvcc: BITGRADE_CASES names a folder of `python -m benchmarks.cuda.cases`, which holds bundles too.
`python -m benchmarks.cuda` makes the same checks without pytest, and more.
BITGRADE_CASES=cases python -m pytest -m gpu tests/targets/cuda/test_gpu.py
"""

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from benchmarks.cuda import checks as cuda_checks
from benchmarks.cuda.case import find_networks, read_cases
from benchmarks.cuda.jobs import find_sanitizer, run_job, sanitizer_jobs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
ROOT = os.environ.get("BITGRADE_CASES")
FOLDERS = find_networks(Path(ROOT)) if ROOT else []
CASES, SANITIZER = read_cases(FOLDERS), find_sanitizer()
BUNDLES = [p for p in FOLDERS if (p / "manifest.json").exists()]


def test_something_is_prepared():
    if not FOLDERS:
        pytest.skip("nothing to run: set BITGRADE_CASES")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.folder.name)
def test_logits_are_the_golden_ones(case):
    """Of every picture, by `main` and by a CUDA graph of it."""
    assert {r.part: r.differing for r in cuda_checks.check_case(case)} == {"logits": 0, "CUDA graph": 0}


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda p: p.name)
def test_bundles_give_their_golden_logits(folder):
    assert [r.differing for r in cuda_checks.check_bundle(folder)] == [0, 0]


@pytest.mark.parametrize(
    "job", sanitizer_jobs(FOLDERS, SANITIZER) if SANITIZER and CASES else [], ids=lambda job: job.name
)
def test_compute_sanitizer_finds_nothing(job):
    assert run_job(job).failure is None
