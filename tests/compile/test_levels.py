"""One bundle for a family: each level's code is checked by the build, and the best one that runs here is taken."""

import json
import platform
import shutil

import numpy as np
import pytest

from compile.build import build
from compile.bundle import libraries
from compile.lowering.lower import lower
from compile.settings import BuildSettings
from runtime import BundleError, Engine, open_bundle
from runtime.bundle import opened as bundle
from runtime.bundle.manifest import signed
from runtime.machine import cpu
from targets import TargetError, find
from targets.reference import interpreter
from tests.conftest import BITS
from tests.support.graphs import pictures, resnet_like
from tests.support.runs import write_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86 machine")]
LEVELS = ["x86:avx512-vnni", "x86:avx-vnni", "x86:avx2"]
AVX2, AVX_VNNI = {"avx2", "fma"}, {"avx2", "fma", "avx_vnni"}
EVERYTHING = AVX_VNNI | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}


class Processor:
    """A processor with the given features, to the runtime."""

    def __init__(self, features):
        self._features = frozenset(features)

    def features(self) -> frozenset[str]:
        return self._features

    @staticmethod
    def model() -> str:
        return "Some CPU"


@pytest.fixture
def processor(monkeypatch):
    return lambda features: monkeypatch.setitem(bundle._PROCESSORS, "x86", Processor(features))


@pytest.mark.parametrize(
    "features, levels",
    [
        (EVERYTHING, LEVELS),
        (AVX_VNNI, LEVELS[1:]),
        (AVX2 | {"avx512f", "avx512_vnni"}, LEVELS[2:]),
        (EVERYTHING - {"avx_vnni"}, [LEVELS[0], LEVELS[2]]),
    ],
)
def test_the_best_level_that_runs_here(small_bundle, processor, features, levels):
    processor(features)
    opened = open_bundle(small_bundle)
    assert [v.name for v in bundle.runnable(opened.manifest)] == levels
    assert opened.level().name == levels[0]
    for name in levels:
        assert opened.level(name).name == name
    for name in set(LEVELS) - set(levels):
        with pytest.raises(BundleError, match=f"{name} needs .*, Some CPU lacks .*leave the level out"):
            opened.level(name)


def test_no_level_runs_here(small_bundle, processor):
    processor({"avx2", "sse2"})
    with pytest.raises(BundleError) as refused:
        open_bundle(small_bundle)
    for level in find("x86").levels:
        assert f"{level.name} needs {', '.join(level.requires)}, Some CPU lacks " in str(refused.value)
    assert open_bundle(small_bundle, here=False).manifest.target.name == "x86"


def test_every_level_that_runs_here_gives_the_same_logits(small_bundle):
    graphs = {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}
    levels = [v.name for v in bundle.runnable(open_bundle(small_bundle).manifest)]
    assert levels[-1] == "x86:avx2"
    for level in levels:
        with Engine(small_bundle, level=level) as engine:
            assert engine.level == level
            for name, graph in graphs.items():
                x = pictures(graph, 6, 1)
                got = np.stack([p.logits for p in engine.infer_batch(x, variant=name)])
                np.testing.assert_array_equal(got, interpreter.run(graph, x))
    with Engine(small_bundle) as engine:
        assert engine.level == levels[0]
    with pytest.raises(BundleError, match="expected a level among x86:avx512-vnni, .*got 'avx2'"):
        Engine(small_bundle, level="avx2")
    with pytest.raises(BundleError, match="got ''"):
        Engine(small_bundle, level="")


def test_levels_share_what_is_equal(small_bundle):
    """Both byte dot products read the same weights and tables: the files hold them once."""
    for variant in open_bundle(small_bundle).variants:
        first, second, _ = variant.builds
        assert first.segments == second.segments and first.table_offset == second.table_offset
        assert variant.library == f"lib/{'w8a8' if variant.name == 'again' else variant.name}.so"
        assert len({b.function for b in variant.builds}) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["target"]["levels"].reverse(),
        lambda m: m["target"]["levels"].pop(),
        lambda m: m["target"]["levels"].clear(),
        lambda m: m["variants"][1]["builds"].pop(0),
        lambda m: m["variants"][1]["builds"].reverse(),
        lambda m: m["variants"][0]["builds"].append(m["variants"][0]["builds"][0]),
        lambda m: m["variants"][0]["builds"][2].update(level="x86:avx-vnni"),
        lambda m: m["target"]["levels"][0].update(requires="avx2"),
        lambda m: m["target"]["levels"][0].update(name="x86:avx2"),
    ],
)
def test_builds_that_are_not_the_target_s_levels_are_refused(small_bundle, tmp_path, change):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))
    with pytest.raises(BundleError, match="levels|build for each|requires"):
        open_bundle(folder)


def test_a_level_s_function_must_be_there(small_bundle, tmp_path):
    folder = shutil.copytree(small_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"][0]["builds"][2]["function"] = "main_avx3"
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))
    with pytest.raises(BundleError, match="expected a library with a function main_avx3"):
        Engine(folder, level="x86:avx2")


def test_lowering_takes_one_level():
    with pytest.raises(ValueError, match="x86: expected one of its levels x86:avx512-vnni, x86:avx-vnni, x86:avx2"):
        lower(resnet_like(((8, 8),)), find("x86"))


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    graph = resnet_like(((8, 8), (4, 4)), seed=4, size=8)
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", {"a": graph}, pictures(graph, 2, 3))


@pytest.mark.parametrize(
    "features, ladder",
    [
        (EVERYTHING, ["x86:avx512-vnni equal", "x86:avx-vnni equal", "x86:avx2 equal"]),
        (
            EVERYTHING - {"avx_vnni"},
            ["x86:avx512-vnni equal", "x86:avx-vnni encoded for AVX-512 equal", "x86:avx2 equal"],
        ),
        (AVX2, ["x86:avx512-vnni not run", "x86:avx-vnni not run", "x86:avx2 equal"]),
    ],
)
def test_the_ladder_says_which_code_ran(tiny_run, tmp_path, monkeypatch, features, ladder):
    missing = features - cpu.features()
    if missing:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}")
    monkeypatch.setattr(libraries.cpu, "features", lambda: frozenset(features))
    report = build(BuildSettings(find("x86"), (tiny_run,), tmp_path / "b", golden=2))
    code = [r for r in report.rungs if r.answers.startswith("x86")]
    assert [f"{r.answers} {r.result}" for r in code if r.variant != "look"] == ladder
    assert len([r for r in code if r.variant == "look"]) == len(ladder)


def test_code_that_nothing_here_can_check_is_not_built(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(libraries.cpu, "features", lambda: frozenset(AVX2))
    with pytest.raises(TargetError, match="x86:avx-vnni: expected a machine that can check .*avx_vnni; build there"):
        build(BuildSettings(find("x86:avx-vnni"), (tiny_run,), tmp_path / "b"))
    assert not list(tmp_path.iterdir())
