"""Features of a processor, from what the kernel says."""

from runtime.bundle import opened
from runtime.machine import cpu


def test_processor_features():
    assert cpu.x86_features("flags\t\t: fpu avx2 fma\nx: y\nflags : avx2 sse\n") == {"avx2"}
    assert cpu.x86_features("") == frozenset()
    assert cpu.arm_features(1 << 1 | 1 << 20, 1 << 13) == {"asimd", "asimddp", "i8mm"}
    assert cpu.arm_features(0, 0) == frozenset()
    assert set(opened._PROCESSORS) == {"x86", "arm", "cuda"}
    if cpu.machine() == "x86_64":
        assert {"sse2", "fpu"} <= cpu.features()
    assert cpu.model()
