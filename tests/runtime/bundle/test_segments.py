"""Weights made of stored codes where they are loaded: by their definition, and refused where they cannot be."""

import numpy as np
import pytest

from runtime import BundleError
from runtime.bundle.segments import Transform, parse_segment
from runtime.bundle.weights import transformed
from runtime.fields import Fields


@pytest.mark.parametrize("width", (1, 2))
def test_transformed_weights_by_their_definition(width):
    rng = np.random.default_rng(width)
    down, across = rng.integers(-4, 5, (3, 2)), rng.integers(-4, 5, (4, 3))
    codes = rng.integers(-2, 2, (5, 6, 7)).astype(np.int8)
    forms = (tuple(map(tuple, form.tolist())) for form in (down, across))
    t = Transform(codes.shape, *forms, block=4, step=6, group=2, bytes=width)
    got = transformed(codes.reshape(-1), t).view("<i2" if width == 2 else np.int8).reshape(2, 12, 6, 4, 2)
    expected = np.zeros((2, 12, 6, 4, 2), np.int64)
    for o, p, i in np.ndindex(5, 12, 7):
        matrix = np.kron(down, across)
        expected[o // 4, p, i // 2, o % 4, i % 2] = sum(int(matrix[p, k]) * int(codes[o, k, i]) for k in range(6))
    np.testing.assert_array_equal(got, expected)
    assert t.size == expected.size * width


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1, 9]},
        {"shape": [0, 9, 1]},
        {"down": []},
        {"down": [[1], [1, 2]]},
        {"across": [[33]]},
        {"block": 0},
        {"group": 3, "step": 4},
        {"bytes": 3},
        {"across": "x"},
        {"shape": [1, 8, 1]},
    ],
)
def test_a_transform_that_cannot_be_is_refused(change):
    fine = {"shape": [1, 1, 1], "down": [[1]], "across": [[1]], "block": 1, "step": 4, "group": 2, "bytes": 1}
    segment = {"offset": 0, "count": 1, "bits": 8, "at": 0, "transform": fine}
    assert parse_segment(Fields(segment, "segment"), 4, 1).size == 4
    with pytest.raises(BundleError):
        parse_segment(Fields({**segment, "transform": {**fine, **change}}, "segment"), 4, 1)
