"""Kinds of quality: told apart by family or found without labels, and asked for in a number that can be had."""

import json

import numpy as np
import pytest

from runtime.choice.quality import D
from train.kinds.finding import check_count, find_kinds, find_kinds_of_families
from train.kinds.kinds import Kinds
from train.settings.command_line import parse
from train.settings.options import SettingsError


def test_kinds_of_families_tell_families_apart_and_mild_pictures_count_as_what_they_look_like():
    chance = np.random.default_rng(0)
    centres = 1000 * np.eye(3, 12)
    family = np.repeat(np.arange(3), 400)
    quality = (centres[family] + chance.normal(0, 50, (1200, 12))).astype(np.int32)
    quality[family == 2] = np.where(chance.random((400, 1)) < 0.3, quality[family == 0], quality[family == 2])
    kinds = find_kinds_of_families(quality, family)
    classified = kinds.classify_standardized(kinds.standardize(quality))
    looks = np.linalg.norm(quality[:, None] - centres, axis=-1).argmin(1)
    assert len(kinds) == 3 and (classified == looks)[family < 2].mean() > 0.99
    assert np.isclose(kinds.shares, 1 / 3).all()
    again = kinds.from_dict(kinds.to_dict())
    assert np.array_equal(again.classify_standardized(again.standardize(quality)), classified)


@pytest.mark.parametrize("taken", [0.2, 0.45, 0.6, 1.0])
def test_a_family_that_mostly_looks_like_another_is_one_kind_with_it(taken):
    chance = np.random.default_rng(0)
    centres = 1000 * np.eye(4, 12)
    family = np.repeat([2, 3, 5, 7], 500)  # numbers may have gaps
    looks = np.repeat(np.arange(4), 500)
    looks[(family == 7) & (chance.random(2000) < taken)] = 1
    quality = (centres[looks] + chance.normal(0, 50, (2000, 12))).astype(np.int32)
    kinds = find_kinds_of_families(quality, family)
    classified = kinds.classify_standardized(kinds.standardize(quality))
    assert len(kinds) == (3 if taken > 0.4 else 4) and np.isclose(kinds.shares.sum(), 1)
    first = [int(np.bincount(classified[family == f]).argmax()) for f in (2, 3, 5, 7)]
    assert (first[1] == first[3]) == (taken > 0.4) and len(set(first[:3])) == 3


def test_families_that_all_look_alike_are_one_kind():
    quality = np.random.default_rng(0).normal(0, 100, (900, 12)).astype(np.int32)
    kinds = find_kinds_of_families(np.tile(quality, (3, 1)), np.repeat(np.arange(3), 900))
    assert len(kinds) == 1 and kinds.shares.tolist() == [1]


@pytest.mark.parametrize("wrong", ["many", "-1", ""])
def test_bad_kinds_say_what_was_expected(wrong):
    with pytest.raises((SettingsError, SystemExit)):
        parse(["--kinds=" + wrong])


def test_kinds_are_found_and_come_back_from_their_dictionary():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2000, (3, D))
    truth = rng.integers(0, 3, 900)
    quality = (centres[truth] + rng.normal(0, 100, (900, D))).astype(np.int32)
    kinds = find_kinds(quality, rng.random(900), 0, 0)
    assert len(kinds) == 3
    again = Kinds.from_dict(json.loads(json.dumps(kinds.to_dict())))
    classified = again.classify_standardized(again.standardize(quality))
    pairs = set(zip(truth.tolist(), classified.tolist(), strict=True))
    assert len(pairs) == 3 and len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 3


def test_more_kinds_than_pictures_are_refused():
    check_count("families", 3), check_count("3", 3), check_count("0", 3)
    with pytest.raises(ValueError, match="--kinds 4: expected at most 3"):
        check_count("4", 3)
    with pytest.raises(ValueError, match="--kinds 9000: expected at most 8192"):
        check_count("9000", 10000)
