"""Training a selector: it follows its data, keeps what knowing the kind would gain, and fills its table of budgets."""

from dataclasses import replace

import numpy as np
import pytest

from runtime.choice.budgets import entry_for
from runtime.choice.quality import D
from runtime.choice.selector import ONE, Selector
from tests.support.families import make_family, three_kinds
from train.choice.budgets import budget_table, row_within
from train.choice.selector import train_selector

pytestmark = pytest.mark.slow

ALL = np.ones(3, bool)


@pytest.fixture(scope="module")
def trained() -> Selector:
    return train_selector(three_kinds(), seed=1)


def test_training_is_repeatable(trained):
    assert train_selector(three_kinds(), seed=1).to_dict() == trained.to_dict()


def test_it_learns_what_its_data_says_and_no_more(trained):
    validation = three_kinds(3000, seed=7)
    chosen = trained.choose(validation.features, 0)
    near = ~trained.far(validation.features)
    assert (chosen == validation.kinds)[near].mean() > 0.97
    same = np.repeat((np.random.default_rng(0).random((3000, 1)) < 0.8).astype(np.uint8), 3, axis=1)
    selector = train_selector(replace(validation, outcomes=replace(validation.outcomes, correct=same)), seed=0)
    # equal variants: the cheapest, for any quality
    assert (selector.choose(validation.features, 1e-3 / 0.2) == 2).mean() > 0.9


def test_far_pictures_get_the_best_variant_on_average(trained):
    validation = three_kinds()
    assert abs(trained.far(validation.features).mean() - 0.05) < 0.002
    odd = np.tile(np.array([[9000] + [0] * (D - 1)], np.int32), (3, 1))
    assert trained.far(odd).all()
    mean = validation.correct.mean(0)
    assert (trained.predict(odd) == np.rint(mean * ONE).astype(int)).all()
    assert (trained.choose(odd, 0) == mean.argmax()).all()
    assert (trained.choose(odd, 1000) == 2).all()


@pytest.mark.parametrize("world", [1, 4])
def test_what_knowing_the_kind_would_gain_is_kept(world):
    """Gains of 1 point among 24 variants, from 35,000 pictures; a regression of right and wrong kept a third."""
    seen, fresh = make_family(5000, draw=1, world=world), make_family(2000, draw=2, world=world)
    odd = [make_family(2000, kinds=[kind], draw=3, world=world) for kind in range(7, 12)]
    selector = train_selector(seen.validation, seed=0)
    for lam in (0, 0.02, 0.1):
        assert fresh.gained(selector.choose(fresh.outcomes.features, lam), lam) > 0.7
        lost = [unseen.lost(selector.choose(unseen.outcomes.features, lam)) for unseen in odd]
        far = []
        for unseen in (far_ones(family, selector) for family in odd):
            features = unseen.outcomes.features
            far.append(unseen.lost(selector.choose(features[selector.far(features)], lam)))
        assert far == [0] * 5 and np.mean(lost) < 0.005 and max(lost) < 0.015


def far_ones(unseen, selector):
    """Those of the pictures that look like nothing seen."""
    far = selector.far(unseen.outcomes.features)
    return replace(unseen, outcomes=unseen.outcomes.of_pictures(far), chance=unseen.chance[far])


def test_budget_table(trained):
    validation = three_kinds()
    correct, costs = validation.correct, validation.costs
    table = budget_table(trained, validation)
    budgets, accuracies = [row.budget for row in table], [row.accuracy for row in table]
    assert budgets == sorted(set(budgets)) and accuracies == sorted(set(accuracies)) and len(table) >= 5
    assert budgets[0] == pytest.approx(0.1) and accuracies[0] == correct[:, 2].mean()
    assert accuracies[-1] > correct.mean(0).max() + 0.2
    for row in table:
        chosen = trained.choose(validation.features, row.lam)
        assert row.budget == costs[chosen].mean()
        assert row.accuracy == correct[np.arange(len(chosen)), chosen].mean()
        assert entry_for(table, row.budget) == row and row_within(table, row.budget) == row
    assert entry_for(table, 99) == table[-1] and row_within(table, 99) == table[-1]
    with pytest.raises(ValueError, match="budget 0.01"):
        entry_for(table, 0.01)
    assert row_within(table, 0.01) == table[0]


def test_variants_of_equal_cost_and_single_variants_work():
    for count in (1, 2):
        validation = three_kinds(500, costs=(0.4,) * 3).of_variants(list(range(count)))
        table = budget_table(train_selector(validation, seed=0), validation)
        assert len(table) == 1 and table[0].budget == pytest.approx(0.4)


def test_a_feature_that_never_varies_is_no_trouble():
    validation = three_kinds(500)
    validation.features[:, -1] = 1024
    assert train_selector(validation, seed=0).far(validation.features).mean() < 0.06


@pytest.mark.parametrize(
    "change",
    [
        dict(features=np.zeros((4, D))),
        dict(features=np.zeros((4, D - 1), np.int32)),
        dict(correct=np.full((4, 3), 2)),
        dict(correct=np.zeros((4, 2), np.uint8)),
        dict(kinds=np.zeros(3, np.int64)),
        dict(costs=np.array([1, -1, 0])),
        dict(shared=~ALL),
        dict(shared=ALL[:2]),
        dict(shared=np.ones(3)),
    ],
)
def test_unfit_data_is_refused(change):
    validation = three_kinds(4)
    of_outcomes = change.keys() & {"features", "correct"}
    if of_outcomes:
        unfit = replace(validation, outcomes=replace(validation.outcomes, **change))
    else:
        unfit = replace(validation, **change)
    with pytest.raises(ValueError, match="expected"):
        train_selector(unfit, seed=0)
