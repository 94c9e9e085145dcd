"""Fixtures that several test files share: small bundles for this machine, built from random integer networks."""

import ctypes
import json
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from runtime.bundle.manifest import signed
from tests.support import fake_driver

settings.register_profile("shared", deadline=None)  # time says more of the machine than of the code
settings.load_profile("shared")

BITS = {"w8a8": ((8, 8),), "w4a4": ((8, 8), (4, 4)), "again": ((8, 8),)}  # "again" shares code and weights with w8a8


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory) -> Path:
    """A bundle of three variants of a 16x16 network for this machine; tests that change it work on a copy."""
    return _build(tmp_path_factory.mktemp("small"), None, [])


@pytest.fixture(scope="session")
def selecting_bundle(tmp_path_factory) -> Path:
    """The same with a selector and a table of two budgets."""
    entries = ((0.8, 0.0, 0.9), (0.5, 1000.0, 0.7))
    budgets = [dict(zip(("budget", "lambda", "accuracy"), entry, strict=True)) for entry in entries]
    return _build(tmp_path_factory.mktemp("selecting"), _selector(100).to_dict(), budgets)


def _build(root: Path, selector: dict | None, budgets: list[dict]) -> Path:
    pytest.importorskip("tvm")
    from compile.bundle.folder import new_bundle
    from compile.bundle.libraries import Libraries
    from compile.bundle.look import compile_look
    from compile.bundle.writer import CompiledVariant, write_contents
    from compile.lowering.lower import lower
    from compile.source.opened import BuildVariant, Source
    from targets import find
    from targets.reference import interpreter
    from tests.support.graphs import pictures, resnet_like

    target = find({"x86_64": "x86", "aarch64": "arm"}.get(platform.machine(), platform.machine()))
    (root / "any.onnx").write_bytes(b"not looked at by the runtime")
    graphs = {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}
    golden = pictures(graphs["w8a8"], 5, 4)
    variants = [
        BuildVariant(name, root / "any.onnx", graph, interpreter.run(graph, golden), facts, exact=True)
        for (name, graph), facts in zip(graphs.items(), map(_facts, graphs.values(), (1.0, 0.5, 0.9)), strict=True)
    ]

    with new_bundle(root / "bundles" / "small") as folder:
        libraries, built = Libraries(target, folder), []
        for variant in variants:
            lowered = [lower(variant.graph, level) for level in target.compiled_for]
            built.append(CompiledVariant(variant, lowered, libraries.add(variant.name, lowered)))
        labels = [f"class {i}" for i in range(10)]
        source = Source("small", variants, labels, golden, selector, budgets)
        write_contents(folder, source, built, compile_look(source, libraries), {"bitgrade": "0"})
    return root / "bundles" / "small"


def _facts(graph, cost: float):
    from compile.source.run_folder import NetworkFacts

    return NetworkFacts(graph.bit_config(), 1000, 64000, cost, {"clean": 0.5, "jpeg": cost / 4})


def _selector(luma: int):
    """w8a8 for pictures whose mean luma is over `luma` codes, w4a4 for others; "again" is never chosen."""
    from runtime.choice import quality
    from runtime.choice.selector import ONE, Selector

    d, k = len(quality.NAMES), len(BITS)
    zero, at = np.zeros(d, np.int64), quality.NAMES.index("luma")
    offset, multiplier, hidden = zero.copy(), zero.copy(), zero[None].copy()
    offset[at], multiplier[at], hidden[0, at] = luma * 256, 64, 1
    one = lambda value: np.array(value, np.int64)  # noqa: E731
    return Selector(
        offset=offset,
        multiplier=multiplier,
        shift=zero,
        hidden_weight=hidden,
        hidden_bias=one([0]),
        hidden_shift=one(0),
        output_weight=one([[1], [0]]),
        output_bias=one([-6000, 0]),
        output_shift=one(0),
        group_accuracy=one([[60000, 40000, 100], [40000, 40000, 100]]),
        group_weight=np.zeros((2, d, d), np.int64),
        group_offset=np.zeros((2, d), np.int64),
        threshold=one([0] * k),
        fallback=one([ONE // 2] * k),
        costs=one([ONE, ONE // 2, ONE]),
    )


@pytest.fixture
def selecting(selecting_bundle, tmp_path):
    """A copy of the bundle with a selector, to be changed."""
    return shutil.copytree(selecting_bundle, tmp_path / "selecting")


@pytest.fixture
def escalating(selecting):
    """The selecting bundle, in which, at the larger budget, w8a8 looks again at what w4a4 is unsure of."""
    from runtime.choice.escalation import margin
    from targets.reference import interpreter
    from tests.support.graphs import pictures, resnet_like

    graph = resnet_like(BITS["w4a4"], seed=2, size=16)
    margins = np.sort(margin(interpreter.run(graph, pictures(graph, 16, 3))))
    manifest = json.loads((selecting / "manifest.json").read_text())
    manifest["escalation"] = {
        "up": [0, 0, 2],
        "budgets": [
            {"budget": 0.5, "lambda": 1000.0, "accuracy": 0.7, "worst": 0.5, "margins": [0, 0, 0]},
            {"budget": 0.9, "lambda": 1000.0, "accuracy": 0.8, "worst": 1.5, "margins": [0, int(margins[8]), 0]},
        ],
    }
    (selecting / "manifest.json").write_text(json.dumps(signed(manifest)))
    return selecting


@pytest.fixture(scope="session")
def fake(tmp_path_factory) -> Path:
    """Path of the stand-in for libcuda.so.1."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to build a stand-in for NVIDIA's driver")
    folder = tmp_path_factory.mktemp("fake")
    (folder / "fake.c").write_text(fake_driver.SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libfake.so", folder / "fake.c"], check=True)
    return folder / "libfake.so"


@pytest.fixture
def driver(fake, monkeypatch):
    """The process's driver is the stand-in, until the test ends."""
    from runtime.machine import cuda

    monkeypatch.setattr(cuda, "DRIVER", str(fake))
    cuda.driver.cache_clear()
    ctypes.CDLL(str(fake)).fake_fail(0)
    yield cuda.driver()
    ctypes.CDLL(str(fake)).fake_fail(0)
    cuda.driver.cache_clear()
