"""The report of a run: report.md and its pictures, from the files in its folder alone."""

import argparse
import sys
from pathlib import Path

import numpy as np

from runtime.files import replacing, write_bytes
from runtime.terminal import say
from train.choice.arms import BY_RULE
from train.evidence.evidence import NAME as OUTCOMES
from train.evidence.evidence import Evidence
from train.report import plots, run_files
from train.report.chosen_bits import STAR, chosen_bits, shares
from train.report.compare import compare, curves
from train.report.does_it_pay import TITLE, at_budgets, worth
from train.report.frontier import mix
from train.report.over_seeds import over_seeds, read_rivals
from train.report.swap_test import swap
from train.settings.command_line import given_path

HARD = 0.1  # points that soft bit planes may be better than exact ones
COSTS = {
    "bitops": "BitOPs (multiply-adds times bits of weights times bits of activations)",
    "size": "bits of storage",
    "latency": "the target's measured time",
}


def write_report(
    folder: Path, samples: dict[tuple[str, int], np.ndarray] | None = None, rivals: dict[str, Evidence] | None = None
) -> Path:
    """Writes report.md and plots/*.png into a run folder; returns the path of report.md.

    samples: (family, severity) -> one degraded picture uint8 [H, W, 3], clean being ("clean", 0); kept as
    plots/samples.npz, which is used when the report is written again. Sections whose data the run lacks are left out:
    the selector's choices need "share/VARIANT" (of the pictures) in the records of arm adaptive, intervals and what
    they decide need outcomes.npz. rivals: of other runs by name, whose shared variants count among the static ones.
    Raises ValueError where run.json or results.json is missing, a file is not as expected, or outcomes.npz is missing
    for sections that the report has already.
    """
    folder = Path(folder)
    run, records = run_files.read_run(folder)
    _check_kept(folder)
    if samples:
        _keep(folder / run_files.SAMPLES, samples)
    held_out = {r["family"] for r in records if r["heldout"]}
    private = {v["name"] for v in run["variants"] if v.get("base")}
    accuracy = {arm: a for arm, a in by_arm(records).items() if arm[0] in BY_RULE or arm[1] not in private}
    evidence = Evidence.read(folder) if (folder / OUTCOMES).is_file() else None
    compared = {} if evidence is None else compare(evidence, rivals)
    panels = {"training families": lambda f: f not in held_out}
    if held_out:
        panels["held-out families"] = lambda f: f in held_out
    points = {name: _points(records, accuracy, within) for name, within in panels.items()}
    lines = [
        f"# {run['name']}: {run['arch']} on {run['dataset']}, {run['method']}",
        "",
        *([] if compared else [*_summary(points), ""]),
        *_families(accuracy, held_out),
        "",
    ]
    if evidence is not None:
        groups = run_files.groups(folder)
        lines += [
            *worth(evidence, compared),
            *at_budgets(evidence, compared),
            *(swap(evidence, groups) if groups else []),
        ]
    lines += chosen_bits(records, held_out, evidence)
    lines_of = {name: c.line() for name, c in compared.items()}, {} if evidence is None else curves(evidence)
    for name, title, figure in _figures(folder, run, records, accuracy, held_out, points, *lines_of):
        if figure is not None:
            plots.save(figure, folder / "plots" / f"{name}.png")
            lines += [f"## {title}", "", f"![{title}](plots/{name}.png)", ""]
    lines += hardness(run_files.metrics(folder))
    lines += _notes(records, run.get("settings", {}).get("cost", "bitops"))
    write_bytes(folder / "report.md", ("\n".join(lines) + "\n").encode())
    return folder / "report.md"


def by_arm(records: list[dict]) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """(arm, variant) -> family -> severity -> accuracy in percent."""
    out = {}
    for r in records:
        family = out.setdefault((r["arm"], r["variant"]), {}).setdefault(r["family"], {})
        family[r["severity"]] = 100 * r["correct"] / r["pictures"]
    return out


def _figures(folder, run, records, accuracy, held_out, points, ladder, curve):
    few = {arm: a for arm, a in accuracy.items() if arm[0] not in BY_RULE or arm[0] in plots.IN_FAMILIES}
    yield "families", "Accuracy per family and severity", plots.families(few, held_out)
    fixed = {name: mix([p for arm, p in arms.items() if arm[0] not in BY_RULE]) for name, arms in points.items()}
    line = {name: ladder.get(name, fixed[name]) for name in fixed}
    yield "cost", "Accuracy against cost", plots.cost(points, line, curve)
    chosen = shares(records)
    yield "shares", "Variants the selector chose", plots.shares(chosen, held_out) if chosen else None
    yield "bits", "Bits of each layer", plots.bits([v for v in run["variants"] if not v.get("base")])
    found = run_files.searched(folder)
    yield "pareto", "Configurations the search saw", plots.pareto(*found) if found else None
    pictures = run_files.samples(folder)
    yield "samples", "One picture in every quality", plots.samples(pictures, held_out) if pictures else None
    yield "widths", "Bits over time", plots.widths(run_files.metrics(folder))
    yield "training", "Training", plots.training(run_files.metrics(folder))


