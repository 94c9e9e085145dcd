"""Several threads on one picture: the same logits whatever their number, and none of them left behind."""

import gc
import platform
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from compile.bundle.libraries import Libraries
from compile.lowering.lower import lower, run_compiled
from runtime import BundleError, Engine, open_bundle
from runtime.bundle.opened import runnable
from runtime.execution import threads
from runtime.execution.library import Loaded
from targets import TargetError, find
from targets.arm import toolchain as arm
from targets.library import elf
from targets.library import threads as emitted
from targets.reference import interpreter
from tests.conftest import BITS
from tests.runtime.changes import read_manifest, write_manifest
from tests.support.graphs import pictures, random_graph, resnet_like

pytestmark = [pytest.mark.slow, pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86 machine")]
ROOT = Path(__file__).parents[2]
COUNTS = (2, 3, 5)


def helpers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "bitgrade-helper"]


@pytest.fixture
def eager(monkeypatch):
    """Helpers take part in every picture, whether that pays or not."""
    monkeypatch.setattr(threads.Pace, "__call__", lambda self: self._together())


@pytest.fixture(scope="module")
def graphs():
    return {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}


def test_both_sides_agree_on_the_control_block():
    names = ("CONTROL", "OPEN", "SEMAPHORE", "STOP", "THREADS", "CHUNKS", "SPIN")
    assert [getattr(threads, n) for n in names] == [getattr(emitted, n) for n in names]
    lines = [getattr(emitted, n) // 8 for n in ("OPEN", "CLAIMED", "DONE", "SLEEPERS", "SEMAPHORE", "STOP", "THREADS")]
    assert len(set(lines)) == len(lines)  # of the cache: no word slows another


@pytest.mark.parametrize("count", [1, *COUNTS])
def test_logits_equal_the_reference(small_bundle, graphs, count, eager):
    opened = open_bundle(small_bundle)
    for level in runnable(opened.manifest):
        with Engine(small_bundle, level=level.name, threads=count) as engine:
            assert len(helpers()) == count - 1
            for turn in range(10):  # variants take turns: a late helper must not touch the next one's memory
                for name, graph in graphs.items():
                    x = pictures(graph, 6, turn)
                    got = np.stack([p.logits for p in engine.infer_batch(x, variant=name)])
                    np.testing.assert_array_equal(got, interpreter.run(graph, x))
    assert not helpers()


class _Bundle:
    """As much of a bundle as Loaded looks at, around one graph that was just compiled."""

    def __init__(self, graph, level, folder):
        self.lowered, self._level, self._file = lower(graph, level), level, folder
        sizes, suffix = self.lowered.sizes, level.suffix(level)
        build = dict(
            segments=(),
            workspace=sizes.workspace,
            function="main" + suffix,
            parallel=threads_of("share" + suffix, "serve" + suffix),
        )
        self.build_ = type("Build", (), build)()
        shape = graph.tensors[graph.input].shape
        target = type("Target", (), {"family": level.family})
        self.manifest = type("Manifest", (), {"target": target, "shape": shape, "outputs": sizes.logits, "pictures": 1})

    def level(self, name):
        return self._level

    def build(self, variant, level):
        return self.build_

    def library(self, variant):
        return self._file.read_bytes()

    def weights(self, build):
        return self.lowered.weights()

    def table(self, build):
        return self.lowered.table


def threads_of(share: str, serve: str):
    return type("Parallel", (), {"share": share, "serve": serve})


@pytest.mark.parametrize("seed", range(4))
def test_random_networks(tmp_path, seed, eager, monkeypatch):
    """Tiny networks, with chunks of any size: every kernel's units are dealt out one by one."""
    from targets.x86 import toolchain

    monkeypatch.setattr(emitted, "GRAIN", 1)
    graph, level = random_graph(seed, tie_free=False, extreme=seed % 2 == 0), find("x86:avx2")
    bundle = _Bundle(graph, level, tmp_path / "m.so")
    toolchain.build([bundle.lowered.module], level, tmp_path / "m.so")
    assert max(emitted.parts(call) for call in bundle.lowered.calls) > 4
    variant, x = type("Variant", (), {"name": "v", "library": "m.so"})(), pictures(graph, 8, seed)
    expected = interpreter.run(graph, x)
    for count in (1, *COUNTS):
        loaded = Loaded(bundle, [variant], None, count)
        for _ in range(20):
            got = np.stack([loaded.run("v", picture) for picture in x])
            np.testing.assert_array_equal(got, expected)
        loaded.close()
    assert not helpers()


def test_helpers_sleep_and_wake(small_bundle, graphs, eager):
    x = pictures(graphs["w8a8"], 4, 1)
    expected = interpreter.run(graphs["w8a8"], x)
    with Engine(small_bundle, variant="w8a8", threads=3) as engine:
        for turn in range(5):
            for picture, logits in zip(x, expected, strict=True):
                np.testing.assert_array_equal(engine.infer(picture).logits, logits)
                time.sleep(0.002 * turn)
        time.sleep(0.05)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.1  # nobody looks out for work any more


def test_none_is_left_after_close_or_without_reference(small_bundle, eager):
    picture = np.zeros((16, 16, 3), np.uint8)
    for turn in range(30):
        engine = Engine(small_bundle, threads=3)
        assert len(helpers()) == 2
        if turn % 3:
            engine.infer(picture)
        if turn % 2:
            engine.close()
            assert not helpers()
            engine.close()
        else:
            del engine
            gc.collect()
            assert not helpers()


def test_two_engines_at_once(small_bundle, graphs, eager):
    wrong = []

    def work(name: str) -> None:
        x = pictures(graphs[name], 5, 7)
        expected = interpreter.run(graphs[name], x)
        with Engine(small_bundle, variant=name, threads=2) as engine:
            for turn in range(60):
                if not np.array_equal(engine.infer(x[turn % 5]).logits, expected[turn % 5]):
                    wrong.append((name, turn))

    workers = [threading.Thread(target=work, args=(name,)) for name in ("w8a8", "w4a4")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong and not helpers()


def test_errors_leave_the_engine_usable(small_bundle, graphs, eager):
    x = pictures(graphs["w8a8"], 2, 1)
    with Engine(small_bundle, threads=2) as engine:
        with pytest.raises(ValueError, match="expected a picture"):
            engine.logits(x[0][:5], "w8a8")
        with pytest.raises(BundleError, match="expected a variant"):
            engine.infer(x[0], variant="w1a1")
        np.testing.assert_array_equal(engine.infer(x[0]).logits, interpreter.run(graphs["w8a8"], x[:1])[0])
    with pytest.raises(ValueError, match="closed"):
        engine.infer(x[0])


def test_refusals(small_bundle, tmp_path):
    for count in (0, -1, 65, 100_000):
        with pytest.raises(ValueError, match=f"expected 1 to 64 threads, a whole number, got {count}"):
            Engine(small_bundle, threads=count)
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = read_manifest(folder)
    for variant in manifest["variants"]:
        for build in variant["builds"]:
            build["parallel"] = None
    write_manifest(folder, manifest)
    Engine(folder).close()
    with pytest.raises(BundleError, match="expected code for several threads"):
        Engine(folder, threads=2)
    manifest["variants"][0]["builds"][0]["parallel"] = {"share": "share"}
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match="serve"):
        Engine(folder)
    assert not helpers()


class _Clock:
    """Inferences that take what the test says; counts how often each way was gone."""

    def __init__(self, monkeypatch):
        self.now, self.alone, self.together, self.cost = 0, 0, 0, 100
        monkeypatch.setattr(threads.time, "perf_counter_ns", lambda: self.now)
        self.pace = threads.Pace(self._alone, self._together)

    def _alone(self):
        self.alone, self.now = self.alone + 1, self.now + 100

    def _together(self):
        self.together, self.now = self.together + 1, self.now + self.cost

    def run(self, pictures: int) -> tuple[int, int]:
        self.alone = self.together = 0
        for _ in range(pictures):
            self.pace()
        return self.alone, self.together


def test_helpers_are_used_where_they_pay_and_hardly_where_they_do_not(monkeypatch):
    clock = _Clock(monkeypatch)
    clock.cost = 60
    assert clock.run(1000) == (8, 992)
    clock.cost = 105  # no help, no harm
    _, together = clock.run(5000)
    assert together < 70
    clock.cost = 5000  # held up: one picture each time
    _, together = clock.run(5000)
    assert together < 14
    clock.cost = 60  # free again
    clock.run(600)
    assert clock.run(1000) == (0, 1000)


def test_libraries_need_nothing_but_the_c_library_and_tvm_ffi(small_bundle):
    for path in (small_bundle / "lib").iterdir():
        others = {s for s in elf.read(path).undefined if not s.startswith("TVMFFI")}
        assert others <= {"memcpy", "memset", "memmove", "clock_gettime", "sched_yield", "sem_post", "sem_wait"}


@pytest.mark.parametrize("name", ["arm:cortex-a72", "arm:cortex-a76"])
def test_arm_code_for_several_threads_is_built(tmp_path, name):
    try:
        arm.linker()
    except TargetError as error:
        pytest.skip(str(error))
    level, graph = find(name), resnet_like(((8, 8),), seed=1, size=8)
    lowered = lower(graph, level)
    (tmp_path / "bundle").mkdir()
    library = tmp_path / "bundle" / Libraries(level, tmp_path / "bundle").add("a", [lowered])
    assert {"__tvm_ffi_share", "__tvm_ffi_serve"} <= set(elf.read(library).defined)
    x = pictures(graph, 2, 1)
    np.testing.assert_array_equal(run_compiled(lowered, arm.runner(library, level), x), interpreter.run(graph, x))
