"""The report of a run: report.md and its pictures, from run.json, results.json and metrics.jsonl alone."""

import json
import os
import sys
from pathlib import Path

import numpy as np

from train import configs, plots

SAMPLES = "samples.npz"
STAR = r" \*"
HARD = 0.1  # points that soft bit planes may be better than exact ones
ALIKE = 0.2  # mean widths no further apart than this count as the same
COSTS = {"bitops": "BitOPs (multiply-adds times bits of weights times bits of activations)",
         "size": "bits of storage", "latency": "the target's measured time"}


def write_report(folder: Path, samples: dict[tuple[str, int], np.ndarray] | None = None) -> Path:
    """Writes report.md and plots/*.png into a run folder; returns the path of report.md.

    samples: (family, severity) -> one degraded picture uint8 [H, W, 3], clean being ("clean", 0); kept as
    plots/samples.npz, which is used when the report is written again. Sections whose data the run lacks are left out:
    the selector's choices need "share/VARIANT" (of the pictures) in the records of arm adaptive.
    Raises ValueError where run.json or results.json is missing or not as expected.
    """
    folder = Path(folder)
    run, records = _read(folder / "run.json", dict), _read(folder / "results.json", list)
    _check(folder, run, records)
    if samples:
        _keep(folder / "plots" / SAMPLES, samples)
    held_out = {r["family"] for r in records if r["heldout"]}
    accuracy = by_arm(records)
    panels = {"training families": lambda f: f not in held_out}
    if held_out:
        panels["held-out families"] = lambda f: f in held_out
    points = {name: _points(records, accuracy, within) for name, within in panels.items()}
    lines = [f"# {run['name']}: {run['arch']} on {run['dataset']}, {run['method']}", "", *_summary(points), "",
             *_families(accuracy, held_out), "", *chosen_bits(records, held_out)]
    for name, title, figure in _figures(folder, run, records, accuracy, held_out, points):
        if figure is not None:
            plots.save(figure, folder / "plots" / f"{name}.png")
            lines += [f"## {title}", "", f"![{title}](plots/{name}.png)", ""]
    lines += hardness(_metrics(folder / "metrics.jsonl"))
    lines += _notes(records, run.get("settings", {}).get("cost", "bitops"))
    temporary = folder / f"report.md.{os.getpid()}.tmp"
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "report.md")
    return folder / "report.md"


def by_arm(records: list[dict]) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """(arm, variant) -> family -> severity -> accuracy in percent."""
    out = {}
    for r in records:
        family = out.setdefault((r["arm"], r["variant"]), {}).setdefault(r["family"], {})
        family[r["severity"]] = 100 * r["correct"] / r["pictures"]
    return out


