"""framed takes the centred part of a picture that resizing its short side and cropping would leave."""

import numpy as np
import pytest

from runtime.pictures.arrays import framed, resize


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (25, 25)])
def test_no_crop_squeezes_the_whole_picture(shape):
    x = picture(*shape)
    assert np.array_equal(framed(x, (16, 16), None), resize(x, (16, 16)))


@pytest.mark.parametrize("shape, size, crop, part", [
    ((256, 256), (224, 224), 0.875, (slice(16, 240), slice(16, 240))),  # nothing is resized
    ((256, 341), (224, 224), 0.875, (slice(16, 240), slice(58, 282))),
    ((341, 256), (224, 224), 0.875, (slice(58, 282), slice(16, 240))),
    ((40, 100), (20, 20), 1.0, (slice(0, 40), slice(30, 70))),
    ((40, 100), (10, 20), 1.0, (slice(0, 40), slice(10, 90))),  # the shape of the size, not a square
    ((1, 5), (8, 8), 0.5, (slice(0, 1), slice(2, 3))),  # a pixel at least
])  # fmt: skip
def test_the_part_that_is_kept(shape, size, crop, part):
    x = picture(*shape)
    assert np.array_equal(framed(x, size, crop), resize(np.ascontiguousarray(x[part]), size))


def test_it_is_what_resizing_and_cropping_leaves():
    y, x = np.mgrid[0:300, 0:400]
    smooth = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 50), (x + y) / 3], 2).astype(np.uint8)
    resized = resize(smooth, (256, 341))
    cropped = resized[16:240, 58:282]
    apart = np.abs(framed(smooth, (224, 224), 0.875).astype(int) - cropped)
    assert apart.max() <= 4 and apart.mean() < 1  # the edges lie within a pixel of each other
