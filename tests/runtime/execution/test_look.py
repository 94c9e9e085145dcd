"""A look within an engine: it chooses as numpy does, wherever a picture lies, and keeps a few sizes' filters."""

import numpy as np
import pytest

from runtime import BundleError, Engine
from runtime.abi import aligned_buffer
from runtime.choice import quality
from runtime.execution import look
from runtime.pictures.arrays import resize
from tests.runtime.changes import read_manifest, refusal, rewrite

pytest.importorskip("tvm_ffi")


@pytest.fixture
def pictures():
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (40, 16, 16, 3), np.uint8) // rng.integers(1, 12, (40, 1, 1, 1), np.uint8)


def test_choices_are_those_of_numpy(selecting, pictures):
    with Engine(selecting) as engine:
        selector = engine.bundle.manifest.selector
        features = quality.features(pictures)
        expected = [list(engine.variants)[v] for v in selector.choose(features, 0.0)]
        names, qualities = engine.choose(pictures)
        assert names == expected and len(set(names)) == 2
        assert qualities == [dict(zip(quality.NAMES, row, strict=True)) for row in features.tolist()]
        for picture, name, seen in zip(pictures, names, qualities, strict=True):
            prediction = engine.infer(picture)
            assert prediction.first == name and prediction.quality == seen
        for wrong in (pictures[0], pictures[:, 1:], pictures.astype(np.int16), [pictures]):
            with pytest.raises(ValueError, match=r"expected pictures uint8 \[N, 16, 16, 3\], got"):
                engine.choose(wrong)


def test_pictures_of_every_size_are_resized_as_numpy_does(selecting):
    rng = np.random.default_rng(1)
    sizes = [(h, w) for h in (1, 15, 16, 40) for w in (1, 15, 17, 33)]
    with Engine(selecting, variant="w8a8") as engine:
        for _ in range(2):  # more sizes than filters are kept for
            for size in sizes:
                picture = rng.integers(0, 256, (*size, 3), np.uint8)
                prediction = engine.infer(picture)
                np.testing.assert_array_equal(prediction.logits, engine.logits(resize(picture, (16, 16)), "w8a8"))
        assert len(engine._look._filters) == look._SIZES < len(sizes)


def test_pictures_may_lie_anywhere(selecting):
    """At any address, in memory that may not be written, in steps, upside down."""
    rng = np.random.default_rng(2)
    memory = rng.integers(0, 256, 70 * 64 * 3 + 64, np.uint8)
    with Engine(selecting) as engine:
        for begin in (0, 1, 13, 63):
            picture = memory[begin : begin + 40 * 33 * 3].reshape(40, 33, 3)
            views = [picture, picture[::-1], picture[:, ::2], picture[:16, :16], picture.transpose(1, 0, 2)]
            read_only = picture.copy()
            read_only.flags.writeable = False
            for view in (*views, read_only):
                np.testing.assert_array_equal(engine.infer(view).logits, engine.infer(np.array(view)).logits)
                expected = quality.features(resize(np.ascontiguousarray(view), (16, 16)))[0].tolist()
                assert list(engine.infer(view).quality.values()) == expected


def test_a_caller_s_picture_is_left_as_it_is(selecting, pictures):
    before = pictures.copy()
    with Engine(selecting) as engine:
        first = engine.infer(pictures[0])
        logits = first.logits.copy()
        for picture in pictures[1:]:
            engine.infer(picture)
    np.testing.assert_array_equal(pictures, before)
    np.testing.assert_array_equal(first.logits, logits)  # no later picture changes an earlier answer


def test_a_look_must_fit_its_bundle(selecting, small_bundle):
    manifest = read_manifest(selecting)
    rewrite(selecting, selector={**manifest["selector"], "hidden_shift": 1})
    assert "look: expected code for the selector of this manifest" in refusal(selecting)
    rewrite(selecting, selector=manifest["selector"])
    changes = {
        "look": (None, "expected a field 'look'|expected look to be an object"),
        "look__builds": (manifest["look"]["builds"][1:], "a build for each of"),
        "look__table__offset": (1 << 30, "a table within"),
        "look__table__bytes": (-4, "bytes in"),
        "look__library": ("../elsewhere.so", "a plain path"),
        "look__selector": (7, "selector to be text"),
    }
    for key, (value, words) in changes.items():
        rewrite(selecting, **{key: value})
        assert any(part in refusal(selecting) for part in words.split("|")), key
        rewrite(selecting, look=manifest["look"])
    for build in manifest["look"]["builds"]:
        build["choose"] = ""
    rewrite(selecting, look=manifest["look"])
    assert "a function that chooses where there is a selector" in refusal(selecting)


def test_a_look_whose_library_lacks_a_function_is_refused(selecting):
    manifest = read_manifest(selecting)
    for build in manifest["look"]["builds"]:
        build["resize"] = "nothing"
    rewrite(selecting, look=manifest["look"])
    with pytest.raises(BundleError, match="look.so: expected a library with a function nothing"):
        Engine(selecting)


def test_a_table_or_workspace_of_another_size_is_an_error_of_the_bundle(selecting):
    manifest = read_manifest(selecting)
    for change in ({"table": {**manifest["look"]["table"], "bytes": 64}}, {}):
        builds = [{**build, "workspace": build["workspace"] - bool(not change)} for build in manifest["look"]["builds"]]
        rewrite(selecting, look={**manifest["look"], **change, "builds": builds})
        with pytest.raises(BundleError, match="expected code of the look that takes the buffers of this bundle"):
            Engine(selecting)


def test_pictures_that_run_together_have_the_answers_of_each_alone(escalating, pictures):
    """As code for several pictures at once is called: by groups of one variant, second passes as well."""
    with Engine(escalating, budget=0.9) as engine:
        alone = [engine.infer(picture) for picture in pictures]
        together = engine._infer_together(list(pictures), None)
        assert {p.escalated for p in alone} == {True, False}
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a.logits, b.logits)
            assert (a.label, a.variant, a.first, a.quality) == (b.label, b.variant, b.first, b.quality)
        named = engine._infer_together(list(pictures[:3]), "w8a8")
        assert [(p.variant, p.escalated, p.quality) for p in named] == [("w8a8", False, None)] * 3


def test_a_workspace_that_the_machine_has_no_room_for_is_refused(selecting, monkeypatch):
    def full(count, dtype):
        raise MemoryError(f"no room for {count} bytes")

    with Engine(selecting) as engine:
        staged = (engine._loaded.picture, engine._loaded.logits)
        monkeypatch.setattr(
            look, "aligned_buffer", lambda n, dtype: (full if dtype is np.uint8 else aligned_buffer)(n, dtype)
        )
        with pytest.raises(BundleError, match=rf"{selecting}: expected a look that fits into memory.*no room for"):
            look.Look(engine.bundle, engine._loaded.level, *staged, 0.0)
