"""Writes the report of a run: report.md and its pictures, from the files in its folder alone."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from compile.source.run_folder import RunRecord
from runtime.files import write_bytes
from train.choice.scores import ARMS
from train.evidence.evidence import OUTCOMES_FILE, Evidence, View
from train.evidence.metrics import read_metrics
from train.evidence.results import Arm, Point, Result
from train.report import run_files
from train.report.at_budgets import at_budgets
from train.report.chosen_bits import chosen_bits, variant_shares
from train.report.compare import HELD_OUT, TRAINED, Comparison, budget_curves, compare
from train.report.console import SHOWN
from train.report.does_it_pay import TITLE, does_it_pay
from train.report.exact_bits import exact_bits
from train.report.frontier import hull_corners
from train.report.plots.accuracy import plot_cost, plot_families
from train.report.plots.bits import plot_bits, plot_pareto, plot_shares
from train.report.plots.samples import plot_samples
from train.report.plots.style import arm_label, save
from train.report.plots.training import plot_training, plot_widths
from train.report.summary import summary, summary_without_outcomes
from train.report.swap_test import swap_test
from train.report.tables import markdown_table, with_star
from train.report.words import words

REPORT_FILE = "report.md"

ByArm = dict[Arm, dict[str, dict[int, float]]]  # arm -> family -> severity -> accuracy in percent


@dataclass(frozen=True, eq=False)
class Reported:
    """What a report is made of. results: private variants alone left out; evidence: None without outcomes.npz."""

    run: RunRecord
    results: list[Result]
    evidence: Evidence | None
    compared: dict[str, Comparison]

    @property
    def held_out(self) -> set[str]:
        """Degradation families that the run was never trained with."""
        return {r.family for r in self.results if r.heldout}

    @property
    def accuracy(self) -> ByArm:
        """Accuracy in percent of every arm on every view."""
        return accuracy_by_arm(self.results)

    def points(self) -> dict[str, dict[Arm, Point]]:
        """Returns panel -> arm -> mean cost and accuracy in percent there, each family counting alike."""
        panels: dict[str, Callable[[Result], bool]] = {TRAINED: lambda r: not r.heldout}
        if self.held_out:
            panels[HELD_OUT] = lambda r: r.heldout
        return {name: mean_points([r for r in self.results if belongs(r)]) for name, belongs in panels.items()}


def write_report(
    folder: Path, samples: Mapping[View, np.ndarray] | None = None, rivals: Mapping[str, Evidence] | None = None
) -> Path:
    """Writes report.md and plots/*.png into a run folder; returns the path of report.md.

    samples: view -> one degraded picture uint8 [H, W, 3], clean being ("clean", 0); kept for when the report is written
    again. Sections whose data the run lacks are left out. rivals: other runs by name, whose static variants count
    among the static ones. Raises ValueError where a file is missing or not as expected, and where outcomes.npz is
    missing for sections that the report has already.
    """
    folder = Path(folder)
    run, results = run_files.read_finished_run(folder)
    _check_nothing_is_lost(folder)
    if samples:
        run_files.write_samples(folder, dict(samples))
    private = {v.name for v in run.variants if v.base}
    evidence = Evidence.read(folder) if (folder / OUTCOMES_FILE).is_file() else None
    compared = {} if evidence is None else compare(evidence, rivals)
    shown = [r for r in results if r.arm in ARMS or r.variant not in private]
    reported = Reported(run, shown, evidence, compared)
    lines = [*_beginning(reported), *_sections_of_outcomes(folder, reported), *_families(reported)]
    lines += chosen_bits(results, reported.held_out, evidence)
    for name, title, figure in _figures(folder, reported):
        if figure is not None:
            save(figure, folder / "plots" / f"{name}.png")
            lines += [f"## {title}", "", f"![{title}](plots/{name}.png)", ""]
    lines += exact_bits(read_metrics(folder))
    write_bytes(folder / REPORT_FILE, ("\n".join(lines).rstrip("\n") + "\n").encode())
    return folder / REPORT_FILE


def accuracy_by_arm(results: list[Result]) -> ByArm:
    """Returns arm -> family -> severity -> accuracy in percent."""
    by_arm: ByArm = {}
    for r in results:
        by_arm.setdefault(r.key, {}).setdefault(r.family, {})[r.severity] = 100 * r.correct / r.pictures
    return by_arm


def mean_points(results: list[Result]) -> dict[Arm, Point]:
    """Returns arm -> mean cost and accuracy in percent, each family counting alike, and each severity of a family."""
    points = {}
    for arm, families in accuracy_by_arm(results).items():
        own = [r for r in results if r.key == arm]
        costs = [np.mean([r.cost for r in own if r.family == family]) for family in families]
        percents = [np.mean(list(by_severity.values())) for by_severity in families.values()]
        points[arm] = float(np.mean(costs)), float(np.mean(percents))
    return points


def _beginning(reported: Reported) -> list[str]:
    """The title, what to deploy, and the words of the report."""
    run = reported.run
    points = reported.points()
    sentences = summary(reported.compared) if reported.compared else summary_without_outcomes(points[TRAINED])
    lines = [f"# {run.name}: {run.arch} on {run.dataset}, {run.method}", "", " ".join(sentences), ""]
    arms = {arm for arm, _ in reported.accuracy}
    pictures = min(r.pictures for r in reported.results)
    lines += words(arms, reported.held_out, run_files.unit_of_cost(run), pictures)
    return lines if reported.compared else [*lines, *_means(points)]


def _sections_of_outcomes(folder: Path, reported: Reported) -> list[str]:
    """What only outcomes.npz can tell."""
    if reported.evidence is None:
        return []
    kinds = run_files.read_kinds(folder)
    return [
        *does_it_pay(reported.evidence, reported.compared),
        *at_budgets(reported.evidence, reported.compared),
        *([] if kinds is None else swap_test(reported.evidence, kinds)),
    ]


def _means(points: dict[str, dict[Arm, Point]]) -> list[str]:
    """A section of means, for a run without outcomes."""
    header = ["arm"]
    for panel in points:
        header += [f"{panel}: accuracy", "cost"]
    rows = []
    for arm in points[TRAINED]:
        cells = [arm_label(arm)]
        for by_arm in points.values():
            cost, percent = by_arm[arm]
            cells += [f"{percent:.2f} %", f"{cost:.3f}"]
        rows.append(cells)
    return ["## Accuracy and cost", "", *markdown_table(header, rows), ""]


def _families(reported: Reported) -> list[str]:
    """A section of accuracies by family."""
    accuracy = reported.accuracy
    rows = [
        [with_star(family, reported.held_out), *(f"{np.mean(list(a[family].values())):.2f}" for a in accuracy.values())]
        for family in next(iter(accuracy.values()))
    ]
    note = "Accuracy in percent, mean over severities."
    return ["## Accuracy by family", "", note, "", *markdown_table(["family", *map(arm_label, accuracy)], rows), ""]


def _figures(folder: Path, reported: Reported) -> Iterator[tuple[str, str, Figure | None]]:
    """Name, title and figure of each picture; None where the run has no data for it."""
    accuracy = reported.accuracy
    held_out = reported.held_out
    points = reported.points()
    few = {arm: families for arm, families in accuracy.items() if arm[0] not in ARMS or arm[0] in SHOWN}
    yield "families", "Accuracy per family and severity", plot_families(few, held_out)
    lines = {name: hull_corners([p for arm, p in arms.items() if arm[0] not in ARMS]) for name, arms in points.items()}
    lines |= {name: reported.compared[name].line() for name in points if name in reported.compared}
    curves = {} if reported.evidence is None else budget_curves(reported.evidence)
    yield "cost", "Accuracy against cost", plot_cost(points, lines, curves)
    shares = variant_shares(reported.results)
    yield "shares", "Variants the selector chose", plot_shares(shares, held_out) if shares else None
    yield "bits", "Bits of each layer", plot_bits([v for v in reported.run.variants if not v.base])
    configs = run_files.read_configs(folder)
    front = plot_pareto(configs.pareto, configs.variants) if configs is not None and configs.pareto else None
    yield "pareto", "Configurations the search saw", front
    pictures = run_files.read_samples(folder)
    yield "samples", "One picture in every quality", plot_samples(pictures, held_out) if pictures else None
    metrics = read_metrics(folder)
    yield "widths", "Bits over time", plot_widths(metrics)
    yield "training", "Training", plot_training(metrics)


def _check_nothing_is_lost(folder: Path) -> None:
    """Raises ValueError where a report would be written again with less in it than it has."""
    report = folder / REPORT_FILE
    if (folder / OUTCOMES_FILE).is_file() or not report.is_file():
        return
    if f"## {TITLE}\n" in report.read_text(encoding="utf-8"):
        raise ValueError(
            f"{folder / OUTCOMES_FILE}: expected, not found; {report} has sections that are made of it "
            f"({TITLE}) and stays as it is: bring the file back, or delete the report to have it without"
        )
