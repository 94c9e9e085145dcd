"""Some hundred changed bundles, each refused or right; and the fuzzer sees what would be wrong."""

import os
import signal
import time

import pytest

from tests.runtime import fuzz_bundles
from tests.runtime.bundle_changes import WAYS, make_case
from tests.runtime.fuzz_bundles import GOOD, fuzz

pytestmark = pytest.mark.slow


def test_changed_bundles_are_refused_or_right(small_bundle):
    outcomes = fuzz(small_bundle, 300, seed=0)
    assert not outcomes.wrong, "\n".join(outcomes.wrong)
    assert sum(outcomes.counts.values()) == 300 and outcomes.memory < 1000
    assert {way for way, _ in outcomes.counts} == {way.__name__ for way in WAYS}
    assert {outcome for _, outcome in outcomes.counts} == set(GOOD)


def dying(sound, seed, numbers, answers):
    """A child that is right for two cases, and ends in another way at each one after them."""
    for number in numbers:
        answers.send((number, "", ""))
        if number == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 3:
            time.sleep(60)
        answers.send((number, "way", "unclear: words" if number == 4 else GOOD[0]))
    answers.send((-1, "", "77"))


def test_signals_waits_and_other_errors_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_bundles, "work", dying)
    monkeypatch.setattr(fuzz_bundles, "PATIENCE", 20)
    (tmp_path / "sound").mkdir()
    outcomes = fuzz(tmp_path / "sound", 6, seed=5)
    assert outcomes.counts == {("way", GOOD[0]): 3, ("way", "WRONG"): 1, ("", "WRONG"): 2} and outcomes.memory == 77
    assert outcomes.wrong == [
        f"case 2 of seed 5: exit code -{signal.SIGSEGV.value}",
        "case 3 of seed 5: no answer within 20 s",
        "case 4 of seed 5, way: unclear: words",
    ]


@pytest.mark.parametrize("way", sorted({way.__name__ for way in WAYS}))
def test_a_case_is_a_function_of_its_seed(small_bundle, tmp_path, way):
    number = next(n for n in range(200) if make_case(small_bundle, fresh(tmp_path / f"{n}"), 3, n)[0] == way)
    make_case(small_bundle, fresh(tmp_path / "again"), 3, number)
    assert contents(tmp_path / "again") == contents(tmp_path / str(number))


def fresh(folder):
    folder.mkdir()
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
