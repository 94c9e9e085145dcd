"""as_picture converts or refuses; resize gives the same bytes everywhere, within one code of Pillow."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from runtime.pictures import arrays
from runtime.pictures.arrays import UNIT, _shares, _weights, as_picture, resize

SIDES = st.integers(1, 90)


def noise(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def arithmetic(*shape):
    """uint8 by integers alone, whatever the version of numpy."""
    return ((np.arange(np.prod(shape), dtype=np.uint64) * 2654435761 >> 13) & 255).astype(np.uint8).reshape(shape)


def test_a_picture_is_returned_as_it_is():
    x = noise(5, 7)
    assert np.shares_memory(as_picture(x), x) and np.array_equal(as_picture(x), x)
    turned = x[::-1, ::-1]
    assert np.array_equal(as_picture(turned), turned) and as_picture(turned).flags.c_contiguous


def test_grey_is_repeated():
    grey = noise(4, 6)[:, :, 0]
    for x in (grey, grey[:, :, None]):
        assert np.array_equal(as_picture(x), np.stack([grey] * 3, axis=2))


def test_floats_hit_every_code_and_round_ties_up():
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for dtype in (np.float32, np.float64):
        assert np.array_equal(as_picture((codes / 255).astype(dtype))[:, :, 0], codes)
    assert as_picture(np.array([[0.5 / 255, 254.5 / 255, 0.49 / 255]]))[0, :, 0].tolist() == [1, 255, 0]


def test_rgba_lies_over_white():
    x = np.zeros((1, 4, 4), np.uint8)
    x[0, :, 0], x[0, :, 3] = 200, (255, 0, 128, 255)
    assert as_picture(x)[0].tolist() == [
        [200, 0, 0],
        [255, 255, 255],
        [round((200 * 128 + 255 * 127) / 255), 127, 127],
        [200, 0, 0],
    ]


@pytest.mark.parametrize(
    "img, error, words",
    [
        ([[1, 2], [3, 4]], TypeError, "list"),
        (None, TypeError, "NoneType"),
        (Image.new("RGB", (3, 3)), TypeError, "PIL"),
        (np.zeros((4, 4, 3), np.uint16), TypeError, "uint16"),
        (np.zeros((4, 4, 3), bool), TypeError, "bool"),
        (np.array([["a"]]), TypeError, "<U1"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"\[4, 4, 2\]"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, "transpose"),
        (np.zeros((1, 8, 8, 3), np.uint8), ValueError, "one by one"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "one pixel"),
        (np.zeros(5, np.uint8), ValueError, r"\[5\]"),
        (np.full((2, 2, 3), 255.0), ValueError, "divide"),
        (np.full((2, 2, 3), -0.1), ValueError, "-0.1"),
        (np.full((2, 2, 3), np.nan), ValueError, "nan"),
    ],
)
def test_anything_else_is_refused(img, error, words):
    with pytest.raises(error, match=words):
        as_picture(img)


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.float32, np.float64, bool, complex, object]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_any_array_becomes_a_picture_or_a_clear_error(x):
    try:
        out = as_picture(x)
    except (TypeError, ValueError) as error:
        assert "expected" in str(error) and "got" in str(error)
    else:
        assert out.dtype == np.uint8 and out.shape == (*x.shape[:2], 3) and out.flags.c_contiguous


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32), st.booleans())
def test_resize_is_pillows_bilinear_to_one_code(h, w, new_h, new_w, seed, extreme):
    x = noise(h, w, seed)
    x = np.where(x < 128, 0, 255).astype(np.uint8) if extreme else x
    expected = np.asarray(Image.fromarray(x).resize((new_w, new_h), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize(x, (new_h, new_w)) - expected).max() <= 1


@given(st.integers(1, 3000), st.integers(1, 300))
@settings(deadline=None, max_examples=50)
def test_weights_are_whole_and_inside(n, length):
    for first, weights in _weights(n, length):
        assert weights.sum() == UNIT and weights.min() >= 0 and 0 <= first <= first + len(weights) <= n


@pytest.mark.parametrize("size", [(1, 1), (9, 31), (32, 32), (200, 3)])
@pytest.mark.parametrize("code", [0, 1, 254, 255])
def test_a_plain_picture_stays_plain(size, code):
    assert (resize(np.full((41, 77, 3), code, np.uint8), size) == code).all()


def test_resize_is_exact_integer_arithmetic():
    """The floats inside hold integers: Python's own integers give the same bytes."""
    x = noise(23, 50, 3)
    rows, columns = _weights(23, 8), _weights(50, 9)
    small = resize(x, (8, 9))
    for i, (top, wy) in enumerate(rows):
        for j, (left, wx) in enumerate(columns):
            for c in range(3):
                total = sum(
                    int(wy[p]) * int(wx[q]) * int(x[top + p, left + q, c])
                    for p in range(len(wy))
                    for q in range(len(wx))
                )
                assert small[i, j, c] == (total + UNIT * UNIT // 2) // (UNIT * UNIT)


def test_resize_is_the_same_on_every_machine():
    x = arithmetic(480, 640, 3)
    digest = hashlib.sha256(b"".join(resize(x, size).tobytes() for size in ((32, 32), (9, 700), (500, 1)))).hexdigest()
    assert digest[:16] == "c7ec8501cee166d2"


def test_same_size_is_the_picture_itself_and_bad_sizes_are_refused():
    x = noise(6, 8)
    assert resize(x, (6, 8)) is x
    with pytest.raises(ValueError, match="at least"):
        resize(x, (0, 8))
    with pytest.raises(ValueError, match="as_picture"):
        resize(x.astype(np.float32), (3, 3))


def test_a_long_white_picture_stays_white():
    """Sums of distances times 65,536 leave int64 from 16,777,153 pixels on."""
    assert (resize(np.broadcast_to(np.uint8(255), (17_000_000, 1, 3)), (8, 8)) == 255).all()


def test_shares_are_exact_where_products_leave_int64():
    rng = np.random.default_rng(0)
    total = np.cumsum(rng.integers(0, 1 << 54, 30))
    expected = [(2 * int(t) * UNIT + int(total[-1])) // (2 * int(total[-1])) for t in total]
    assert _shares(total).tolist() == expected


@pytest.mark.parametrize("shape", [(1, 1_000_000, 3), (1_000_000, 1, 3)])
def test_resizing_takes_little_more_than_the_picture(shape):
    x = np.zeros(shape, np.uint8)
    tracemalloc.start()
    resize(x, (32, 32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * x.nbytes


@settings(deadline=None, max_examples=50)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32))
def test_the_order_of_the_axes_changes_no_byte(h, w, new_h, new_w, seed):
    x = noise(h, w, seed)
    expected = resize(x, (new_h, new_w))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_BAND", 7)  # nothing is small
        np.testing.assert_array_equal(resize(x, (new_h, new_w)), expected)
    turned = resize(np.ascontiguousarray(x.transpose(1, 0, 2)), (new_w, new_h))
    np.testing.assert_array_equal(turned.transpose(1, 0, 2), expected)
