"""A picture of one test picture in every quality."""

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from train.evidence.evidence import View
from train.report.plots.style import INK, family_title


def plot_samples(pictures: Mapping[View, np.ndarray], held_out: Collection[str]) -> Figure:
    """Draws pictures uint8 [H, W, 3] of each view, one row a family, the clean picture in front of each."""
    names = [f for f in dict.fromkeys(f for f, _ in pictures) if f != "clean"] or ["clean"]
    degrees = sorted({severity for family, severity in pictures if family != "clean"})
    clean = next((picture for (family, _), picture in pictures.items() if family == "clean"), None)
    columns = degrees if clean is None else [0, *degrees]
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(1.05 * len(columns) + 1.3, 1.05 * len(names) + 0.35), layout=layout)
    grid = figure.subplots(len(names), len(columns), squeeze=False)
    for row, family in zip(grid, names, strict=True):
        for axes, severity in zip(row, columns, strict=True):
            picture = clean if severity == 0 else pictures.get((family, severity))
            axes.axis("off")
            if picture is not None:
                axes.imshow(picture, interpolation="nearest")
        title = family_title(family, held_out, " *")
        row[0].text(-0.08, 0.5, title, transform=row[0].transAxes, ha="right", va="center", fontsize=9)
    for axes, severity in zip(grid[0], columns, strict=True):
        axes.set_title("clean" if severity == 0 else f"{severity}", fontsize=9, color=INK)
    return figure
