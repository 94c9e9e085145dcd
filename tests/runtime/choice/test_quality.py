"""Quality features: integers that equal a slow definition, whatever the batch, and that see what they are named for."""

import hashlib
import time
from fractions import Fraction
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.choice import quality
from runtime.choice.quality import NAMES, D, features
from train.data.degradations import degrade


def noise(n, h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), np.uint8)


def arithmetic(*shape):
    """uint8 by integers alone, whatever the version of numpy."""
    return ((np.arange(np.prod(shape), dtype=np.uint64) * 2654435761 >> 13) & 255).astype(np.uint8).reshape(shape)


def scene(side=64, seed=0):
    """Smooth shapes in colour, as plain pictures have."""
    rng, at = np.random.default_rng(seed), np.linspace(0, 1, side)
    turns = [rng.random() * 3 * at[:, None] + rng.random() * 3 * at[None] + rng.random() for _ in range(3)]
    waves = [np.sin(2 * np.pi * turn) for turn in turns]
    return np.clip(np.stack(waves, 2) * 70 + 128 + 40 * (at[None, :, None] > 0.5), 0, 255).astype(np.uint8)


def slow(x):
    """The definition, one pixel at a time where it matters, in exact fractions; logarithms by floats."""
    h, w, _ = x.shape
    r, g, b = (x[..., c].astype(int) for c in range(3))
    y = (77 * r + 150 * g + 29 * b + 128) >> 8
    laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    immerkaer = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    half = y[: h // 2 * 2].reshape(h // 2, 2, w).sum(1)[:, : w // 2 * 2].reshape(h // 2, w // 2, 2).sum(2)

    def mean_abs(p, kernel):
        places = [(i, j) for i in range(p.shape[0] - 2) for j in range(p.shape[1] - 2)]
        return mean([abs(int((p[i : i + 3, j : j + 3] * kernel).sum())) for i, j in places])

    def mean(values):
        return Fraction(sum(int(v) for v in values), max(1, len(values)))

    def log(value):  # in 1/256 octaves of 1/256 codes
        return 256 * log2(int(value * 256) + 16)

    xs = [(j, abs(y[i, j] - y[i, j - 1])) for i in range(h) for j in range(1, w)]
    ys = [(i, abs(y[i, j] - y[i - 1, j])) for i in range(1, h) for j in range(w)]
    borders = [v for k, v in xs + ys if k % 8 == 0]
    inside = [v for k, v in xs + ys if k % 8]
    ranked = np.sort(y.reshape(-1))
    return {
        "noise": log(mean_abs(y, immerkaer)),
        "detail": log(mean_abs(y, laplacian)),
        "detail_half": log(mean_abs(half, laplacian) / 4),
        "luma": int(mean(y.reshape(-1)) * 256),
        "luma_p05": 256 * ranked[h * w * 5 // 100],
        "luma_p95": 256 * ranked[h * w * 95 // 100],
        "contrast": log(mean(np.abs(y - y.sum() // (h * w)).reshape(-1))),
        "dark": int(mean(y.reshape(-1) < 16) * 256),
        "blocks": log(mean(borders)) - log(mean(inside)) if borders else 0,
        "flat": int(mean([v == 0 for _, v in xs + ys]) * 256),
        "direction": log(mean([v for _, v in xs])) - log(mean([v for _, v in ys])),
        "chroma": log(mean_abs(r - g, laplacian)),
    }


@pytest.mark.parametrize("h, w", [(8, 8), (9, 11), (32, 32), (16, 8), (8, 33), (45, 38)])
def test_features_equal_their_definition(h, w):
    checkers = np.indices((h, w)).sum(0)[:, :, None] % 2 * np.full(3, 255)
    pictures = [noise(1, h, w)[0], scene(max(h, w))[:h, :w], np.zeros((h, w, 3)), np.full((h, w, 3), 255), checkers]
    for x in pictures:
        expected = slow(x.astype(np.uint8))
        assert list(expected) == list(NAMES)
        for name, feature, exact in zip(NAMES, features(x.astype(np.uint8))[0], expected.values(), strict=True):
            # Table of 1024 mantissas, floored: a logarithm is at most 1.4 units low, a difference of two likewise.
            assert abs(feature - exact) <= (1.4 if isinstance(exact, float) else 0), (name, feature, exact)


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 50), st.integers(8, 50), st.integers(1, 9), st.integers(0, 2**32))
def test_a_picture_alone_is_as_in_a_batch(h, w, n, seed):
    x = noise(n, h, w, seed)
    x[::2] = np.where(x[::2] < 128, 0, 255)
    batch = features(x)
    assert batch.dtype == np.int32 and batch.shape == (n, D)
    assert np.array_equal(batch, np.concatenate([features(p) for p in x]))
    assert batch.min() >= -(1 << 12) and batch.max() < 1 << 16


def test_chunks_do_not_matter(monkeypatch):
    x = noise(50, 16, 24)
    whole = features(x)
    monkeypatch.setattr(quality, "CHUNK", 16 * 24 * 7)
    assert np.array_equal(features(x), whole)
    assert np.array_equal(features(np.asfortranarray(x)[:, :, :, :]), whole)


def test_logarithm_is_within_one_unit_of_the_exact_one():
    x = np.concatenate([np.arange(1, 5000), np.random.default_rng(0).integers(1, 1 << 50, 5000), [1 << 61]])
    error = 256 * np.log2(x.astype(np.float64)) - quality._log2(x)
    assert error.min() >= -1e-9 and error.max() < 1 + 256 * log2(1 + 1 / 1024)
    assert quality._log2(1 << np.arange(61)).tolist() == [256 * k for k in range(61)]


def test_features_see_what_they_are_named_for():
    x = scene(64)
    clean = dict(zip(NAMES, features(x)[0], strict=True))

    def change(family, severity=5):
        return {k: v - clean[k] for k, v in zip(NAMES, features(degrade(x, family, severity, 1))[0], strict=True)}

    assert change("gaussian_noise")["noise"] > 512 and change("gaussian_noise")["chroma"] > 512
    assert change("low_light")["luma"] < -256 * 20 and change("low_light")["luma_p95"] < -256 * 20
    assert change("contrast")["contrast"] < -256
    sharp = noise(1, 64, 64)[0]
    before, after = features(sharp)[0], features(degrade(sharp, "gaussian_blur", 5, 1))[0]
    assert after[NAMES.index("detail")] < before[NAMES.index("detail")] - 256
    blocky = np.repeat(np.repeat(noise(1, 8, 8)[0], 8, 0), 8, 1)
    assert features(blocky)[0, NAMES.index("blocks")] > 1024 and features(blocky)[0, NAMES.index("flat")] > 200
    stripes = np.repeat(noise(1, 64, 1)[0], 64, 1)
    assert features(stripes)[0, NAMES.index("direction")] < -1024
    assert features(np.zeros((8, 8, 3), np.uint8))[0, NAMES.index("dark")] == 256


def test_features_are_the_same_on_every_machine():
    ramp = (np.arange(57 * 41 * 3) // 29).astype(np.uint8).reshape(1, 57, 41, 3)
    pictures = [arithmetic(3, 32, 32, 3), ramp, arithmetic(1, 8, 9, 3) // 16]
    digest = hashlib.sha256(b"".join(features(x).astype("<i4").tobytes() for x in pictures)).hexdigest()
    assert digest[:16] == "ff44e926be50fa5d"


def test_one_picture_takes_microseconds():
    x, times = noise(1, 32, 32)[0], []
    for _ in range(300):
        began = time.perf_counter()
        features(x)
        times.append(time.perf_counter() - began)
    assert min(times) < 1e-3  # 0.08 ms measured; room for slow and busy machines


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((7, 8, 3), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((2, 8, 8, 4), np.uint8),
        [[1]],
        None,
    ],
)
def test_what_is_no_picture_is_refused(x):
    with pytest.raises(ValueError, match="expected uint8 pictures"):
        features(x)


def test_no_pictures_have_no_features():
    assert features(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, D)
