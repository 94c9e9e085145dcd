"""Pictures of bits: of each layer, of the selector's choices, and of the configurations that a search saw."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from compile.source.run_folder import VariantRecord
from train.bits.configs import Configuration
from train.report.plots.style import FIXED, GRID, INK, PERCENT, QUIET, family_title, plain_axes

RARE = 0.03  # share of pictures below which a variant is drawn with others
LEGIBLE = 8  # percent of the pictures, for a number to fit into a bar


def plot_bits(variants: Sequence[VariantRecord]) -> Figure:
    """Draws the width of the weights and of the input of every layer, one column a variant."""
    layers = list(variants[0].facts.bits)
    names = [v.name for v in variants]
    figure = Figure(figsize=(3.6 + 1.1 * len(variants), 1.5 + 0.26 * len(layers)), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    for side, (axes, title) in enumerate(zip(grid, ("weights", "activations"), strict=True)):
        table = np.array([[v.facts.bits[layer][side] for v in variants] for layer in layers])
        image = axes.imshow(table, cmap="YlGnBu", vmin=1, vmax=8, aspect="auto")
        for (y, x), value in np.ndenumerate(table):
            axes.text(x, y, str(value), ha="center", va="center", fontsize=8, color="white" if value > 5 else INK)
        axes.set_xticks(range(len(names)), names, fontsize=8, rotation=30 * (len(names) > 4))
        axes.set_yticks(range(len(layers)), layers, fontsize=8)
        axes.set_title(f"bits of {title}", fontsize=10, color=INK)
        axes.set_xticks(np.arange(0.5, len(names) - 1), minor=True)
        axes.set_yticks(np.arange(0.5, len(layers) - 1), minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=grid, label="bits", shrink=min(1.0, 4 / len(layers)), aspect=12, ticks=range(2, 9))
    return figure


def plot_pareto(front: Sequence[Configuration], variants: Sequence[Configuration]) -> Figure:
    """Draws loss against cost of a search's Pareto front, and of the trained variants that are for every picture."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.step(
        [v.cost for v in front if v.loss is not None],
        [v.loss for v in front if v.loss is not None],
        where="post",
        color=QUIET,
        linewidth=1.2,
        marker="o",
        markersize=4,
        label="Pareto front of all seen",
    )
    shared = [(v.name, v.cost, v.loss) for v in variants if v.loss is not None and not v.kinds]
    for k, (name, cost, loss) in enumerate(shared):
        axes.plot(cost, loss, "D", color=FIXED[k % len(FIXED)], markersize=7, label=name)
    plain_axes(axes)
    axes.set_xlabel("cost, relative to 8 by 8 bits", fontsize=9)
    axes.set_ylabel("loss on held pictures, widths still open", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def plot_shares(by_family: Mapping[str, Mapping[str, float]], held_out: Collection[str]) -> Figure:
    """Draws, for each family, the share (0..1) of its pictures for which the selector chose each variant.

    Variants that no family has for more than RARE of its pictures are drawn together.
    """
    names = list(by_family)
    bars = _bars(by_family)
    columns = min(6, len(bars))
    figure = Figure(figsize=(7, 0.34 * len(names) + 1 + 0.22 * -(-len(bars) // columns)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(names))
    for variant, (colour, width) in bars.items():
        axes.barh(range(len(names)), width, left=left, color=colour, label=variant, height=0.72)
        _write_numbers(axes, width, left, colour)
        left += width
    axes.set_yticks(range(len(names)), [family_title(f, held_out, " *") for f in names], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the pictures (*: never trained with)", fontsize=9)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
    return figure


Colour = str | tuple[float, float, float, float]


def _bars(by_family: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[Colour, np.ndarray]]:
    """Configuration -> colour, and percent of the pictures of each family [F]."""
    names = list(by_family)
    bars: dict[str, tuple[Colour, np.ndarray]] = {}
    for k, variant in enumerate(by_family[names[0]]):
        percent = np.array([100 * by_family[f][variant] for f in names])
        if percent.max() > 100 * RARE:
            bars[variant] = (FIXED[k] if k < len(FIXED) else colormaps["tab20"](k % 20), percent)
    rest = 100 - sum((percent for _, percent in bars.values()), np.zeros(len(names)))
    if rest.max() >= 0.5:
        bars["others"] = (GRID, rest)
    return bars


def _write_numbers(axes: Axes, width: np.ndarray, left: np.ndarray, colour: Colour) -> None:
    """Percent [F] in the middle of bars that begin at `left` [F], where they are wide enough."""
    ink = INK if np.mean(to_rgb(colour)) > 0.6 else "white"
    for y, (percent, start) in enumerate(zip(width, left, strict=True)):
        if percent >= LEGIBLE:
            axes.text(start + percent / 2, y, f"{percent:.0f}", ha="center", va="center", fontsize=8, color=ink)
