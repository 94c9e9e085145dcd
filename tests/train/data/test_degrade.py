"""Degradations do what their constants say, and the same for the same seed."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from train.data.degradations import CONSTANTS, SEVERITIES, degrade, jpeg_quality, motion_kernel
from train.data.names import FAMILIES, HELD_OUT

SIDES = st.integers(8, 70)
GREY = np.full((64, 64, 3), 128, np.uint8)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def picture(side=32, seed=0):
    """Something smooth with an edge, in colour."""
    small = Image.fromarray(noise(5, 5, 3, seed=seed)).resize((side, side), Image.Resampling.BICUBIC)
    x = np.array(small)
    x[: side // 2, : side // 3] //= 2
    return x


def spread(family, severity, x=GREY):
    """Standard deviation, of 1, that a family gives to a picture of 32x32 tiles."""
    tiles = np.stack([degrade(x[:32, :32], family, severity, seed) for seed in range(60)])
    return tiles.astype(float).std() / 255, tiles.astype(float).mean() / 255


def test_families_are_those_agreed_on():
    assert FAMILIES[0] == "clean" and len(FAMILIES) == 10 and set(HELD_OUT) < set(FAMILIES) - {"clean"}
    assert all(len(c) == len(SEVERITIES) for c in CONSTANTS.values())


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(FAMILIES), st.sampled_from(SEVERITIES), st.integers(0, 2**70), SIDES, SIDES)
def test_same_seed_same_picture(family, severity, seed, h, w):
    x = noise(h, w, 3, seed=seed % 1000)
    before = x.copy()
    out = degrade(x, family, severity, seed)
    assert out.dtype == np.uint8 and out.shape == x.shape and out.flags.c_contiguous
    assert np.array_equal(out, degrade(x, family, severity, seed)) and np.array_equal(x, before)
    assert not np.shares_memory(out, x)


@pytest.mark.parametrize("family", ["gaussian_noise", "shot_noise", "motion_blur", "low_light"])
def test_another_seed_is_another_picture(family):
    assert not np.array_equal(degrade(picture(), family, 3, 1), degrade(picture(), family, 3, 2))


def test_clean_is_the_picture_and_bad_arguments_are_refused():
    x = picture()
    assert np.array_equal(degrade(x, "clean", 0, 0), x) and np.array_equal(degrade(x, "clean", 4, 0), x)
    for arguments, words in (
        ((x, "fog", 1, 0), "unknown family"),
        ((x, "jpeg", 6, 0), "severity"),
        ((x, "jpeg", 0, 0), "severity"),
        ((x[0], "jpeg", 1, 0), "uint8 picture"),
        ((x / 255, "jpeg", 1, 0), "uint8 picture"),
        (("x", "jpeg", 1, 0), "uint8 picture"),
        ((x, "jpeg", 1, -1), "non-negative"),
    ):
        with pytest.raises(ValueError, match=words):
            degrade(*arguments)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_deviation_of_its_constants(severity):
    deviation, mean = spread("gaussian_noise", severity)
    sigma = CONSTANTS["gaussian_noise"][severity - 1]
    assert abs(deviation / math.hypot(sigma, 0.289 / 255) - 1) < 0.01 and abs(mean - 128 / 255) < 1e-3
    deviation, mean = spread("shot_noise", severity)
    rate = CONSTANTS["shot_noise"][severity - 1]
    assert abs(deviation / math.sqrt(128 / 255 / rate) - 1) < 0.02 and abs(mean - 128 / 255) < 2e-3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_low_light_is_its_gain_in_linear_light(severity):
    white = np.full((32, 32, 3), 255, np.uint8)
    tiles = np.stack([degrade(white, "low_light", severity, seed) for seed in range(40)]) / 255
    gain = CONSTANTS["low_light"][severity - 1]
    linear = tiles**2.2
    assert abs(linear.mean() / gain - 1) < 0.01
    assert abs(linear.std() / math.hypot(math.sqrt(gain / 500), 0.005) - 1) < 0.05


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_spreads_a_point_by_its_sigma(severity):
    point = np.zeros((33, 33, 3), np.uint8)
    point[16, 16] = 255
    out = degrade(point, "gaussian_blur", severity, 0)[:, :, 0].astype(float)
    sigma = CONSTANTS["gaussian_blur"][severity - 1] * 33 / 32
    centre = 1 / (1 + 2 * sum(math.exp(-(k**2) / (2 * sigma**2)) for k in range(1, 4))) ** 2
    assert abs(out[16, 16] / 255 - centre) < 0.02
    assert np.array_equal(out, out.T) and np.array_equal(out, out[::-1])


def test_defocus_is_the_published_disk():
    """CIFAR-10-C's own kernel: a disk on whole pixels, its edge smoothed by a 3x3 Gaussian."""
    point = np.zeros((32, 32, 3), np.uint8)
    point[16, 16] = 255
    for severity, (radius, edge) in zip(SEVERITIES, CONSTANTS["defocus_blur"], strict=True):
        at = np.arange(-2, 3)
        disk = (at[:, None] ** 2 + at[None] ** 2 <= radius**2).astype(float)
        line = np.exp(-np.array([1, 0, 1]) / (2 * edge**2))
        line /= line.sum()
        steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        disk = sum(line[i + 1] * line[j + 1] * np.roll(disk / disk.sum(), (i, j), (0, 1)) for i, j in steps)
        out = degrade(point, "defocus_blur", severity, 0)[14:19, 14:19, 0]
        assert np.abs(out / 255 - disk).max() < 0.004