def mix(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners (cost, accuracy) of the best random mixes of variants: the upper hull, from cheapest to best."""
    hull = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if hull and y <= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else float("inf")


def shares(records: list[dict]) -> dict[str, dict[str, float]]:
    """family -> variant -> share of pictures for which the selector chose it; from "share/VARIANT" of its records."""
    mine = [r for r in records if r["arm"] == "adaptive" and any(k.startswith("share/") for k in r)]
    names = [k.removeprefix("share/") for k in mine[0] if k.startswith("share/")] if mine else []
    out = {}
    for family in dict.fromkeys(r["family"] for r in mine):
        rows = [r for r in mine if r["family"] == family]
        weights = [r["pictures"] for r in rows]
        out[family] = {n: float(np.average([r[f"share/{n}"] for r in rows], weights=weights)) for n in names}
    return out


def _figures(folder, run, records, accuracy, held_out, points):
    yield "families", "Accuracy per family and severity", plots.families(accuracy, held_out)
    fixed = {name: [p for arm, p in arms.items() if arm[0] not in plots.SPECIAL] for name, arms in points.items()}
    yield "cost", "Accuracy against cost", plots.cost(points, {name: mix(p) for name, p in fixed.items()})
    chosen = shares(records)
    yield "shares", "Variants the selector chose", plots.shares(chosen, held_out) if chosen else None
    yield "bits", "Bits of each layer", plots.bits(run["variants"])
    found = _found(folder / configs.NAME)
    yield "pareto", "Configurations the search saw", plots.pareto(*found) if found else None
    pictures = _samples(folder / "plots" / SAMPLES)
    yield "samples", "One picture in every quality", plots.samples(pictures) if pictures else None
    yield "widths", "Bits over time", plots.widths(_metrics(folder / "metrics.jsonl"))
    yield "training", "Training", plots.training(_metrics(folder / "metrics.jsonl"))


def hardness(metrics: list[dict]) -> list[str]:
    """A section on what exact bits cost where planes were soft, from the search's last record with a "gap"."""
    last = next((r for r in reversed(metrics) if "gap" in r), None)
    if last is None:
        return []
    verdict = f"over {HARD} point: planes are not sharp enough yet, so search for longer (`--search-epochs`)"
    return ["## Soft and exact bits", "",
            f"At the search's end soft bit planes got {100 * last['accuracy/soft']:.2f} % of the held pictures, the "
            f"exact integers {100 * last['accuracy/hard']:.2f} %: {last['gap']:+.2f} points lost, "
            f"{verdict if last['gap'] > HARD else f'not over {HARD} point'}.", ""]


def _points(records, accuracy, within) -> dict[tuple[str, str], tuple[float, float]]:
    """(arm, variant) -> mean cost and accuracy over the families within, each family counting alike."""
    out = {}
    for arm, families in accuracy.items():
        mine = [r for r in records if (r["arm"], r["variant"]) == arm and within(r["family"])]
        price = sum(r["cost"] * r["pictures"] for r in mine) / sum(r["pictures"] for r in mine)
        out[arm] = price, float(np.mean([np.mean(list(s.values())) for f, s in families.items() if within(f)]))
    return out


def _summary(points) -> list[str]:
    names = list(points)
    lines = ["| arm | " + " | ".join(f"{n}: accuracy | cost" for n in names) + " |",
             "| --- |" + " ---: | ---: |" * len(names)]
    for arm in points[names[0]]:
        cells = " | ".join(f"{points[n][arm][1]:.2f} % | {points[n][arm][0]:.3f}" for n in names)
        lines.append(f"| {_label(arm)} | {cells} |")
    return lines


def _families(accuracy, held_out) -> list[str]:
    lines = [f"Accuracy in percent, mean over severities;{STAR} held out, never seen in training.", "",
             "| family | " + " | ".join(map(_label, accuracy)) + " |", "| --- |" + " ---: |" * len(accuracy)]
    for family in next(iter(accuracy.values())):
        cells = " | ".join(f"{np.mean(list(a[family].values())):.2f}" for a in accuracy.values())
        lines.append(f"| {family}{STAR if family in held_out else ''} | {cells} |")
    return lines


def chosen_bits(records, held_out: set[str]) -> list[str]:
    """A section on the widths that the selector chose by family and severity, and what they depend on, in words."""
    mine = [r for r in records if r["arm"] == "adaptive" and "w_bits" in r]
    if not mine:
        return []
    severities = sorted({r["severity"] for r in mine})
    cells = {(r["family"], r["severity"]): f"{r['w_bits']:.2f} / {r['a_bits']:.2f}, {_favourite(r)}" for r in mine}
    lines = ["## Bits the selector chose", "",
             "Mean bits of weights / activations over the multiply-adds of the variants chosen, and which was most.",
             "", "| family | " + " | ".join(f"{s}" for s in severities) + " |", "| --- |" + " ---: |" * len(severities)]
    for family in dict.fromkeys(r["family"] for r in mine):
        row = " | ".join(cells.get((family, s), "") for s in severities)
        lines.append(f"| {family}{STAR if family in held_out else ''} | {row} |")
    return [*lines, "", _in_words(mine), ""]


def _in_words(mine: list[dict]) -> str:
    """Whether the mean width differs between qualities by more than ALIKE, and in which direction with severity."""
    mean = {(r["family"], r["severity"]): (r["w_bits"] + r["a_bits"]) / 2 for r in mine}
    low, high = min(mean, key=mean.get), max(mean, key=mean.get)
    if mean[high] - mean[low] <= ALIKE:
        return (f"The bits do not differ with quality: every family and severity gets between {mean[low]:.2f} and "
                f"{mean[high]:.2f} on average.")
    told = (f"The bits differ with quality: from {mean[low]:.2f} ({_place(low)}) to {mean[high]:.2f} ({_place(high)}) "
            "on average")
    ends = [[b for (_, s), b in mean.items() if s == severity] for severity in (1, 5)]
    if not all(ends):
        return told + "."
    mild, strong = (float(np.mean(e)) for e in ends)
    trend = "hardly change" if abs(strong - mild) <= ALIKE else "rise" if strong > mild else "fall"
    return f"{told}; with severity they {trend} ({mild:.2f} at severity 1, {strong:.2f} at 5)."


def _favourite(record: dict) -> str:
    share, name = max((v, k.removeprefix("share/")) for k, v in record.items() if k.startswith("share/"))
    return f"{name} {100 * share:.0f} %"


def _place(place: tuple[str, int]) -> str:
    family, severity = place
    return family if family == "clean" else f"{family} {severity}"


def _notes(records, cost: str) -> list[str]:
    pictures = min(r["pictures"] for r in records)
    error = 100 * 0.5 / pictures**0.5
    return [
        "## How to read this", "",
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


def _read(path: Path, kind: type):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: expected, not found; a finished `python -m train.run` leaves it") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error}); finish the run with --resume") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path}: expected a JSON {kind.__name__}, got a {type(content).__name__}")
    return content


def _check(folder: Path, run: dict, records: list) -> None:
    wanted = {"arm", "variant", "family", "severity", "heldout", "pictures", "correct", "cost"}
    for r in records:
        if not isinstance(r, dict) or not wanted <= set(r) or r["pictures"] < 1:
            raise ValueError(f"{folder / 'results.json'}: expected records of {sorted(wanted)}, got {str(r)[:120]}")
    missing = {"name", "arch", "dataset", "method", "variants"} - set(run)
    if missing or not run["variants"]:
        raise ValueError(f"{folder / 'run.json'}: expected {sorted(missing) or 'at least one variant'}; export it anew")
    if all(r["arm"] in plots.SPECIAL for r in records):
        raise ValueError(f"{folder / 'results.json'}: expected records of single variants; measure the run anew")


def _found(path: Path) -> tuple[list[dict], list[dict]] | None:
    """The Pareto list and the variants of a search; None without one."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"pareto": []}
    return (found["pareto"], found["variants"]) if found["pareto"] else None


def _metrics(path: Path) -> list[dict]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _keep(path: Path, samples) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"samples.{os.getpid()}.tmp.npz")
    np.savez(temporary, **{f"{family}-{severity}": picture for (family, severity), picture in samples.items()})
    os.replace(temporary, path)


def _samples(path: Path) -> dict[tuple[str, int], np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {(name.rsplit("-", 1)[0], int(name.rsplit("-", 1)[1])): file[name] for name in file.files}


if __name__ == "__main__":
    try:
        print(write_report(Path(sys.argv[1])) if len(sys.argv) == 2 else "usage: python -m train.report RUN")
    except ValueError as problem:
        sys.exit(str(problem))
