"""Fixtures that several test files share: one small bundle for this machine, built from random integer networks."""

import os
import platform
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy or torch: test processes share few cores

BITS = {"w8a8": ((8, 8),), "w4a4": ((8, 8), (4, 4)), "again": ((8, 8),)}  # "again" shares code and weights with w8a8


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory) -> Path:
    """A bundle of three variants of a 16x16 network for this machine; tests that change it work on a copy."""
    pytest.importorskip("tvm")
    from compile import reference
    from compile.lower import lower
    from compile.source import Source, SourceVariant
    from compile.writer import Built, write_bundle, write_contents
    from targets import find
    from tests.graphs import pictures, resnet_like

    target = find({"x86_64": "x86", "aarch64": "arm"}.get(platform.machine(), platform.machine()))
    if target.family == "x86":
        from targets.x86 import toolchain
    else:
        from targets.arm import toolchain
    root = tmp_path_factory.mktemp("small")
    (root / "any.onnx").write_bytes(b"not looked at by the runtime")
    graphs = {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}
    golden = pictures(graphs["w8a8"], 5, 4)
    variants = [
        SourceVariant(name, root / "any.onnx", graph, reference.run(graph, golden), facts, exact=True)
        for (name, graph), facts in zip(graphs.items(), map(_facts, graphs.values(), (1.0, 0.5, 0.9)), strict=True)
    ]

    def fill(folder: Path) -> dict:
        (folder / "lib").mkdir()
        built = []
        for variant in variants:
            lowered = lower(variant.graph, target)
            library = "lib/w8a8.so" if variant.name == "again" else f"lib/{variant.name}.so"
            if not (folder / library).exists():
                toolchain.build(lowered.module, target, folder / library, root / variant.name)
            built.append(Built(variant, lowered, library))
        labels = [f"class {i}" for i in range(10)]
        source = Source("small", variants, labels, golden, None, [])
        return write_contents(folder, source, target, built, {"bitgrade": "0"})

    return write_bundle(root / "bundles" / "small", fill)


def _facts(graph, cost: float) -> dict:
    bits = {layer: list(pair) for layer, pair in graph.bit_config().items()}
    return {"bits": bits, "macs": 1000, "bitops": 64000, "cost": cost, "accuracy": {"clean": 0.5, "jpeg": cost / 4}}
