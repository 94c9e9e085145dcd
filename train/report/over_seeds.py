"""Compares several runs that differ in their seed alone: what their arms gain, with the noise of training anew."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from compile.source.run_folder import RunRecord, read_run
from train.evidence.evidence import Evidence
from train.evidence.results import Arm
from train.report.bootstrap import LEVEL, Estimate
from train.report.compare import Comparison, arm_named, compare
from train.report.does_it_pay import IDEAS
from train.report.run_files import unit_of_cost

WIDTH = 80  # columns of a terminal
SHOWN = ("static", *IDEAS, "random", "shuffled", "oracle")
VERDICTS = {1: "better", 0: "not better", -1: "worse"}


def over_seeds(folders: Sequence[Path], others: Sequence[Path] = ()) -> list[str]:
    """Returns the lines of a table a panel: for each arm the mean over runs of its gain, and whether it is better.

    others: folders of runs whose static variants count beside those of the run of the same seed; as many for each.
    Raises ValueError for fewer than two runs, and for runs that differ in more than the seed or do not differ in it.
    """
    if len(folders) < 2:
        raise ValueError(f"expected at least two runs of different seeds, got {len(folders)}")
    rivals = _by_seed(_seeds(folders), others)
    runs = [
        compare(Evidence.read(folder), read_rivals(folder, group))
        for folder, group in zip(folders, rivals, strict=True)
    ]
    lines = textwrap.wrap(_introduction(len(folders), len(rivals[0])), WIDTH)
    for panel in runs[0]:
        lines += ["", panel, _line("arm", "cost", "accuracy, %", "gain, points", "interval", "verdict")]
        comparisons = [run[panel] for run in runs]
        for name in SHOWN:
            arms = [arm for c in comparisons if (arm := arm_named(c.accuracy, name)) is not None]
            if len(arms) == len(runs):
                lines.append(_row(name, comparisons, arms))
    return lines


def read_rivals(run: Path, others: Sequence[Path]) -> dict[str, Evidence]:
    """Reads the evidence of the other runs by name, which are held beside `run`.

    Raises ValueError for two of one name, and for costs that are of another kind than the run's.
    """
    for folder in others:
        if _network_and_cost(read_run(folder)) != _network_and_cost(read_run(run)):
            raise ValueError(
                f"--static {folder}: expected costs of the same kind and network as {run}'s, "
                f"{_network_and_cost(read_run(run))}, got {_network_and_cost(read_run(folder))}; "
                "give both the same with `python -m train.recost`"
            )
    rivals = {folder.absolute().name: Evidence.read(folder) for folder in others}
    if len(rivals) < len(others):
        raise ValueError(f"--static: expected runs of different names, got {', '.join(map(str, others))}")
    return rivals


def mean_of(values: Sequence[float]) -> Estimate:
    """Returns the mean of few independent values, its interval by Student's t, and its standard error."""
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    stderr = float(array.std(ddof=1) / len(array) ** 0.5)
    reach = float(student.ppf((1 + LEVEL) / 2, len(array) - 1)) * stderr
    return Estimate(mean, mean - reach, mean + reach, stderr)


def _introduction(runs: int, rivals: int) -> str:
    beside = f"; static variants are those of a run and of {rivals} more of its seed" if rivals else ""
    return (
        f"Mean over {runs} seeds ± standard error; gain: points over static variants at equal cost{beside}; "
        f"interval: {100 * LEVEL:.0f} % by Student's t with {runs - 1} degrees of freedom. All runs "
        "answered the same test pictures, degraded anew: each run's own intervals hold their noise."
    )


def _row(name: str, comparisons: Sequence[Comparison], arms: Sequence[Arm]) -> str:
    pairs = list(zip(comparisons, arms, strict=True))
    cost = mean_of([c.cost[arm][0] for c, arm in pairs])
    accuracy = mean_of([c.accuracy[arm][0] for c, arm in pairs]).scaled(100)
    gain = mean_of([c.gain(arm).value for c, arm in pairs])
    points = gain.scaled(100)
    return _line(
        name,
        f"{cost.value:.3f} ± {cost.stderr:.3f}",
        f"{accuracy.value:.2f} ± {accuracy.stderr:.2f}",
        f"{points.value:+.2f} ± {points.stderr:.2f}",
        f"[{points.low:.2f}, {points.high:.2f}]",
        VERDICTS[gain.verdict],
    )


def _line(arm: str, cost: str, accuracy: str, gain: str, interval: str, verdict: str) -> str:
    return f"{arm:<8}  {cost:>13}  {accuracy:>12}  {gain:>12}  {interval:>15}  {verdict}"


def _seeds(folders: Sequence[Path]) -> list[int]:
    """The runs' seeds. Raises ValueError unless the runs differ in these, and in nothing else."""
    settings = [_settings(folder) for folder in folders]
    for folder, other in zip(folders, settings, strict=True):
        names = settings[0].keys() | other.keys()
        differing = sorted(name for name in names if name != "seed" and _differ(name, settings[0], other))
        if differing:
            raise ValueError(
                f"{folder}: expected the settings of {folders[0]} but for the seed; {', '.join(differing)} differ"
            )
    seeds = [_seed(folder) for folder in folders]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"expected runs of different seeds, got {seeds}: a run twice is no second one")
    return seeds


def _settings(folder: Path) -> dict[str, Any]:
    return read_run(folder).settings


def _seed(folder: Path) -> int:
    seed = _settings(folder).get("seed")
    if type(seed) is not int:
        raise ValueError(f"{folder}: expected a finished run with a seed in its settings, got {seed!r}")
    return seed


def _network_and_cost(run: RunRecord) -> str:
    """What a run's costs are of."""
    cost = unit_of_cost(run)
    target = f" on {run.settings.get('target')}" if cost == "latency" else ""
    return f"{run.arch} by {cost}{target}"


def _differ(name: str, first: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a setting differs; runs that went on from others did so from one of their own seed each."""
    if name == "start":
        return bool(first.get(name)) != bool(other.get(name))
    return first.get(name) != other.get(name)


def _by_seed(seeds: Sequence[int], others: Sequence[Path]) -> list[list[Path]]:
    """For each seed those of the other runs that have it. Raises ValueError unless each has as many."""
    own_seeds = [_seed(folder) for folder in others]
    groups = [[folder for folder, own in zip(others, own_seeds, strict=True) if own == seed] for seed in seeds]
    if len({len(group) for group in groups}) > 1 or sum(map(len, groups)) < len(others):
        raise ValueError(f"--static: expected as many runs for each of the seeds {list(seeds)}, got seeds {own_seeds}")
    return groups
