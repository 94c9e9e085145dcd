"""Pictures of accuracy: per family and severity, and against cost."""

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from train.choice.scores import ARMS
from train.evidence.results import Arm, Point
from train.report.plots.style import (
    FLOAT,
    GRID,
    INK,
    NAMED,
    PERCENT,
    QUIET,
    SELECTOR,
    Style,
    family_title,
    plain_axes,
    styles,
)

MARKERS = {
    "adaptive": ("*", 12),
    "random": ("x", 7),
    "static": ("+", 11),
    "private": ("P", 8),
    "bits": ("s", 7),
    "cascade": ("D", 6),
    "shuffled": ("v", 7),
    "oracle": ("^", 7),
}

Accuracy = Mapping[Arm, Mapping[str, Mapping[int, float]]]  # arm -> family -> severity -> percent


def plot_families(accuracy: Accuracy, held_out: Collection[str]) -> Figure:
    """Draws accuracy over severity, a panel a family; severity 0 is the clean picture, in every panel."""
    names = [f for f in next(iter(accuracy.values())) if f != "clean"]
    columns = min(3, len(names)) or 1
    rows = -(-len(names) // columns) or 1
    figure = Figure(figsize=(3.3 * columns, 2.35 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).reshape(-1)
    look = styles(list(accuracy))
    for axes, family in zip(grid, names, strict=False):
        for arm, by_family in accuracy.items():
            points = {**by_family.get("clean", {}), **by_family[family]}
            style: Style = {"linewidth": 1.4, **look[arm]}
            axes.plot(list(points), list(points.values()), marker="o", markersize=3, **style)
        plain_axes(axes)
        axes.set_title(family_title(family, held_out, " (held out)"), fontsize=10, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PERCENT)
    for axes in grid[len(names) :]:
        axes.remove()
    figure.supxlabel("severity (0: clean)", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(accuracy), frameon=False)
    return figure


def plot_cost(
    points: Mapping[str, Mapping[Arm, Point]], lines: Mapping[str, list[Point]], curves: Mapping[str, list[Point]]
) -> Figure:
    """Draws accuracy in percent against cost, a panel each of `points`.

    lines: panel -> corners of random mixes of static variants; curves: panel -> the selector at other budgets. Single
    variants beyond NAMED are named at their points, not in the legend.
    """
    figure = Figure(figsize=(4.6 * len(points), 3.9), layout="constrained")
    grid = figure.subplots(1, len(points), squeeze=False)[0]
    for axes, (panel, arms) in zip(grid, points.items(), strict=True):
        _draw_line(axes, lines[panel])
        if curves.get(panel):
            costs, percents = zip(*curves[panel], strict=True)
            label = "adaptive, other budgets"
            axes.plot(costs, percents, color=SELECTOR, linewidth=1, alpha=0.6, zorder=1, label=label)
        look = styles(list(arms))
        crowded = sum(arm[0] not in ARMS for arm in arms) > NAMED
        for arm, point in arms.items():
            _draw_arm(axes, arm, point, look[arm], crowded)
        _label_axes(axes, panel)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=9)
    return figure


def _draw_line(axes: Axes, corners: list[Point]) -> None:
    costs = [cost for cost, _ in corners]
    price = np.linspace(costs[0], costs[-1], 200)
    mixed = np.interp(price, costs, [percent for _, percent in corners])
    axes.plot(price, mixed, color=QUIET, linewidth=1.2, label="random mix of variants", zorder=1)


def _draw_arm(axes: Axes, arm: Arm, point: Point, style: Style, crowded: bool) -> None:
    cost, percent = point
    if arm[0] == "fp32":
        axes.axhline(percent, color=FLOAT, linestyle="--", linewidth=1, label="fp32")
    elif crowded and arm[0] not in MARKERS:
        axes.plot(cost, percent, "o", color=GRID, markersize=4, markeredgecolor=INK)
        axes.annotate(arm[1], (cost, percent), (3, -8), textcoords="offset points", fontsize=6, color=INK)
    else:
        marker, size = MARKERS.get(arm[0], ("o", 7))
        axes.plot(cost, percent, marker, color=style["color"], markersize=size, label=style["label"])


def _label_axes(axes: Axes, panel: str) -> None:
    plain_axes(axes)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_title(panel, fontsize=10, color=INK)
    axes.set_xlabel("mean cost, relative to 8 by 8 bits (log)", fontsize=9)
    axes.set_ylabel("accuracy", fontsize=9)
