"""ImageNet's networks at small pictures: the CUDA C++ of all their layers on the CPU, as two GPUs would run it."""

import shutil

import numpy as np
import pytest

pytest.importorskip("tvm")

from benchmarks.networks.random_networks import NETWORKS
from compile.lowering.lower import lower
from targets import find
from targets.cuda import toolchain
from targets.cuda.emulation import host
from targets.reference import interpreter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "c++", "clang++"))),
        reason="no C++ compiler here to run the CUDA source with; apt install g++",
    ),
]


@pytest.mark.parametrize(
    "name, bits, side, batch, arch",
    [
        ("mobilenetv2", "w3a5", 65, 2, 87),
        ("mobilenetv2", "w4a4", 64, 1, 90),
        ("resnet18", "mixed", 50, 1, 87),
        ("resnet18", "w2a2", 64, 1, 90),
    ],
)
def test_networks_for_imagenet_equal_the_reference(name, bits, side, batch, arch, tmp_path):
    """Odd maps, ragged tiles, residual streams; u4.s4 where it is native, bytes where it is not."""
    graph, target = NETWORKS[name].graph(bits, side), find(f"cuda:sm_{arch}")
    pictures = np.random.default_rng(arch).integers(0, 256, (batch, side, side, 3), np.uint8)
    lowered, source = lower(graph, target, batch), tmp_path / "main.cu"
    source.write_text(toolchain.source(lowered.module, target))
    expected = interpreter.run(graph, pictures)
    run = host.Runner(source, seed=arch, arch=arch)
    got = run(pictures.reshape(-1), lowered.weights(), lowered.table, lowered.sizes.workspace, expected.size)
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)
    assert len(np.unique(expected)) > 900
