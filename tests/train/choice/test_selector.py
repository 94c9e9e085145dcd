"""The selector: fixed point equals Python's integers, never overflows, and is refused where it is not sound."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.choice.quality import NAMES, D
from runtime.choice.selector import MAX_LAMBDA, NEVER, ONE, Z_MAX, Selector, SelectorError, decide
from tests.support.families import three_kinds
from train.choice.selector import train_selector


@pytest.fixture(scope="module")
def trained():
    """A trained selector's JSON object."""
    return train_selector(three_kinds(), seed=1).to_dict()


def power(octaves):
    """floor(2**(16 + octaves / 256)) of -24 * 256..0, by bisection: the whole octaves are a shift to the right."""
    down, part = -(octaves // 256), octaves % 256
    low, high = 1 << 16, 1 << 17
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**256 <= 1 << 4096 + part else (low, middle)
    return low >> down


def by_hand(d, f, lam):
    """The definition in Python's integers: no numpy, no overflow."""
    z = [
        max(-Z_MAX, min(Z_MAX, ((int(v) - o) * m) >> s))
        for v, o, m, s in zip(f, d["offset"], d["multiplier"], d["shift"], strict=True)
    ]

    def rows(weight, x):
        return [sum(a * b for a, b in zip(row, x, strict=True)) for row in weight]

    def layer(name, x):
        sums = zip(rows(d[f"{name}_weight"], x), d[f"{name}_bias"], strict=True)
        return [(v + b) >> d[f"{name}_shift"] for v, b in sums]

    hidden = [max(0, v) for v in layer("hidden", z)]
    score = layer("output", hidden)
    likely = [power(max(v - max(score), -24 * 256)) for v in score]
    accuracy = [v // sum(likely) for v in rows(zip(*d["group_accuracy"], strict=True), likely)]
    distances = []
    for weight, offset in zip(d["group_weight"], d["group_offset"], strict=True):
        u = [(v - o) >> 10 for v, o in zip(rows(zip(*weight, strict=True), z), offset, strict=True)]
        distances.append(sum(v * v for v in u))
    accuracy = [
        alike if min(distances) > most else own
        for own, alike, most in zip(accuracy, d["fallback"], d["threshold"], strict=True)
    ]
    values = [(a << 16) - round(lam * ONE) * c for a, c in zip(accuracy, d["costs"], strict=True)]
    return accuracy, min(distances), max(range(len(values)), key=lambda k: (values[k], -d["costs"][k], -k))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(0, 8000), min_size=D, max_size=D),
    st.sampled_from([0, 1e-5, 0.01, 0.5, 3, MAX_LAMBDA]),
)
def test_selector_equals_pythons_integers(trained, f, lam):
    selector, features = Selector.from_dict(trained), np.array([f], np.int32)
    accuracy, distance2, variant = by_hand(trained, f, lam)
    assert selector.predict(features)[0].tolist() == accuracy
    assert selector.distance2(features)[0] == distance2
    assert selector.choose(features, lam)[0] == variant


def test_pictures_of_every_kind_equal_pythons_integers_in_a_batch(trained):
    selector, features = Selector.from_dict(trained), three_kinds(300, seed=5).features
    chosen = selector.choose(features, 0.05)
    assert chosen.dtype == np.int64 and set(chosen) == {0, 1, 2}
    assert chosen.tolist() == [by_hand(trained, f, 0.05)[2] for f in features]


def test_every_variant_falls_back_beyond_its_own_threshold(trained):
    features = three_kinds(300, seed=6).features
    distance2 = Selector.from_dict(trained).distance2(features)
    threshold = np.quantile(distance2, [0.2, 0.9, 0.5], method="higher").tolist()
    d = {**trained, "threshold": threshold}
    selector, near = Selector.from_dict(d), Selector.from_dict({**trained, "threshold": [(1 << 62) - 1] * 3})
    expected = np.where(distance2[:, None] > threshold, trained["fallback"], near.predict(features))
    assert np.array_equal(selector.predict(features), expected)
    assert [by_hand(d, f, 0.05)[::2] for f in features[:60]] == list(
        zip(expected[:60].tolist(), selector.choose(features[:60], 0.05).tolist(), strict=True)
    )
    assert np.array_equal(selector.far(features), distance2 > max(threshold))


