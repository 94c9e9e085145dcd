"""Which variants and bits the selector chose, by family and severity, and in words what they depend on."""

import numpy as np

from train.evidence.evidence import Evidence
from train.report.bootstrap import Estimate, resampled
from train.report.compare import SEED

ALIKE = 0.2  # mean widths no further apart than this count as the same
STAR = r" \*"  # of families held out


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


def chosen_bits(records: list[dict], held_out: set[str], evidence: Evidence | None) -> list[str]:
    """A section on the widths that the selector chose by family and severity, and what they depend on, in words.

    With evidence, means have intervals.
    """
    mine = [r for r in records if r["arm"] == "adaptive" and "w_bits" in r]
    if not mine:
        return []
    sampled = {} if evidence is None else mean_bits(evidence)
    severities = sorted({r["severity"] for r in mine})
    cells = {
        (r["family"], r["severity"]): f"{r['w_bits']:.2f} / {r['a_bits']:.2f}{_spread(sampled, r)}, {_favourite(r)}"
        for r in mine
    }
    lines = [
        "## Bits the selector chose",
        "",
        "Mean bits of weights / activations over the multiply-adds of the variants chosen, and which was most."
        + " In brackets: 95 % of the bootstrap for the mean of both widths." * bool(sampled),
        "",
        "| family | " + " | ".join(f"{s}" for s in severities) + " |",
        "| --- |" + " ---: |" * len(severities),
    ]
    for family in dict.fromkeys(r["family"] for r in mine):
        row = " | ".join(cells.get((family, s), "") for s in severities)
        lines.append(f"| {family}{STAR if family in held_out else ''} | {row} |")
    return [*lines, "", _in_words(mine, sampled), ""]


def mean_bits(evidence: Evidence) -> dict[tuple[str, int], np.ndarray]:
    """(family, severity) -> mean width of what the selector chose there, of weights and activations alike, [1 + R]."""
    width = np.array([(v.w_bits + v.a_bits) / 2 for v in evidence.variants])
    bits = evidence.by_view(width[evidence.arms["adaptive"].variant])
    return dict(zip(evidence.places, resampled(bits.T, SEED).T, strict=True))


def _in_words(mine: list[dict], sampled: dict[tuple[str, int], np.ndarray]) -> str:
    """Whether the mean width differs between qualities by more than ALIKE, and in which direction with severity."""
    mean = {(r["family"], r["severity"]): (r["w_bits"] + r["a_bits"]) / 2 for r in mine}
    low, high = min(mean, key=mean.get), max(mean, key=mean.get)
    if mean[high] - mean[low] <= ALIKE:
        return (
            f"The bits do not differ with quality: every family and severity gets between {mean[low]:.2f} and "
            f"{mean[high]:.2f} on average."
        )
    told = (
        f"The bits differ with quality: from {mean[low]:.2f} ({_place(low)}) to {mean[high]:.2f} ({_place(high)}) "
        "on average"
    )
    places = [[p for p in mean if p[1] == severity] for severity in (1, 5)]
    if not all(places):
        return told + "."
    mild, strong = (float(np.mean([mean[p] for p in end])) for end in places)
    trend = "hardly change" if abs(strong - mild) <= ALIKE else "rise" if strong > mild else "fall"
    told += f"; with severity they {trend} ({mild:.2f} at severity 1, {strong:.2f} at 5"
    if not sampled:
        return told + ")."
    ends = [np.mean([sampled[p] for p in end], 0) for end in places]
    told += f", a difference of {_interval(Estimate.of(ends[1] - ends[0]))})"
    clean = [p for p in mean if p[0] == "clean"]
    if clean:
        poor = Estimate.of(np.mean([sampled[p] for p in places[1]], 0) - sampled[clean[0]])
        told += f". Pictures of severity 5 get {_compared(poor)} clean ones: {_interval(poor)}"
    return told + "."


def _compared(difference: Estimate) -> str:
    words = {1: "more bits than", 0: "neither more nor fewer bits for sure than", -1: "fewer bits than"}
    return words[difference.verdict]


def _interval(e: Estimate) -> str:
    return f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]"


def _spread(sampled: dict, record: dict) -> str:
    if not sampled:
        return ""
    e = Estimate.of(sampled[record["family"], record["severity"]])
    return f" [{e.low:.2f}, {e.high:.2f}]"


def _favourite(record: dict) -> str:
    share, name = max((v, k.removeprefix("share/")) for k, v in record.items() if k.startswith("share/"))
    return f"{name} {100 * share:.0f} %"


def _place(place: tuple[str, int]) -> str:
    family, severity = place
    return family if family == "clean" else f"{family} {severity}"
