"""The checks of a bundle on a GPU, with a stand-in for the driver: the engine's way, and the way of CUDA graphs."""

from types import SimpleNamespace

import numpy as np
import pytest

tvm_ffi = pytest.importorskip("tvm_ffi")
torch = pytest.importorskip("torch")

from benchmarks.cuda import checks as cuda_checks
from benchmarks.cuda.records import CheckRecord
from runtime import open_bundle
from runtime.execution import library
from runtime.machine import cuda
from tests.support.fake_driver import array

STREAM = 0x57AE


@pytest.fixture
def gpu(driver, small_bundle, monkeypatch):
    """A bundle's libraries know the golden logits; returns (the stream of each launch, pictures to get wrong)."""
    bundle = open_bundle(small_bundle)
    golden, expected = bundle.golden()
    tables = {bundle.table(bundle.build(v, bundle.level(None))).tobytes(): v.name for v in bundle.variants}
    streams, spoiled = [], []

    def main(*tensors):
        picture, _, table, workspace, logits = (array(t) for t in tensors)
        streams.append(tvm_ffi.get_raw_stream(tvm_ffi.device("cuda", 0)))
        index = next(i for i, p in enumerate(golden) if np.array_equal(p.reshape(-1), picture))
        workspace[:] = 1
        logits[:] = expected[tables[table.tobytes()]][index] + (index in spoiled)

    monkeypatch.setitem(library._MEMORY, bundle.manifest.target.family, cuda.DeviceBuffer)
    monkeypatch.setattr(library, "open_library", lambda path, data: lambda name: main)
    real = cuda_checks.buffer
    monkeypatch.setattr(cuda_checks, "buffer", lambda values, device: real(values, "cpu"))
    monkeypatch.setattr(cuda_checks, "Captured", lambda call: call)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=STREAM))
    return streams, spoiled


def test_a_bundle_is_checked_in_both_ways(gpu, small_bundle):
    streams, spoiled = gpu
    variants, count = len(open_bundle(small_bundle).variants), 5
    parts = [
        CheckRecord(small_bundle.name, part, variants * count, 0)
        for part in ("engine", "Engine.launch in a CUDA graph")
    ]
    assert cuda_checks.check_bundle(small_bundle) == parts
    assert streams == ([0] * count + [STREAM] * count) * variants  # the engine's copies are on the default stream
    spoiled += [1, 4]
    assert [r.differing for r in cuda_checks.check_bundle(small_bundle)] == [2 * variants] * 2
