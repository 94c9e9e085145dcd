"""The table that ends a run fits a terminal of 80 columns, whatever its variants and families are called."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tests.support.reports import make_result, plain_results
from train.report.console import LONGEST, print_accuracies, shortened


def printed(results, hidden=frozenset()) -> list[str]:
    console = Console(file=io.StringIO(), width=80, markup=False)
    print_accuracies(results, console, hidden)
    return console.file.getvalue().splitlines()


def test_means_and_costs():
    lines = printed(plain_results())
    assert max(map(len, lines)) <= 80
    rows = {line[: len("mean without *") + 1].strip(): line.split()[-6:] for line in lines if line.strip()}
    assert rows["family"] == ["fp32", "w8a8", "w4a4", "w2a2", "adaptive", "random"]
    assert rows["clean"] == ["95.0", "88.0", "84.0", "82.0", "86.0", "84.2"]
    assert rows["mean without *"] == ["93.0", "84.0", "80.0", "78.0", "84.0", "82.3"]
    assert rows["mean cost"] == ["16.000", "1.000", "0.300", "0.100", "0.250", "0.250"]
    assert any(line.startswith(("pixelate *", " pixelate *")) for line in lines) and "* held out" in lines[-1]


def test_hidden_variants_have_no_column():
    assert not any("w4a4" in line for line in printed(plain_results(), {"w4a4"}))


@pytest.mark.parametrize("variants", [1, 9])
def test_long_names_are_shortened_and_many_columns_go_into_further_tables(variants):
    names = [f"{k}-{'v' * 60}-{k}" for k in range(variants)]
    results = [make_result("fixed", name, (family, 0), 50, 0.5) for name in names for family in ("f" * 60, "clean")]
    lines = printed([replace(r, heldout=r.family != "clean") for r in results])
    assert max(map(len, lines)) <= 80
    for name in names:
        assert any(shortened(name) in line for line in lines) and len(shortened(name)) == LONGEST
    assert sum("mean cost" in line for line in lines) == -(-variants // 2)
    assert sum(line.count("0.500") for line in lines) == variants  # no number is cut off
