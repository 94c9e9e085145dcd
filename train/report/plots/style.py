"""The look that all pictures of a report share: colours, lines, axes, and how a figure is saved."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from runtime.files import replacing
from train.choice.scores import ARMS
from train.evidence.results import Arm

INK, GRID, SELECTOR, FLOAT, QUIET = "#333333", "#dddddd", "#d9480f", "#888888", "#9aa5b1"
FIXED = ("#0b3c6f", "#1c7ed6", "#12a39a", "#6fbf44", "#7048c6", "#c2255c", "#8a6d3b", "#4dabf7")  # by variant
NAMED = 8  # single variants at most that a legend names
PERCENT = FuncFormatter(lambda value, _: f"{value:g} %")
DPI = 130

Style = dict[str, Any]  # keyword arguments of Axes.plot

ARM_STYLES: dict[str, Style] = {
    "fp32": dict(color=FLOAT, linestyle="--"),
    "static": dict(color=INK, linestyle="-."),
    "private": dict(color="#7048c6"),
    "bits": dict(color="#c2255c"),
    "cascade": dict(color="#12a39a"),
    "adaptive": dict(color=SELECTOR, linewidth=2.2),
    "random": dict(color=SELECTOR, linestyle=":"),
    "shuffled": dict(color=FLOAT),
    "oracle": dict(color=INK),
}


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, whole or not at all, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white")


def styles(arms: Sequence[Arm]) -> dict[Arm, Style]:
    """Returns the line style of each arm: float grey and dashed, adaptive orange, each variant its own colour."""
    single = [arm for arm in arms if arm[0] not in ARMS]
    look: dict[Arm, Style] = {arm: {"color": FIXED[k % len(FIXED)]} for k, arm in enumerate(single)}
    return {arm: {**(look[arm] if arm in look else ARM_STYLES[arm[0]]), "label": arm_label(arm)} for arm in arms}


def arm_label(arm: Arm) -> str:
    """Returns the name of an arm, or of a single variant."""
    way, variant = arm
    return way if way in ARMS else variant


def plain_axes(axes: Axes) -> None:
    """Gives axes a light grid and no frame above and to the right."""
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)


def family_title(family: str, held_out: Collection[str], mark: str) -> str:
    """Returns a degradation family in words, with a mark behind it where it was held out."""
    title = "JPEG" if family == "jpeg" else family.replace("_", " ")
    return title + mark if family in held_out else title