def test_motion_blur_is_a_half_gaussian_along_its_ray():
    kernel, anchor = motion_kernel(6, 1.5, 0.0)
    exact = np.exp(-(np.arange(7) ** 2) / (2 * 1.5**2))
    assert anchor == (0, 0) and kernel.shape == (1, 7) and np.allclose(kernel[0], exact / exact.sum())
    for angle in (-math.pi / 4, -0.3, 0.5, math.pi / 4):
        kernel, (x, y) = motion_kernel(9, 2.5, angle)
        rows, columns = np.indices(kernel.shape)
        towards = math.atan2(((rows - y) * kernel).sum(), ((columns - x) * kernel).sum())
        assert abs(kernel.sum() - 1) < 1e-6 and kernel[y, x] > 0.1 and abs(towards - angle) < 0.2
    assert (degrade(GREY, "motion_blur", 5, 3) == GREY).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_that_of_pillow(severity):
    """Red, green and blue in the right order, at the right quality: libjpeg by another way gives the same picture."""
    x, file = picture(), io.BytesIO()
    Image.fromarray(x).save(file, "JPEG", quality=CONSTANTS["jpeg"][severity - 1])
    expected = np.asarray(Image.open(file)).astype(int)
    assert np.abs(degrade(x, "jpeg", severity, 0) - expected).mean() < 0.5


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_keeps_the_mean_and_its_share_of_the_rest(severity):
    x = np.clip(picture(), 60, 190)
    out, left = degrade(x, "contrast", severity, 0).astype(float), CONSTANTS["contrast"][severity - 1]
    mean = x.mean((0, 1))
    assert np.abs(out - (mean + left * (x - mean))).max() <= 0.51


def test_pixelate_takes_whole_pixels():
    x = noise(32, 32, 3)
    out = degrade(x, "pixelate", 5, 0)
    assert (out[1:] == out[:-1]).all((1, 2)).sum() == 32 - int(32 * 0.65)  # doubled rows
    assert len(np.unique(degrade(x, "pixelate", 1, 0).reshape(-1, 3), axis=0)) <= 30 * 30


def test_larger_pictures_are_degraded_more_per_pixel():
    """At 224 the constants come near ImageNet-C's."""
    assert [jpeg_quality(q, 1.0) for q in CONSTANTS["jpeg"]] == list(CONSTANTS["jpeg"])
    assert [jpeg_quality(q, 7.0) for q in CONSTANTS["jpeg"]] == [47, 27, 22, 19, 15]
    large = np.full((224, 224, 3), 128, np.uint8)
    for severity, sigma in zip((1, 2), CONSTANTS["gaussian_noise"], strict=False):  # more is cut at black and white
        assert abs(degrade(large, "gaussian_noise", severity, 0).std() / 255 / (sigma * math.sqrt(7)) - 1) < 0.02
    edge = np.zeros((224, 224, 3), np.uint8)
    edge[:, 112:] = 255
    rise = np.diff(degrade(edge, "gaussian_blur", 5, 0)[112, :, 0].astype(float)) / 255  # the blur's own shape
    at = np.arange(223) - 111
    assert abs(rise.sum() - 1) < 1e-9 and abs(math.sqrt((at**2 * rise).sum()) - 7 * CONSTANTS["gaussian_blur"][4]) < 0.2
    small = noise(16, 16, 3)
    assert np.array_equal(degrade(small, "jpeg", 3, 0), degrade(small, "jpeg", 3, 5))  # as at 32: no smaller constants


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "clean"])
def test_severity_rises(family):
    x = np.stack([picture(seed=k) for k in range(20)])
    views = [np.stack([degrade(p, family, s, k) for k, p in enumerate(x)]) for s in SEVERITIES]
    errors = [np.abs(v.astype(int) - x).mean() for v in views]
    assert all(a < b * 1.001 for a, b in pairwise(errors)) and errors[-1] > 1.3 * errors[0]
