"""Escalation: what is fitted follows its data and is judged fairly; the engine runs twice exactly where it should."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import BundleError, Engine
from runtime.__main__ import main
from runtime.bundle.manifest import parse, signed
from runtime.choice.escalation import MOST, escalate, margin, parse_escalation
from runtime.fields import Fields
from targets.reference import interpreter
from tests.conftest import BITS
from tests.support.families import made
from tests.support.graphs import pictures, resnet_like
from train.choice.escalation import fit_margins, fit_up, rising
from train.choice.fit import fit_choice
from train.evidence.outcomes import Outcomes

LEVELS = (1.0, 0.3)
ENTRY = {"budget": 0.5, "lambda": 0.1, "accuracy": 0.9, "worst": 1.5, "margins": [0, 7, 0]}
GOOD = {"up": [0, 0, 2], "budgets": [ENTRY]}


@given(rows=st.lists(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_margins_by_the_definition(rows):
    expected = [sorted(row)[-1] - sorted(row)[-2] for row in rows]
    assert margin(np.array(rows, np.int32)).tolist() == expected
    assert margin(np.zeros((2, 1), np.int32)).tolist() == [MOST - 1] * 2


def test_only_what_is_below_its_margin_runs_again():
    ran, margins = np.array([0, 1, 1, 2, 2]), np.array([5, 6, 7, 0, 3])
    assert escalate(ran, margins, (0, 0, 1), (0, 7, 3)).tolist() == [0, 0, 1, 1, 2]


def by_trying(margins, gain):
    """The margin below which the sum of gains is largest, tried one by one; the smallest of equals."""
    return max([0, *sorted(set(margins + 1))], key=lambda below: gain[margins < below].sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lam", [0.0, 0.05, 0.3])
def test_margins_are_the_best_there_are(seed, lam):
    rng = np.random.default_rng(seed)
    margins = rng.integers(0, 40, (300, 2))
    correct = rng.random((300, 2)) < np.stack([0.3 + margins[:, 0] / 60, np.full(300, 0.8)], 1)
    seen, costs = Outcomes(np.zeros((300, 12), np.int32), correct, margins), np.array([0.25, 1.0])
    got = fit_margins(np.zeros(300, np.int64), seen, np.array([1, 1]), costs, lam)
    gain = correct[:, 1].astype(float) - correct[:, 0] - lam
    assert got[1] == 0 and gain[margins[:, 0] < got[0]].sum() == pytest.approx(
        gain[margins[:, 0] < by_trying(margins[:, 0], gain)].sum()
    )


@pytest.mark.parametrize("seed", range(4))
def test_only_a_shared_variant_follows_a_shared_one(seed):
    """Of three dearer ones the private is the best on these pictures, of which none tells how it is on others."""
    costs, private = np.array([0.2, 0.2, 0.5, 0.5]), np.array([False, True, False, True])
    correct = np.random.default_rng(seed).random((400, 4)) < (0.5, 0.5, 0.7, 0.9)
    seen = Outcomes(np.zeros((400, 12), np.int32), correct, np.tile(np.arange(400)[:, None], 4))
    accuracy = np.zeros((400, 4), np.int64)
    accuracy[:200, 0], accuracy[200:, 1] = 1 << 15, 1 << 15
    found = [
        fit_up(accuracy, seen, costs, np.rint(costs * 65536).astype(np.int64), [0.1], shared)
        for shared in (~private, np.ones(4, bool))
    ]
    assert found[0].tolist() == [2, 3, 2, 3] and found[1].tolist() == [3, 3, 2, 3]


def test_entries_that_others_beat_are_left_out():
    entries = [{"budget": b, "accuracy": a} for b, a in ((0.3, 0.5), (0.1, 0.4), (0.2, 0.6), (0.4, 0.6), (0.1, 0.3))]
    assert rising(entries) == [{"budget": 0.1, "accuracy": 0.4}, {"budget": 0.2, "accuracy": 0.6}]


@pytest.fixture(scope="module")
def fitted():
    world = made(1500, levels=LEVELS, draw=1)
    return world, fit_choice(
        world.seen,
        world.kind,
        world.costs,
        0.5,
        0,
        shared=world.shared,
        escalate=True,
        pictures=np.arange(len(world.kind)),
    )


def test_a_choice_keeps_to_what_its_table_says(fitted):
    world, choice = fitted
    table = choice.escalation["budgets"]
    budgets, accuracies = [e["budget"] for e in table], [e["accuracy"] for e in table]
    assert budgets == sorted(set(budgets)) and accuracies == sorted(set(accuracies))
    entry = [e for e in table if e["budget"] <= 0.5][-1]
    assert (choice.lam, choice.margins.tolist()) == (entry["lambda"], entry["margins"]) and any(entry["margins"])
    first, (last, cost) = choice.first(world.seen.features), choice.run(world.seen)
    twice = last != first
    assert world.shared[last[world.shared[first]]].all()
    assert 0.02 < twice.mean() < 0.9 and cost.mean() == pytest.approx(entry["budget"])
    assert entry["worst"] >= cost.max() and entry["worst"] == pytest.approx(1.3)
    np.testing.assert_array_equal(cost, world.costs[first] + twice * world.costs[last])
    assert (world.costs[last] > world.costs[first])[twice].all()
    for v in np.unique(first):
        assert (world.seen.margin[first == v, v] < choice.margins[v]).tolist() == twice[first == v].tolist()


def test_accuracy_that_the_table_says_is_that_of_other_pictures(fitted):
    """What each entry gains over the mean of all variants, on the fitted pictures and on fresh ones: 1,500 subjects
    leave about a point open, and how hard they are two more."""
    world, choice = fitted
    fresh = made(3000, levels=LEVELS, draw=2)
    for entry in choice.escalation["budgets"]:
        last, cost = replace(choice, lam=entry["lambda"], margins=np.array(entry["margins"])).run(fresh.seen)
        gain = fresh.seen.correct[np.arange(len(last)), last].mean() - fresh.seen.correct.mean()
        assert gain == pytest.approx(entry["accuracy"] - world.seen.correct.mean(), abs=0.015)
        assert cost.mean() == pytest.approx(entry["budget"], abs=0.03)


def test_escalation_beats_one_pass_at_the_same_cost(fitted):
    world, choice = fitted
    fresh = made(3000, levels=LEVELS, draw=3)
    plain = fit_choice(
        world.seen, world.kind, world.costs, 0.5, 0, shared=world.shared, pictures=np.arange(len(world.kind))
    )
    assert plain.escalation is None and plain.budgets == choice.budgets and not plain.margins.any()
    once, twice = plain.run(fresh.seen), choice.run(fresh.seen)
    rows = np.arange(len(fresh.kind))
    assert twice[1].mean() < 0.52 and once[1].mean() < 0.52
    assert fresh.seen.correct[rows, twice[0]].mean() > fresh.seen.correct[rows, once[0]].mean() + 0.005


def test_a_first_choice_that_does_not_look(fitted):
    world, _ = fitted
    choice = fit_choice(
        world.seen,
        world.kind,
        world.costs,
        0.5,
        0,
        shared=world.shared,
        by_quality=False,
        pictures=np.arange(len(world.kind)),
    )
    first = choice.first(world.seen.features)
    assert len(np.unique(first)) == 1 and world.shared[first[0]]


@given(st.data())
def test_a_damaged_escalation_is_refused_or_sound(data):
    damaged, junk = (
        copy.deepcopy(GOOD),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.lists(st.integers(-1, 3) | st.none() | st.booleans(), max_size=4)
        | st.text(max_size=3),
    )
    part = data.draw(st.sampled_from([damaged, damaged["budgets"][0]]))
    key = data.draw(st.sampled_from(sorted(part)))
    if data.draw(st.booleans()):
        part[key] = data.draw(junk)
    else:
        del part[key]
    try:
        found = parse_escalation(Fields(damaged, "manifest.json: escalation"), 3)
    except BundleError as error:
        assert "escalation" in str(error) and "expected" in str(error)
    else:
        for entry in found.budgets:
            assert len(found.up) == len(entry.margins) == 3 and entry.worst >= entry.budget
            assert all(found.up[v] != v for v, m in enumerate(entry.margins) if m)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"up": [0, 0]}, "up to be 3 whole numbers in 0..2"),
        ({"up": [0, 3, 2]}, "up to be 3"),
        ({"budgets": []}, "least 1"),
        ({"budgets": [{**ENTRY, "margins": [1, 7, 0]}]}, "margins of 0 for variants"),
        (None, None),
        ({"budgets": [{**ENTRY, "worst": 0.4}]}, "worst"),
        ({"budgets": [{**ENTRY, "margins": [0, -1, 0]}]}, "margins"),
    ],
)
def test_one_clear_error(small_bundle, change, words):
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    assert parse(json.dumps(signed(manifest)).encode()).escalation is None
    manifest |= {"escalation": {**GOOD, **(change or {})}, "selector": None if change is None else {}}
    with pytest.raises(BundleError, match=words or "a selector beside an escalation"):
        parse(json.dumps(signed(manifest)).encode())


def test_the_engine_runs_again_what_is_unsure(escalating):
    graphs = {name: resnet_like(bits, seed=2, size=16) for name, bits in BITS.items()}
    x = pictures(graphs["w4a4"], 16, 3)
    logits = {name: interpreter.run(graph, x) for name, graph in graphs.items()}
    unsure = margin(logits["w4a4"]) < np.sort(margin(logits["w4a4"]))[8]
    assert 0 < unsure.sum() < 16
    with Engine(escalating) as engine:
        assert engine.escalates == {"w4a4": "w8a8"}
        together, alone = engine.infer_batch(x), [engine.infer(p) for p in x]
        assert engine.infer(x[unsure.argmax()], variant="w4a4").variant == "w4a4"
    for found in (together, alone):
        assert [p.escalated for p in found] == unsure.tolist() and {p.first for p in found} == {"w4a4"}
        assert [p.variant for p in found] == ["w8a8" if u else "w4a4" for u in unsure]
        np.testing.assert_array_equal(
            [p.logits for p in found], np.where(unsure[:, None], logits["w8a8"], logits["w4a4"])
        )
        assert [p.index for p in found] == [int(p.logits.argmax()) for p in found]
        assert all(p.seconds > 0 for p in found)


@pytest.mark.parametrize("options", [{"escalate": False, "budget": 0.79}, {"budget": 0.89}, {"variant": "w4a4"}])
def test_the_engine_runs_once_where_it_should(escalating, options):
    with Engine(escalating, **options) as engine:
        assert engine.escalates == {}
        found = engine.infer_batch(pictures(resnet_like(BITS["w4a4"], seed=2, size=16), 16, 3))
        assert {(p.first, p.variant, p.escalated) for p in found} == {("w4a4", "w4a4", False)}


def test_the_command_line_tells(escalating, tmp_path, capsys):
    assert main(["info", str(escalating)]) == 0
    assert "unsure, then" in capsys.readouterr().out
    assert main(["bench", str(escalating), "--calls", "2", "--json", str(tmp_path / "b.json")]) == 0
    rows = {(r["step"], r["variant"]) for r in json.loads((tmp_path / "b.json").read_text())}
    assert ("both", "w4a4, w8a8") in rows
    graph = resnet_like(BITS["w4a4"], seed=2, size=16)
    x = pictures(graph, 16, 3)
    np.save(tmp_path / "unsure.npy", x[margin(interpreter.run(graph, x)).argmin()])
    capsys.readouterr()
    for words, titles in (([], ["variant", "first"]), (["--no-escalate"], ["variant", "ms"])):
        assert main(["infer", str(escalating), str(tmp_path / "unsure.npy"), *words]) == 0
        assert " ".join(titles) in " ".join(capsys.readouterr().out.split())
