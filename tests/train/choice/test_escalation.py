"""Escalation: what is fitted follows its data and is judged fairly; the engine runs twice exactly where it should."""

import copy
import json

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
from tests.support.families import make_family
from tests.support.graphs import pictures, resnet_like
from train.choice.budgets import BudgetRow, keep_rising
from train.choice.escalation import Predictions, cascade_table, fit_margins, fit_up
from train.choice.fit import fit_choice
from train.choice.selector import train_selector
from train.choice.validation_set import ValidationSet
from train.evidence.outcomes import Outcomes

pytestmark = pytest.mark.slow

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


def validation_set(correct, margins, costs, shared) -> ValidationSet:
    """Of pictures without features, all of one kind."""
    count = len(correct)
    outcomes = Outcomes(np.zeros((count, 12), np.int32), correct, margins)
    return ValidationSet(outcomes, np.zeros(count, np.int64), np.arange(count), costs, shared)


def by_trying(margins, gain):
    """The margin below which the sum of gains is largest, tried one by one; the smallest of equals."""
    return max([0, *sorted(set(margins + 1))], key=lambda below: gain[margins < below].sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lam", [0.0, 0.05, 0.3])
def test_margins_are_the_best_there_are(seed, lam):
    rng = np.random.default_rng(seed)
    margins = rng.integers(0, 40, (300, 2))
    correct = rng.random((300, 2)) < np.stack([0.3 + margins[:, 0] / 60, np.full(300, 0.8)], 1)
    validation = validation_set(correct, margins, np.array([0.25, 1.0]), np.ones(2, bool))
    got = fit_margins(np.zeros(300, np.int64), validation, np.array([1, 1]), lam)
    gain = correct[:, 1].astype(float) - correct[:, 0] - lam
    assert got[1] == 0 and gain[margins[:, 0] < got[0]].sum() == pytest.approx(
        gain[margins[:, 0] < by_trying(margins[:, 0], gain)].sum()
    )


@pytest.mark.parametrize("seed", range(4))
def test_only_a_shared_variant_follows_a_shared_one(seed):
    """Of three dearer ones the private is the best on these pictures, of which none tells how it is on others."""
    costs, private = np.array([0.2, 0.2, 0.5, 0.5]), np.array([False, True, False, True])
    correct = np.random.default_rng(seed).random((400, 4)) < (0.5, 0.5, 0.7, 0.9)
    margins = np.tile(np.arange(400)[:, None], 4)
    accuracy = np.zeros((400, 4), np.int64)
    accuracy[:200, 0] = accuracy[200:, 1] = 1 << 15
    predictions = Predictions(accuracy, np.rint(costs * 65536).astype(np.int64), [0.1])
    up = [
        fit_up(predictions, validation_set(correct, margins, costs, shared)).tolist()
        for shared in (~private, np.ones(4, bool))
    ]
    assert up == [[2, 3, 2, 3], [3, 3, 2, 3]]


def test_a_mean_of_equal_costs_is_not_above_the_largest():
    """The mean of 60 costs of 0.27... is the next float above it; a bundle's reader would not take such a row."""
    cost = 0.2766436659227257
    assert np.full(60, cost).mean() > cost
    rng = np.random.default_rng(0)
    features = rng.integers(0, 1000, (60, 12)).astype(np.int32)
    outcomes = Outcomes(features, np.ones((60, 2), bool), np.tile(np.arange(60)[:, None], 2))
    world = ValidationSet(outcomes, np.zeros(60, np.int64), np.arange(60), np.array([cost, 1.0]), np.ones(2, bool))
    (row,) = cascade_table(train_selector(world, 0), world, 0).rows
    assert row.budget == row.worst == cost


def test_rows_that_others_beat_are_left_out():
    points = ((0.3, 0.5), (0.1, 0.4), (0.2, 0.6), (0.4, 0.6), (0.1, 0.3))
    kept = keep_rising([BudgetRow(budget, 0.0, accuracy) for budget, accuracy in points])
    assert kept == (BudgetRow(0.1, 0.0, 0.4), BudgetRow(0.2, 0.0, 0.6))


@pytest.fixture(scope="module")
def fitted():
    world = make_family(1500, levels=LEVELS, draw=1)
    return world, fit_choice(world.validation, 0.5, 0, escalate=True)


def test_a_choice_keeps_to_what_its_table_says(fitted):
    world, choice = fitted
    table = choice.cascade.rows
    budgets, accuracies = [row.budget for row in table], [row.accuracy for row in table]
    assert budgets == sorted(set(budgets)) and accuracies == sorted(set(accuracies))
    row = [row for row in table if row.budget <= 0.5][-1]
    assert (choice.lam, tuple(choice.margins)) == (row.lam, row.margins) and any(row.margins)
    first = choice.first(world.outcomes.features)
    answers = choice.run(world.outcomes)
    last, cost = answers.variant, answers.cost
    twice = last != first
    assert world.shared[last[world.shared[first]]].all()
    assert 0.02 < twice.mean() < 0.9 and cost.mean() == pytest.approx(row.budget)
    assert row.worst >= cost.max() and row.worst == pytest.approx(1.3)
    np.testing.assert_array_equal(cost, world.costs[first] + twice * world.costs[last])
    assert (world.costs[last] > world.costs[first])[twice].all()
    for v in np.unique(first):
        assert (world.outcomes.margin[first == v, v] < choice.margins[v]).tolist() == twice[first == v].tolist()


def test_accuracy_that_the_table_says_is_that_of_other_pictures(fitted):
    """What each row gains over the mean of all variants, on the fitted pictures and on fresh ones.

    1,500 subjects leave about a point open, and how hard they are two more.
    """
    world, choice = fitted
    fresh = make_family(3000, levels=LEVELS, draw=2)
    for row in choice.cascade.rows:
        answers = choice.at(row).run(fresh.outcomes)
        correct = fresh.outcomes.correct
        gain = correct[np.arange(len(correct)), answers.variant].mean() - correct.mean()
        assert gain == pytest.approx(row.accuracy - world.outcomes.correct.mean(), abs=0.015)
        assert answers.cost.mean() == pytest.approx(row.budget, abs=0.03)


def test_escalation_beats_one_pass_at_the_same_cost(fitted):
    world, choice = fitted
    fresh = make_family(3000, levels=LEVELS, draw=3)
    plain = fit_choice(world.validation, 0.5, 0)
    assert plain.cascade is None and plain.budgets == choice.budgets and not plain.margins.any()
    once, twice = plain.run(fresh.outcomes), choice.run(fresh.outcomes)
    rows = np.arange(len(fresh.kind))
    assert twice.cost.mean() < 0.52 and once.cost.mean() < 0.52
    correct = fresh.outcomes.correct
    assert correct[rows, twice.variant].mean() > correct[rows, once.variant].mean() + 0.005


def test_a_first_choice_that_does_not_look(fitted):
    world, _ = fitted
    choice = fit_choice(world.validation, 0.5, 0, by_quality=False)
    first = choice.first(world.outcomes.features)
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
        escalation = parse_escalation(Fields(damaged, "manifest.json: escalation"), 3)
    except BundleError as error:
        assert "escalation" in str(error) and "expected" in str(error)
    else:
        for entry in escalation.budgets:
            assert len(escalation.up) == len(entry.margins) == 3 and entry.worst >= entry.budget
            assert all(escalation.up[v] != v for v, m in enumerate(entry.margins) if m)


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
    for answers in (together, alone):
        assert [p.escalated for p in answers] == unsure.tolist() and {p.first for p in answers} == {"w4a4"}
        assert [p.variant for p in answers] == ["w8a8" if u else "w4a4" for u in unsure]
        np.testing.assert_array_equal(
            [p.logits for p in answers], np.where(unsure[:, None], logits["w8a8"], logits["w4a4"])
        )
        assert [p.index for p in answers] == [int(p.logits.argmax()) for p in answers]
        assert all(p.seconds > 0 for p in answers)


@pytest.mark.parametrize("options", [{"escalate": False, "budget": 0.79}, {"budget": 0.89}, {"variant": "w4a4"}])
def test_the_engine_runs_once_where_it_should(escalating, options):
    with Engine(escalating, **options) as engine:
        assert engine.escalates == {}
        answers = engine.infer_batch(pictures(resnet_like(BITS["w4a4"], seed=2, size=16), 16, 3))
        assert {(p.first, p.variant, p.escalated) for p in answers} == {("w4a4", "w4a4", False)}


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