def extreme(rng):
    """A sound selector with integers near their limits, to provoke an overflow if the proof were wrong."""
    h, k, g = (int(v) for v in rng.integers(1, 5, 3))

    def signs(*shape, bits):
        return (rng.choice([-1, 1], shape) * ((1 << bits) - 1)).tolist()

    return {
        "format": 3,
        "features": list(NAMES),
        "offset": signs(D, bits=31),
        "multiplier": [(1 << 30) - 1] * D,
        "shift": [0] * D,
        "hidden_weight": signs(h, D, bits=44),
        "hidden_bias": signs(h, bits=60),
        "hidden_shift": 40,
        "output_weight": signs(g, h, bits=37),
        "output_bias": signs(g, bits=60),
        "output_shift": 0,
        "group_accuracy": rng.integers(0, ONE + 1, (g, k)).tolist(),
        "group_weight": signs(g, D, D, bits=21),
        "group_offset": signs(g, D, bits=38),
        "threshold": [(1 << 62) - 1] * k,
        "fallback": [ONE] * k,
        "costs": [256 * ONE] * k,
    }


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_nothing_overflows_at_the_limits(seed):
    rng = np.random.default_rng(seed)
    d = extreme(rng)
    selector = Selector.from_dict(d)
    f = rng.choice([-(1 << 31), (1 << 31) - 1], D)
    accuracy, distance2, variant = by_hand(d, f, MAX_LAMBDA)
    features = f.astype(np.int32)[None]
    assert selector.predict(features)[0].tolist() == accuracy and selector.distance2(features)[0] == distance2
    assert selector.choose(features, MAX_LAMBDA)[0] == variant


@pytest.mark.parametrize("name, bits", [("hidden_weight", 50), ("output_weight", 45), ("group_weight", 30)])
def test_what_could_overflow_is_refused(trained, name, bits):
    d = copy.deepcopy(trained)
    part = d[name]
    while isinstance(part[0], list):
        part = part[0]
    part[0] = 1 << bits
    with pytest.raises(SelectorError, match=f"{name}.*overflow"):
        Selector.from_dict(d)


def test_json_round_trip(trained):
    selector = Selector.from_dict(json.loads(json.dumps(trained)))
    assert selector.to_dict() == trained and selector.variants == 3


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32),
    st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
    st.sampled_from([0, 1e-5, 0.5, 3, MAX_LAMBDA]),
)
def test_far_pictures_get_a_variant_for_all_whatever_the_cost(trained, seed, shared, lam):
    rng = np.random.default_rng(seed)
    fallback = np.where(shared, rng.integers(0, ONE + 1, 3), NEVER)
    d = {**trained, "fallback": fallback.tolist(), "costs": rng.integers(0, 256 * ONE + 1, 3).tolist()}
    odd = np.array([[9000] + [0] * (D - 1)], np.int32)
    assert Selector.from_dict(d).far(odd).all() and shared[Selector.from_dict(d).choose(odd, lam)[0]]


def test_a_fallback_to_nothing_is_refused(trained):
    for fallback in ([NEVER] * 3, [0, 1, -1]):
        with pytest.raises(SelectorError, match="fallback"):
            Selector.from_dict({**trained, "fallback": fallback})


def test_equal_values_go_to_the_cheaper():
    accuracy = np.array([[5, 5, 5], [5, 6, 6]], np.int64)
    assert decide(accuracy, np.array([30, 20, 10]), 0).tolist() == [2, 2]
    assert decide(accuracy, np.array([10, 20, 20]), 0).tolist() == [0, 1]


@pytest.mark.parametrize("lam", [-1, float("nan"), float("inf"), MAX_LAMBDA * 2])
def test_a_lambda_out_of_range_is_refused(lam):
    with pytest.raises(ValueError, match="lambda"):
        decide(np.zeros((1, 2), np.int64), np.array([1, 2]), lam)


def test_features_of_another_kind_are_refused(trained):
    for f in (np.zeros((2, D)), np.zeros((2, D), np.int64), np.zeros(D, np.int32), [[0] * D]):
        with pytest.raises(ValueError, match="expected features"):
            Selector.from_dict(trained).predict(f)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_selector_is_refused_or_sound(trained, data):
    d = copy.deepcopy(trained)
    part, place = d, data.draw(st.sampled_from([*sorted(d), "new"]))
    while place != "new" and isinstance(part[place], list) and data.draw(st.booleans()):
        part = part[place]
        place = data.draw(st.integers(0, len(part) - 1))
    if place == "new" or data.draw(st.booleans()):
        part[place] = data.draw(JUNK)
    else:
        del part[place]
    try:
        selector = Selector.from_dict(d)
    except SelectorError as error:
        assert "expected" in str(error) or "overflow" in str(error) or "fields" in str(error)
    else:
        assert selector.choose(three_kinds(5).features, 0.1).shape == (5,)


@pytest.mark.parametrize("d", [None, [], {}, "x", {"format": 1}, {"format": 3, "features": ["noise"]}])
def test_what_is_no_selector_is_refused(d):
    with pytest.raises(SelectorError, match="expected"):
        Selector.from_dict(d)
