"""Several runs that differ in their seed alone: what their arms gain, with the noise of training another time."""

import json
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from train.bootstrap import LEVEL, Estimate
from train.compare import Arm, Comparison, arms_of, compare
from train.evidence import Evidence
from train.worth import IDEAS, against

CONTROLS = ("random", "shuffled", "oracle")


def over_seeds(folders: list[Path]) -> list[str]:
    """Lines of a table: for each arm and panel the mean over runs of its gain, standard error, and what that says.

    Raises ValueError for fewer than two runs, and for runs that differ in more than the seed or do not differ in it.
    """
    if len(folders) < 2:
        raise ValueError(f"expected at least two runs of different seeds, got {len(folders)}")
    _check(folders)
    runs = [compare(Evidence.read(folder)) for folder in folders]
    lines = [f"Mean over {len(folders)} seeds ± standard error, in points, over static variants at equal cost; in "
             f"brackets {100 * LEVEL:.0f} % by Student's t with {len(folders) - 1} degrees of freedom. All runs "
             "answered the same test pictures, degraded anew: each run's own intervals hold their noise.", ""]
    for panel in runs[0]:
        lines += [f"| {panel} | cost | accuracy | gain | |", "| --- | ---: | ---: | ---: | --- |"]
        for name in ("static", *IDEAS, *CONTROLS):
            arms = [arms_of(run[panel].accuracy, name) for run in runs]
            if all(arms):
                lines.append(_row(name, [(run[panel], arm) for run, arm in zip(runs, arms, strict=True)]))
        lines.append("")
    return lines


def mean_of(values) -> Estimate:
    """Of few independent values: their mean, Student's interval, and standard error."""
    values = np.asarray(values, np.float64)
    mean, stderr = float(values.mean()), float(values.std(ddof=1) / len(values)**0.5)
    reach = float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * stderr
    return Estimate(mean, mean - reach, mean + reach, stderr)


def _row(name: str, runs: list[tuple[Comparison, Arm]]) -> str:
    cost, accuracy = (mean_of([part[arm][0] for part, arm in pairs]) for pairs in
                      ([(c.cost, arm) for c, arm in runs], [(c.accuracy, arm) for c, arm in runs]))
    gain = mean_of([c.gain(arm).value for c, arm in runs])
    right, more = accuracy.scaled(100), gain.scaled(100)
    said = against(gain, "static variants at equal cost")
    return (f"| {name} | {cost.value:.3f} ± {cost.stderr:.3f} | {right.value:.2f} ± {right.stderr:.2f} % | "
            f"{more.value:+.2f} ± {more.stderr:.2f} | {said} |")


def _check(folders: list[Path]) -> None:
    settings = []
    for folder in folders:
        try:
            settings.append(dict(json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))["settings"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: expected a finished run with its settings ({error!r})") from error
    first = {**settings[0], "seed": None}
    for folder, other in zip(folders, settings, strict=True):
        differ = sorted(k for k in first.keys() | other.keys() if k != "seed" and first.get(k) != other.get(k))
        if differ:
            raise ValueError(f"{folder}: expected the settings of {folders[0]} but for the seed; {', '.join(differ)} "
                             "differ")
    seeds = [s.get("seed") for s in settings]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"expected runs of different seeds, got {seeds}: a run twice is no second one")
