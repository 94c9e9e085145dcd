"""Tables of costs: shapes and bits as text, files of entries, and what they predict for layers that they lack."""

import numpy as np
import pytest

from targets import targets
from targets.costs.shapes import Shape, ShapeError, format_bits, parse_bits
from targets.costs.table import INTERPOLATED, MEASURED, Costs, CostsError, Entry, fit, load, path_of
from tests.support.layers import TEXTS, own_bits


@pytest.mark.parametrize("text", TEXTS)
def test_shape_and_text(text):
    assert str(Shape.parse(text)) == text


@pytest.mark.parametrize("text", ["conv 3x3 8x8x8 -> 8x8x8", "conv 3x3/1 8x8 -> 8x8", "", f"{TEXTS[1]} skip "])
def test_text_that_is_no_shape(text):
    with pytest.raises(ShapeError, match="expected a shape"):
        Shape.parse(text)


def test_bits_and_text():
    for pair in ((8, 8), (2, 4), (9, 8), (None, 4)):
        assert parse_bits(format_bits(*pair)) == pair
    for text in ("w10a8", "w8a9", "w4", "4", "a1"):
        with pytest.raises(ShapeError, match="expected bits"):
            parse_bits(text)


def test_work():
    assert Shape.parse(TEXTS[0]).work == 16 * 16 * 32 * 9 * 16
    assert Shape.parse(TEXTS[1]).work == 12 * 12 * 48 * 9
    assert Shape.parse(TEXTS[2]).work == 9 * 7 * 20 * 9 * 4


def test_file_is_read_as_written_and_sorted(tmp_path):
    entries = {
        Shape.parse(t): {b: Entry(k + 0.25, "rule") for b in own_bits(Shape.parse(t))}
        for k, t in enumerate(reversed(TEXTS))
    }
    costs, path = Costs("x86:avx2", "us", "a machine", "0.1.0", entries), tmp_path / "c.json"
    costs.save(path)
    first = path.read_bytes()
    assert load("x86:avx2", path) == costs
    load("x86:avx2", path).save(path)
    assert path.read_bytes() == first
    assert list(load("x86:avx2", path).entries) == sorted(entries)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "a table"),
        ("[]", "a table"),
        ('{"format": 1}', "a table"),
        ('{"format": 9, "target": "x86:avx2"}', "format 9"),
        ('{"format": 1, "target": "arm:cortex-a72"}', "arm:cortex-a72"),
    ],
)
def test_damaged_files(tmp_path, text, words):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CostsError, match=words):
        load("x86:avx2", tmp_path / "c.json")
    with pytest.raises(CostsError, match="measure one"):
        load("x86:avx2", tmp_path / "absent.json")


def linear_time(shape: Shape) -> float:
    return shape.work / 100 + shape.outputs * len(shape.borders) / 10 + 3 + 0.05 * shape.outputs * shape.skip


def some_shapes(kind="conv") -> list[Shape]:
    return [
        Shape(kind, (k, k), 1, (n, n, c), (n, n, 2 * c), 1, skip, borders)
        for k in (1, 3)
        for n in (4, 9)
        for c in (8, 24)
        for skip in (False, True)
        for borders in ((0,), (0, 1))
    ]


def test_fit_finds_the_rates():
    model = fit([(s, linear_time(s)) for s in some_shapes()])
    np.testing.assert_allclose(model.rates, [0.01, 0.1, 3, 0.05], rtol=1e-6)


def test_fit_of_few_is_never_negative():
    shapes = some_shapes()
    for count in (1, 2, 3):
        model = fit([(s, 1e3 / s.work) for s in shapes[:count]])  # less work, more time: no rate can say that
        assert (model.rates >= 0).all() and model(shapes[0]) > 0


def test_layers_not_in_the_table():
    shapes = some_shapes()
    missing, known = shapes[5], shapes[:5] + shapes[6:]
    costs = Costs(
        "t",
        "us",
        "m",
        "0",
        {s: {"w8a8": Entry(linear_time(s), "r"), "w4a4": Entry(linear_time(s) / 2, "r")} for s in known},
    )
    time, how = costs.layer(missing, "w8a8")
    assert how == INTERPOLATED and time == pytest.approx(linear_time(missing), rel=1e-6)
    assert costs.layer(known[0], "w4a4") == (linear_time(known[0]) / 2, MEASURED)
    assert costs.layer(known[0], "w3a4") == (linear_time(known[0]) / 2, INTERPOLATED)
    assert costs.layer(known[0], "w4a5")[0] == linear_time(known[0])
    with pytest.raises(CostsError, match="depthwise"):
        costs.layer(Shape.parse(TEXTS[1]), "w8a8")
    few = Costs("t", "us", "m", "0", {known[0]: {"w4a4": Entry(1.0, "r")}})
    with pytest.raises(CostsError, match="w4a8 or wider"):
        few.layer(known[0], "w4a8")


def test_shipped_tables_are_of_their_targets():
    for target in targets():
        if path_of(target.name).exists():
            assert load(target.name).entries
