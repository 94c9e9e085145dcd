"""A look's compiled code gives numpy's integers: features, choices, ranks, resized pictures, for every level here."""

from functools import cache

import numpy as np
import pytest

pytest.importorskip("tvm")

from compile.bundle.look import chosen_by, resized_by
from compile.times.machine import missing_features
from runtime.abi import filter_words
from runtime.choice import quality
from runtime.choice.escalation import MOST, margin
from runtime.pictures import arrays
from targets import find
from targets.cpu.look.planes import place_planes
from targets.cpu.look.vectors import Vectors
from targets.cuda import host
from targets.family import load
from targets.library import llvm
from tests.support.looks import compile_for, make_look, make_pictures, make_selector

pytestmark = pytest.mark.slow

LEVELS = [level for level in find("x86").compiled_for if not missing_features(level)]
SIZES = [(8, 8), (8, 9), (9, 8), (9, 17), (16, 50), (17, 33), (32, 32), (33, 34), (31, 66), (64, 40), (48, 130)]


@pytest.fixture(params=[level.name for level in LEVELS] + ["C", "halves"])
def compiled(request, tmp_path):
    """(what compiles a look, its vectors): for a level; for a C compiler; for a CPU without instructions that sum."""
    if request.param == "C":
        return _compile_c(tmp_path), Vectors(1)
    if request.param == "halves":
        if not LEVELS:
            pytest.skip("needs x86 with AVX2")
        return _compile_portable(tmp_path), Vectors(32)
    level = find(request.param)
    return lambda look: compile_for(look, level, tmp_path), load(level.family).vectors(level)


def _compile_c(folder):
    def make(look):
        target = find("cuda")
        host.build([look.module(Vectors(1))], target, folder / "look.so", source_only=True)
        return host.open_look(folder / "look.so", target)

    return make


def _compile_portable(folder):
    def make(look):
        level = find("x86:avx2")
        family = load("x86")
        family.build_look([look.module(Vectors(32))], level, folder / "look.so")
        return family.open_look(folder / "look.so", level)

    return make


@pytest.mark.parametrize("size", SIZES)
def test_features_and_choice(compiled, size):
    make, vectors = compiled
    selector = make_selector(12)  # which chooses among three or more at every size, far from its groups or near
    look = make_look(size, selector)
    call = make(look)
    chosen = set()
    for lam in (0.0, 0.37, 16384.0):
        for picture in make_pictures(size, seed=size[0]):
            features = quality.features(picture)
            expected = [*selector.choose(features, lam), *features[0]]
            actual = chosen_by(call, look, look.workspace(vectors), picture, lam)
            assert actual.tolist() == expected
            chosen.add(expected[0])
    assert len(chosen) > 2


@pytest.mark.parametrize("seed", range(6))
def test_every_kind_of_selector(compiled, seed):
    """One variant or many, groups that fill vectors or not, and weights beyond int32."""
    make, vectors = compiled
    wide = seed % 2 == 1
    selector = make_selector(
        seed, (1, 28, 8, 9, 3, 17)[seed], (1, 8, 7, 9, 16, 2)[seed], (1, 32, 8, 33, 5, 16)[seed], wide
    )
    look = make_look((16, 16), selector)
    assert look.selector is not None and look.selector.hidden.is_wide == wide
    call = make(look)
    for lam in (0.0, 0.5):
        for picture in make_pictures((16, 16), seed):
            features = quality.features(picture)
            expected = [*selector.choose(features, lam), *features[0]]
            assert chosen_by(call, look, look.workspace(vectors), picture, lam).tolist() == expected


def test_a_large_picture(compiled):
    """More codes than counts in bytes hold, and rows of many vectors."""
    make, vectors = compiled
    size = (225, 310)
    look = make_look(size, make_selector(3))
    assert place_planes(vectors, *size).chunks > 1
    call = make(look)
    for picture in make_pictures(size, 5)[:6]:
        expected = quality.features(picture)[0].tolist()
        assert chosen_by(call, look, look.workspace(vectors), picture, 0.1)[1:].tolist() == expected


def test_sums_of_many_rows(compiled, monkeypatch):
    """Totals of pictures too large for one sum in int32 are taken in strips; here strips are short."""
    from targets.cpu.look import quality as emitted

    monkeypatch.setattr(emitted, "_LARGEST", (1 << 31) // (32 * 5))  # five rows of 32
    make, vectors = compiled
    look = make_look((37, 32), make_selector(1))
    call = make(look)
    for picture in make_pictures((37, 32)):
        expected = quality.features(picture)[0].tolist()
        assert chosen_by(call, look, look.workspace(vectors), picture, 0.1)[1:].tolist() == expected


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (32, 32), (33, 17)])
def test_resizing(compiled, size):
    make, _ = compiled
    call = make(make_look(size))
    rng = np.random.default_rng(1)
    for h, w in ((1, 1), (1, 50), (50, 1), (7, 9), (32, 31), (33, 64), (100, 75), (480, 641), (3, 400)):
        for picture in (rng.integers(0, 256, (h, w, 3), np.uint8), np.full((h, w, 3), 255, np.uint8)):
            np.testing.assert_array_equal(resized_by(call, picture, size), arrays.resize(picture, size))


@cache
def _most_words(old: int, new: int) -> int:
    return 2 + max(len(weights) for _, weights in arrays._weights(old, new))


def test_filters_fit_their_words():
    for old in (1, 2, 3, 7, 31, 32, 33, 50, 63, 64, 65, 100, 481):
        for new in (1, 2, 3, 8, 31, 32, 33, 64, 224):
            assert _most_words(old, new) <= filter_words(old, new)


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 1000])
def test_ranking(compiled, classes):
    make, _ = compiled
    call = make(make_look((8, 8), classes=classes))
    rng = np.random.default_rng(classes)
    rows = [rng.integers(-5, 5, classes), rng.integers(-(1 << 31), 1 << 31, classes), np.zeros(classes)]
    rows += [np.full(classes, -(1 << 31)), np.arange(classes), np.arange(classes)[::-1]]
    ends = np.full(classes, -(1 << 31))
    ends[-1] = (1 << 31) - 1
    for row in (*rows, ends):
        logits = np.array(row, np.int64).astype(np.int32)
        expected = [int(logits.argmax()), int(margin(logits[None])[0])]
        assert expected[1] <= MOST - 1
        assert call("rank", [logits, np.zeros(2, np.int64)])[1].tolist() == expected


def test_wrong_sizes_are_refused_by_the_code():
    """As the kernels are: a caller in C gets an error, not memory that is overwritten."""
    if not LEVELS:
        pytest.skip("needs x86 with AVX2")
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        call = compile_for(make_look((8, 8), make_selector()), LEVELS[-1], Path(folder))
        for arrays_of_call in (
            [np.zeros(9, np.int32), np.zeros(2, np.int64)],
            [np.zeros(10, np.int32), np.zeros(2, np.int32)],
        ):
            with pytest.raises((ValueError, TypeError)):
                call("rank", arrays_of_call)


def test_the_library_needs_nothing_else(tmp_path):
    if not LEVELS:
        pytest.skip("needs x86 with AVX2")
    from targets.library import elf

    compile_for(make_look((32, 32), make_selector()), LEVELS[-1], tmp_path)
    llvm.check_library(tmp_path / "look.so", LEVELS[-1])
    functions = {"__tvm_ffi_plan", "__tvm_ffi_resize", "__tvm_ffi_rank", "__tvm_ffi_choose"}
    assert functions <= set(elf.read(tmp_path / "look.so").defined)
