"""Pictures of training: losses and accuracies, and real-valued widths while bits are searched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.evidence.metrics import MetricsRecord
from train.report.plots.style import FLOAT, INK, NAMED, PERCENT, QUIET, Style, plain_axes, styles

TITLES = {"loss": "training loss", "accuracy": "accuracy on held pictures"}
WIDTH_TITLES = {"w_bits": "bits of weights", "a_bits": "bits of activations"}

Curve = list[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class Curves:
    """Curves of a run: kind ("loss" or "accuracy") -> variant -> points, and the step at which each phase begins."""

    by_kind: dict[str, dict[str, Curve]]
    begins: dict[str, int]

    @classmethod
    def of_metrics(cls, metrics: Sequence[MetricsRecord]) -> "Curves":
        """Joins the records, phases one after another."""
        by_kind: dict[str, dict[str, Curve]] = {}
        begins: dict[str, int] = {}
        ends: dict[str, int] = {}
        for record in metrics:
            before = sum(end for phase, end in ends.items() if phase != record.phase)
            ends[record.phase] = record.step
            for name, value in record.values.items():
                kind, _, variant = name.partition("/")
                if variant and kind in TITLES and isinstance(value, float) and np.isfinite(value):
                    begins.setdefault(record.phase, before)
                    points = by_kind.setdefault(kind, {}).setdefault(variant, [])
                    points.append((before + record.step, value))
        return cls(by_kind, begins)

    def without_private(self) -> "Curves":
        """Leaves out accuracies of variants without a loss of their own where there are more than NAMED accuracies.

        Those are private variants, which are watched on other pictures.
        """
        accuracy = self.by_kind.get("accuracy", {})
        if len(accuracy) <= NAMED:
            return self
        known = {"full", *self.by_kind.get("loss", {})}
        kept = {name: curve for name, curve in accuracy.items() if name in known}
        return Curves({**self.by_kind, "accuracy": kept}, self.begins)


def plot_training(metrics: Sequence[MetricsRecord]) -> Figure | None:
    """Draws losses and accuracies, with a line at the begin of each phase; None without any."""
    curves = Curves.of_metrics(metrics).without_private()
    if not curves.by_kind:
        return None
    figure = Figure(figsize=(4.6 * len(curves.by_kind), 3.2), layout="constrained")
    grid = figure.subplots(1, len(curves.by_kind), squeeze=False)[0]
    for axes, (kind, by_variant) in zip(grid, curves.by_kind.items(), strict=True):
        _draw_curves(axes, by_variant, 100 if kind == "accuracy" else 1)
        plain_axes(axes)
        axes.set_title(TITLES[kind], fontsize=10, color=INK)
        axes.set_xlabel("step", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for phase, step in curves.begins.items():
            _mark_phase(axes, phase, step)
        if kind == "accuracy":
            axes.yaxis.set_major_formatter(PERCENT)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_curves(axes: Axes, by_variant: dict[str, Curve], factor: float) -> None:
    single = [("variant", v) for v in by_variant if v not in ("fp32", "full")]
    look = {variant: style for (_, variant), style in styles(single).items()}
    full_precision: Style = dict(color=FLOAT, linestyle="--", label="fp32")
    for variant, points in by_variant.items():
        style = look.get(variant, full_precision)
        axes.plot([x for x, _ in points], [y * factor for _, y in points], marker="o", markersize=2.5, **style)


def _mark_phase(axes: Axes, phase: str, step: int) -> None:
    axes.axvline(step, color=QUIET, linewidth=0.8, zorder=0)
    axes.annotate(
        phase,
        (step, 1),
        (2, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=7,
        color="#6b7683",
        va="top",
    )


def plot_widths(metrics: Sequence[MetricsRecord]) -> Figure | None:
    """Draws the real-valued widths while bits are searched, from dark to light in running order; None without any.

    They are "w_bits/NAME" and "a_bits/NAME" of the records, a curve a layer or a kind of quality.
    """
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for record in metrics:
        for name, value in record.values.items():
            head, _, layer = name.partition("/")
            if layer and head in WIDTH_TITLES:
                curves.setdefault(head, {}).setdefault(layer, {})[record.step] = value
    if not curves:
        return None
    figure = Figure(figsize=(4.6 * len(curves) + 1.8, 3.4), layout="constrained")
    grid = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axes, (head, by_layer) in zip(grid, curves.items(), strict=True):
        for k, (layer, points) in enumerate(by_layer.items()):
            colour = colormaps["viridis"](0.9 * k / max(1, len(by_layer) - 1))
            axes.plot(list(points), list(points.values()), linewidth=1.3, label=layer, color=colour)
        plain_axes(axes)
        axes.set_title(WIDTH_TITLES[head], fontsize=10, color=INK)
        axes.set_xlabel("step of the search", fontsize=9)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=7)
    return figure