def hardness(metrics: list[dict]) -> list[str]:
    """A section on what exact bits cost where planes were soft, from the search's last record with a "gap"."""
    last = next((r for r in reversed(metrics) if "gap" in r), None)
    if last is None:
        return []
    verdict = f"over {HARD} point: planes are not sharp enough yet, so search for longer (`--search-epochs`)"
    return [
        "## Soft and exact bits",
        "",
        f"At the search's end soft bit planes got {100 * last['accuracy/soft']:.2f} % of the held pictures, the "
        f"exact integers {100 * last['accuracy/hard']:.2f} %: {last['gap']:+.2f} points lost, "
        f"{verdict if last['gap'] > HARD else f'not over {HARD} point'}.",
        "",
    ]


def _points(records, accuracy, within) -> dict[tuple[str, str], tuple[float, float]]:
    """(arm, variant) -> mean cost and accuracy over the families within, each family counting alike."""
    out = {}
    for arm, families in accuracy.items():
        mine = [r for r in records if (r["arm"], r["variant"]) == arm and within(r["family"])]
        prices = [np.mean([r["cost"] for r in mine if r["family"] == f]) for f in families if within(f)]
        accuracies = [np.mean(list(s.values())) for f, s in families.items() if within(f)]
        out[arm] = float(np.mean(prices)), float(np.mean(accuracies))
    return out


def _summary(points) -> list[str]:
    names = list(points)
    lines = [
        "| arm | " + " | ".join(f"{n}: accuracy | cost" for n in names) + " |",
        "| --- |" + " ---: | ---: |" * len(names),
    ]
    for arm in points[names[0]]:
        cells = " | ".join(f"{points[n][arm][1]:.2f} % | {points[n][arm][0]:.3f}" for n in names)
        lines.append(f"| {_label(arm)} | {cells} |")
    return lines


def _families(accuracy, held_out) -> list[str]:
    lines = [
        f"Accuracy in percent, mean over severities;{STAR} held out, never seen in training.",
        "",
        "| family | " + " | ".join(map(_label, accuracy)) + " |",
        "| --- |" + " ---: |" * len(accuracy),
    ]
    for family in next(iter(accuracy.values())):
        cells = " | ".join(f"{np.mean(list(a[family].values())):.2f}" for a in accuracy.values())
        lines.append(f"| {family}{STAR if family in held_out else ''} | {cells} |")
    return lines


def _notes(records, cost: str) -> list[str]:
    pictures = min(r["pictures"] for r in records)
    error = 100 * 0.5 / pictures**0.5
    return [
        "## How to read this",
        "",
        f"* Every number is of {pictures} test pictures per family and severity: one point of a curve has a standard "
        f"error of up to {error:.1f} points.",
        "* All arms but float are computed in the integer arithmetic of the exported files.",
        f"* Cost is {COSTS[cost]}, relative to 8 by 8 bits.",
        "* Best static is the one variant that got most right within the budget on the pictures the selector learned "
        "from, used for every picture.",
        "* Random is the expected accuracy when variants are drawn in the selector's overall shares, whatever the "
        "picture: a selector that is not above it chooses no better than chance.",
    ]


def _label(arm: tuple[str, str]) -> str:
    return plots.styles([arm])[arm]["label"]


def _check_kept(folder: Path) -> None:
    """A report is not written again with less in it than it has."""
    report = folder / "report.md"
    if not (folder / OUTCOMES).is_file() and report.is_file() and f"## {TITLE}\n" in report.read_text(encoding="utf-8"):
        raise ValueError(
            f"{folder / OUTCOMES}: expected, not found; {report} has sections that are made of it "
            f"({TITLE}) and stays as it is: bring the file back, or delete the report to have it without"
        )


def _keep(path: Path, samples) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.savez(temporary, **{f"{family}-{severity}": picture for (family, severity), picture in samples.items()})


def main(folders: list[Path], others: list[Path] = ()) -> None:
    """One run: writes its report and prints where. Several, of different seeds: prints what they gain on average.

    others: folders of runs whose static variants count too, each beside the run of its seed.
    """
    if len(folders) == 1:
        say(str(write_report(folders[0], rivals=read_rivals(folders[0], others) if others else {})))
    else:
        say("\n".join(over_seeds(folders, others)))


def parse(arguments: list[str] | None = None) -> tuple[list[Path], list[Path]]:
    parser = argparse.ArgumentParser(prog="python -m train.report", description=sys.modules[__name__].__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=given_path,
        metavar="RUN",
        help="folder of a finished run, whose "
        "report is written; of several, equal but for their seeds: print what they gain on average",
    )
    parser.add_argument(
        "--static",
        action="append",
        type=given_path,
        metavar="RUN",
        default=[],
        help="another run of "
        "the same seed and pictures, whose static variants count too: say one with --kinds 1, which "
        "trained nothing else; may be given several times, as often for each seed",
    )
    given = parser.parse_args(arguments)
    return given.runs, given.static
