"""Several runs that differ in their seed alone: what their arms gain, with the noise of training another time."""

import json
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from train.evidence.evidence import Evidence
from train.report.bootstrap import LEVEL, Estimate
from train.report.compare import Arm, Comparison, arms_of, compare
from train.report.does_it_pay import IDEAS, against

CONTROLS = ("random", "shuffled", "oracle")


def over_seeds(folders: list[Path], others: list[Path] = ()) -> list[str]:
    """Lines of a table: for each arm and panel the mean over runs of its gain, standard error, and what that says.

    others: folders of runs whose static variants count beside those of the run of the same seed; as many for each.
    Raises ValueError for fewer than two runs, and for runs that differ in more than the seed or do not differ in it.
    """
    if len(folders) < 2:
        raise ValueError(f"expected at least two runs of different seeds, got {len(folders)}")
    rivals = _shared_out(_check(folders), others)
    runs = [
        compare(Evidence.read(folder), read_rivals(folder, theirs))
        for folder, theirs in zip(folders, rivals, strict=True)
    ]
    beside = f"; static variants are those of a run and of {len(rivals[0])} more of its seed" if others else ""
    lines = [
        f"Mean over {len(folders)} seeds ± standard error, in points, over static variants at equal cost{beside}; "
        f"in brackets {100 * LEVEL:.0f} % by Student's t with {len(folders) - 1} degrees of freedom. All runs "
        "answered the same test pictures, degraded anew: each run's own intervals hold their noise.",
        "",
    ]
    for panel in runs[0]:
        lines += [f"| {panel} | cost | accuracy | gain | |", "| --- | ---: | ---: | ---: | --- |"]
        for name in ("static", *IDEAS, *CONTROLS):
            arms = [arms_of(run[panel].accuracy, name) for run in runs]
            if all(arms):
                lines.append(_row(name, [(run[panel], arm) for run, arm in zip(runs, arms, strict=True)]))
        lines.append("")
    return lines


def read_rivals(run: Path, others: list[Path]) -> dict[str, Evidence]:
    """Of runs by name. Raises ValueError for two of one name, and for costs of another kind than the run's."""
    for folder in others:
        if (theirs := _unit(folder)) != (mine := _unit(run)):
            raise ValueError(
                f"--static {folder}: expected costs of the same kind and network as {run}'s, {mine}, "
                f"got {theirs}; give both the same with `python -m train.recost`"
            )
    found = {folder.absolute().name: Evidence.read(folder) for folder in others}
    if len(found) < len(others):
        raise ValueError(f"--static: expected runs of different names, got {', '.join(map(str, others))}")
    return found


def mean_of(values) -> Estimate:
    """Of few independent values: their mean, Student's interval, and standard error."""
    values = np.asarray(values, np.float64)
    mean, stderr = float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
    reach = float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * stderr
    return Estimate(mean, mean - reach, mean + reach, stderr)


def _row(name: str, runs: list[tuple[Comparison, Arm]]) -> str:
    cost, accuracy = (
        mean_of([part[arm][0] for part, arm in pairs])
        for pairs in ([(c.cost, arm) for c, arm in runs], [(c.accuracy, arm) for c, arm in runs])
    )
    gain = mean_of([c.gain(arm).value for c, arm in runs])
    right, more = accuracy.scaled(100), gain.scaled(100)
    said = against(gain, "static variants at equal cost")
    return (
        f"| {name} | {cost.value:.3f} ± {cost.stderr:.3f} | {right.value:.2f} ± {right.stderr:.2f} % | "
        f"{more.value:+.2f} ± {more.stderr:.2f} | {said} |"
    )


def _check(folders: list[Path]) -> list[int]:
    """The runs' seeds."""
    settings = [_settings(folder) for folder in folders]
    for folder, other in zip(folders, settings, strict=True):
        differ = sorted(k for k in settings[0].keys() | other.keys() if k != "seed" and _differ(k, settings[0], other))
        if differ:
            raise ValueError(
                f"{folder}: expected the settings of {folders[0]} but for the seed; {', '.join(differ)} differ"
            )
    seeds = [s.get("seed") for s in settings]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"expected runs of different seeds, got {seeds}: a run twice is no second one")
    return seeds


def _settings(folder: Path) -> dict:
    try:
        return dict(json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))["settings"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: expected a finished run with its settings ({error!r})") from error


def _unit(folder: Path) -> str:
    """What a run's costs are of."""
    settings = _settings(folder)
    cost = settings.get("cost")
    return f"{settings.get('arch')} by {cost}" + (f" on {settings.get('target')}" if cost == "latency" else "")


def _differ(key: str, first: dict, other: dict) -> bool:
    """Runs that went on from others did so from one of their own seed each, whatever its name."""
    if key == "start":
        return bool(first.get(key)) != bool(other.get(key))
    return first.get(key) != other.get(key)


def _shared_out(seeds: list[int], others: list[Path]) -> list[list[Path]]:
    """For each seed those of the other runs that have it."""
    theirs = [_settings(folder).get("seed") for folder in others]
    found = [[folder for folder, own in zip(others, theirs, strict=True) if own == seed] for seed in seeds]
    if len({len(part) for part in found}) > 1 or sum(map(len, found)) < len(others):
        raise ValueError(f"--static: expected as many runs for each of the seeds {seeds}, got seeds {theirs}")
    return found
