"""Scores of classes and answers, for one logit, two and many."""

import numpy as np
import pytest

from runtime.scores import KINDS, answer, count_logits, make_scores, sigmoid


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_largest_where_the_answer_is(kind):
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = rng.integers(-300, 300, count_logits(kind, 2 if kind == "binary" else 7)).astype(np.int32)
        scores = make_scores(logits, 0.03, kind)
        assert scores.dtype == np.float32 and len(scores) == (2 if kind == "binary" else 7)
        assert scores[answer(logits, kind)] == scores.max() and (scores >= 0).all() and (scores <= 1).all()
        if kind != "sigmoid":
            assert abs(scores.sum() - 1) < 1e-6


@pytest.mark.parametrize(
    "logit, index, second", [(-10, 0, 1 / (1 + np.exp(1))), (0, 0, 0.5), (10, 1, 1 / (1 + np.exp(-1)))]
)
def test_one_logit_speaks_for_the_second_of_two_classes(logit, index, second):
    logits = np.array([logit], np.int32)
    assert answer(logits, "binary") == index
    np.testing.assert_allclose(make_scores(logits, 0.1, "binary"), [1 - second, second], rtol=1e-6)


def test_sigmoids_of_several_classes_do_not_sum_to_one():
    scores = make_scores(np.array([40, 40, -40], np.int32), 0.1, "sigmoid")
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([-4.0, -4.0, 4.0])), rtol=1e-6)


def test_sigmoid_of_values_of_any_size():
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(sigmoid(np.array([-700.0, 0.0, 700.0])).round(6), [0, 0.5, 1])


def test_counts():
    assert [count_logits(kind, 2) for kind in KINDS] == [2, 2, 1]
