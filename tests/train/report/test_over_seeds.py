"""Several runs of different seeds: means, standard errors, and Student's interval, in a table for a terminal."""

import pytest

from tests.support.reports import invented_run, static_run
from train.report.__main__ import report

pytestmark = pytest.mark.slow


def row_of(lines: list[str], arm: str) -> list[str]:
    """The cells of an arm's first row."""
    return next(line for line in lines if line.startswith(arm)).split("  ")


def test_several_seeds(tmp_path, capsys):
    folders = [invented_run(tmp_path / f"{seed}", seed, gain) for seed, gain in ((1, 0.01), (2, 0.02), (3, 0.03))]
    report(folders)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Mean over 3 seeds") and max(map(len, lines)) <= 80
    cells = [cell.strip() for cell in row_of(lines, "private") if cell]
    # 2 points on average; standard error 1 / sqrt(3), and Student's quantile for 2 degrees of freedom is 4.303
    assert cells[1:4] == ["0.300 ± 0.000", "82.00 ± 0.58", "+2.00 ± 0.58"] and cells[5] == "not better"
    assert cells[4] == f"[{2 - 4.303 / 3**0.5:.2f}, {2 + 4.303 / 3**0.5:.2f}]"
    report([invented_run(tmp_path / "4", 4), invented_run(tmp_path / "5", 5)])
    cells = [cell.strip() for cell in row_of(capsys.readouterr().out.splitlines(), "private") if cell]
    assert cells[1:4] == ["0.300 ± 0.000", "81.00 ± 0.00", "+1.00 ± 0.00"] and cells[5] == "better"


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first = invented_run(tmp_path / "1", 1)
    begun = [invented_run(tmp_path / f"begun-{seed}", seed, start=f"shared-{seed}") for seed in (7, 8)]
    report(begun)  # each from a run of its own seed
    with pytest.raises(ValueError, match="start differ"):
        report([begun[0], first])
    for other, words in (
        (first, "different seeds"),
        (invented_run(tmp_path / "6", 6, epochs=4), "epochs differ"),
        (tmp_path / "none", "expected a finished run"),
    ):
        with pytest.raises(ValueError, match=words):
            report([first, other])


def test_several_seeds_beside_the_static_variants_of_others(tmp_path, capsys):
    folders = [invented_run(tmp_path / f"{seed}", seed, gain) for seed, gain in ((1, 0.01), (2, 0.02), (3, 0.03))]
    rivals = [static_run(tmp_path / f"static-{seed}", seed, 0.805) for seed in (3, 1, 2)]
    report(folders, rivals)
    lines = capsys.readouterr().out.splitlines()
    assert "are those of a run and of 1 more of its seed" in " ".join(lines)
    cells = [cell.strip() for cell in row_of(lines, "private") if cell]
    assert cells[1:4] == ["0.300 ± 0.000", "82.00 ± 0.58", "+1.50 ± 0.58"]
    for some in (rivals[:2], [*rivals, static_run(tmp_path / "static-4", 4, 0.805)]):
        with pytest.raises(ValueError, match=r"--static: expected as many runs for each of the seeds \[1, 2, 3\]"):
            report(folders, some)
    with pytest.raises(ValueError, match="--static: expected runs of different names"):
        report(folders, rivals + rivals)
