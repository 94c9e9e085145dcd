"""Pictures for the report of a run: matplotlib figures from its records, nothing of a screen needed."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from runtime.files import replacing
from train.choice.arms import BY_RULE

INK, GRID, SELECTOR, FLOAT = "#333333", "#dddddd", "#d9480f", "#888888"
FIXED = ("#0b3c6f", "#1c7ed6", "#12a39a", "#6fbf44", "#7048c6", "#c2255c", "#8a6d3b", "#4dabf7")  # by variant
IN_FAMILIES = ("fp32", "static", "adaptive", "random")  # beside single variants: more lines could not be told apart
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
RARE = 0.03  # share of pictures
NAMED = 8  # single variants at most that a legend names
PERCENT = FuncFormatter(lambda value, _: f"{value:g} %")
DPI = 130


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white")


def styles(arms: list[tuple[str, str]]) -> dict[tuple[str, str], dict]:
    """Line style of each (arm, variant): float grey and dashed, the selector orange, each variant its own colour."""
    fixed = [arm for arm in arms if arm[0] not in BY_RULE]
    special = {
        "fp32": dict(color=FLOAT, linestyle="--", label="float"),
        "static": dict(color=INK, linestyle="-.", label="best static"),
        "private": dict(color="#7048c6", label="private variants by quality"),
        "bits": dict(color="#c2255c", label="bits by quality"),
        "cascade": dict(color="#12a39a", label="cascade"),
        "adaptive": dict(color=SELECTOR, linewidth=2.2, label="selector"),
        "random": dict(color=SELECTOR, linestyle=":", label="random, same shares"),
        "shuffled": dict(color=FLOAT, label="selector, quality shuffled"),
        "oracle": dict(color=INK, label="true kind known"),
    }
    plain = {arm: dict(color=FIXED[k % len(FIXED)], label=arm[1]) for k, arm in enumerate(fixed)}
    return {arm: plain.get(arm) or special.get(arm[0]) or dict(color=INK, label=" ".join(arm)) for arm in arms}


def families(accuracy: dict, held_out: set[str]) -> Figure:
    """accuracy: (arm, variant) -> family -> {severity: percent}; severity 0 is the clean picture, in every panel."""
    names = [f for f in next(iter(accuracy.values())) if f != "clean"]
    columns = min(3, len(names)) or 1
    rows = -(-len(names) // columns) or 1
    figure = Figure(figsize=(3.3 * columns, 2.35 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).reshape(-1)
    look = styles(list(accuracy))
    for axis, family in zip(axes, names, strict=False):
        for arm, by_family in accuracy.items():
            points = {**by_family.get("clean", {}), **by_family[family]}
            axis.plot(list(points), list(points.values()), marker="o", markersize=3, **({"linewidth": 1.4} | look[arm]))
        _plain(axis)
        axis.set_title(_words(family) + (" (held out)" if family in held_out else ""), fontsize=10, color=INK)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_formatter(PERCENT)
    for axis in axes[len(names) :]:
        axis.remove()
    figure.supxlabel("severity (0: clean)", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(accuracy), frameon=False)
    return figure


def bits(variants: list[dict]) -> Figure:
    """variants of run.json: width of weights and of the input of every layer, one column a variant."""
    layers = list(variants[0]["bits"])
    figure = Figure(figsize=(3.6 + 1.1 * len(variants), 1.5 + 0.26 * len(layers)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for side, (axis, title) in enumerate(zip(axes, ("weights", "activations"), strict=True)):
        table = np.array([[v["bits"][layer][side] for v in variants] for layer in layers])
        image = axis.imshow(table, cmap="YlGnBu", vmin=1, vmax=8, aspect="auto")
        for (y, x), value in np.ndenumerate(table):
            axis.text(x, y, str(value), ha="center", va="center", fontsize=8, color="white" if value > 5 else INK)
        names = [v["name"] for v in variants]
        axis.set_xticks(range(len(variants)), names, fontsize=8, rotation=30 * (len(variants) > 4))
        axis.set_yticks(range(len(layers)), layers, fontsize=8)
        axis.set_title(f"bits of {title}", fontsize=10, color=INK)
        axis.set_xticks(np.arange(0.5, len(variants) - 1), minor=True)
        axis.set_yticks(np.arange(0.5, len(layers) - 1), minor=True)
        axis.grid(which="minor", color="white", linewidth=1.5)
        axis.tick_params(which="both", length=0)
        axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="bits", shrink=min(1.0, 4 / len(layers)), aspect=12, ticks=range(2, 9))
    return figure


def samples(pictures: dict[tuple[str, int], np.ndarray], held_out: set[str]) -> Figure:
    """pictures: (family, severity) -> uint8 [H, W, 3]; one row a family, the clean picture in front of each."""
    names = [f for f in dict.fromkeys(f for f, _ in pictures) if f != "clean"] or ["clean"]
    degrees = sorted({s for f, s in pictures if f != "clean"})
    clean = next((p for (f, _), p in pictures.items() if f == "clean"), None)
    columns = ([] if clean is None else [0]) + degrees
    figure = Figure(figsize=(1.05 * len(columns) + 1.3, 1.05 * len(names) + 0.35), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    for row, family in zip(axes, names, strict=True):
        for axis, severity in zip(row, columns, strict=True):
            picture = clean if severity == 0 else pictures.get((family, severity))
            axis.axis("off")
            if picture is not None:
                axis.imshow(picture, interpolation="nearest")
        row[0].text(
            -0.08,
            0.5,
            _words(family) + " *" * (family in held_out),
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    for axis, severity in zip(axes[0], columns, strict=True):
        axis.set_title("clean" if severity == 0 else f"{severity}", fontsize=9, color=INK)
    return figure


def cost(
    points: dict[str, dict], line: dict[str, list[tuple[float, float]]], curve: dict[str, list[tuple[float, float]]]
) -> Figure:
    """points: panel -> (arm, variant) -> (cost, percent); line: panel -> corners of random mixes of variants.

    curve: panel -> (cost, percent) of the selector at other budgets. Single variants beyond NAMED are named at their
    points, not in the legend.
    """
    figure = Figure(figsize=(4.6 * len(points), 3.9), layout="constrained")
    axes = figure.subplots(1, len(points), squeeze=False)[0]
    for axis, (panel, arms) in zip(axes, points.items(), strict=True):
        look = styles(list(arms))
        price = np.linspace(line[panel][0][0], line[panel][-1][0], 200)
        mix = np.interp(price, *zip(*line[panel], strict=True))
        axis.plot(price, mix, color="#9aa5b1", linewidth=1.2, label="random mix of variants", zorder=1)
        if curve.get(panel):
            axis.plot(
                *zip(*curve[panel], strict=True),
                color=SELECTOR,
                linewidth=1,
                alpha=0.6,
                zorder=1,
                label="selector, other budgets",
            )
        for arm, (x, y) in arms.items():
            if arm[0] == "fp32":
                axis.axhline(y, color=FLOAT, linestyle="--", linewidth=1, label="float")
                continue
            marker, size = MARKERS.get(arm[0], ("o", 7))
            dense = arm[0] not in MARKERS and sum(a[0] not in BY_RULE for a in arms) > NAMED
            axis.plot(
                x,
                y,
                marker,
                color=GRID if dense else look[arm]["color"],
                markersize=4 if dense else size,
                markeredgecolor=INK if dense else None,
                label=None if dense else look[arm]["label"],
            )
            if dense:
                axis.annotate(arm[1], (x, y), (3, -8), textcoords="offset points", fontsize=6, color=INK)
        _plain(axis)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
        axis.yaxis.set_major_formatter(PERCENT)
        axis.set_title(panel, fontsize=10, color=INK)
        axis.set_xlabel("mean cost, relative to 8 by 8 bits (log)", fontsize=9)
        axis.set_ylabel("accuracy", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=9)
    return figure


def pareto(seen: list[dict], variants: list[dict]) -> Figure:
    """Configurations of configs.json, each with "cost" and "loss": all unbeaten ones, and those trained
    that are for every picture."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.step(
        [v["cost"] for v in seen],
        [v["loss"] for v in seen],
        where="post",
        color="#9aa5b1",
        linewidth=1.2,
        marker="o",
        markersize=4,
        label="unbeaten of all seen",
    )
    for k, v in enumerate(v for v in variants if v["loss"] is not None and not v["groups"]):
        axis.plot(v["cost"], v["loss"], "D", color=FIXED[k % len(FIXED)], markersize=7, label=v["name"])
    _plain(axis)
    axis.set_xlabel("cost, relative to 8 by 8 bits", fontsize=9)
    axis.set_ylabel("loss on held pictures, widths still open", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def shares(by_family: dict[str, dict[str, float]], held_out: set[str]) -> Figure:
    """by_family: family -> variant -> share of its pictures for which the selector chose it.

    Variants that no family has for more than RARE of its pictures are drawn together.
    """
    names = list(by_family)
    colours = {v: FIXED[k] if k < len(FIXED) else colormaps["tab20"](k % 20) for k, v in enumerate(by_family[names[0]])}
    parts = [
        (v, c, np.array([100 * by_family[f][v] for f in names]))
        for v, c in colours.items()
        if max(by_family[f][v] for f in names) > RARE
    ]
    rest = 100 - sum((width for *_, width in parts), np.zeros(len(names)))
    parts += [("others", GRID, rest)] * bool(rest.max() >= 0.5)
    columns = min(6, len(parts))
    figure = Figure(figsize=(7, 0.34 * len(names) + 1 + 0.22 * -(-len(parts) // columns)), layout="constrained")
    axis, left = figure.subplots(), np.zeros(len(names))
    for variant, colour, width in parts:
        axis.barh(range(len(names)), width, left=left, color=colour, label=variant, height=0.72)
        for y, (w, x) in enumerate(zip(width, left, strict=True)):
            if w >= 8:
                axis.text(
                    x + w / 2,
                    y,
                    f"{w:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=INK if np.mean(to_rgb(colour)) > 0.6 else "white",
                )
        left += width
    axis.set_yticks(range(len(names)), [_words(f) + (" *" if f in held_out else "") for f in names], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("share of the pictures (*: never trained with)", fontsize=9)
    axis.xaxis.set_major_formatter(PERCENT)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
    return figure


def training(metrics: list[dict]) -> Figure | None:
    """The curves of metrics.jsonl, phases one after another, each with a line at its begin; None without any curve.

    Beyond NAMED variants, those that lack a loss of their own (private ones, which are watched on other pictures) are
    left out.
    """
    curves, ends, begins = {}, {}, {}
    for record in metrics:
        before = sum(end for phase, end in ends.items() if phase != record["phase"])
        ends[record["phase"]] = record["step"]
        for name, value in record.items():
            kind, _, variant = name.partition("/")
            if variant and kind in ("loss", "accuracy") and isinstance(value, float) and np.isfinite(value):
                begins.setdefault(record["phase"], before)
                curves.setdefault(kind, {}).setdefault(variant, []).append((before + record["step"], value))
    if not curves:
        return None
    if len(curves.get("accuracy", {})) > NAMED:
        curves["accuracy"] = {v: c for v, c in curves["accuracy"].items() if v in curves.get("loss", {}) or v == "full"}
    figure = Figure(figsize=(4.6 * len(curves), 3.2), layout="constrained")
    for axis, (kind, by_variant) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        alone = [("variant", v) for v in by_variant if v not in ("fp32", "full")]
        look = {v: s for (_, v), s in styles(alone).items()}
        for variant, points in by_variant.items():
            style = look.get(variant, dict(color=FLOAT, linestyle="--", label="float"))
            factor = 100 if kind == "accuracy" else 1
            axis.plot([x for x, _ in points], [y * factor for _, y in points], marker="o", markersize=2.5, **style)
        _plain(axis)
        axis.set_title({"loss": "training loss", "accuracy": "accuracy on held pictures"}[kind], fontsize=10, color=INK)
        axis.set_xlabel("step", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for phase, step in begins.items():
            axis.axvline(step, color="#9aa5b1", linewidth=0.8, zorder=0)
            axis.annotate(
                phase,
                (step, 1),
                (2, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=7,
                color="#6b7683",
                va="top",
            )
        if kind == "accuracy":
            axis.yaxis.set_major_formatter(PERCENT)
        axis.legend(frameon=False, fontsize=8)
    return figure


def widths(metrics: list[dict]) -> Figure | None:
    """Real widths while bits are searched: "w_bits/NAME" and "a_bits/NAME" of metrics.jsonl, a curve a layer (or a
    quality group), from dark to light in running order; None without any."""
    curves = {}
    for record in metrics:
        for name, value in record.items():
            head, _, layer = name.partition("/")
            if layer and head in ("w_bits", "a_bits"):
                curves.setdefault(head, {}).setdefault(layer, {})[record["step"]] = value
    if not curves:
        return None
    figure = Figure(figsize=(4.6 * len(curves) + 1.8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axis, (head, by_layer) in zip(axes, curves.items(), strict=True):
        for k, (layer, points) in enumerate(by_layer.items()):
            axis.plot(
                list(points),
                list(points.values()),
                linewidth=1.3,
                label=layer,
                color=colormaps["viridis"](0.9 * k / max(1, len(by_layer) - 1)),
            )
        _plain(axis)
        axis.set_title({"w_bits": "bits of weights", "a_bits": "bits of activations"}[head], fontsize=10, color=INK)
        axis.set_xlabel("step of the search", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=7)
    return figure


def _plain(axis) -> None:
    axis.grid(color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=INK)


def _words(family: str) -> str:
    return {"jpeg": "JPEG"}.get(family, family.replace("_", " "))
