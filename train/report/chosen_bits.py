"""Which variants and bits the selector chose, by family and severity, and in words what they depend on."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from train.evidence.evidence import Evidence, View
from train.evidence.results import ChosenBits, Result
from train.report.bootstrap import Estimate, resampled
from train.report.compare import SEED
from train.report.sentences import with_interval
from train.report.tables import markdown_table, with_star

ALIKE = 0.2  # mean widths no further apart than this count as the same
MILD, STRONG = 1, 5  # severities between which a trend is looked for


def variant_shares(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Returns family -> variant -> share (0..1) of the pictures for which the selector chose it."""
    by_family: dict[str, list[tuple[int, ChosenBits]]] = {}
    for result in results:
        if result.arm == "adaptive" and result.chosen is not None:
            by_family.setdefault(result.family, []).append((result.pictures, result.chosen))
    shares = {}
    for family, choices in by_family.items():
        weights = [pictures for pictures, _ in choices]
        shares[family] = {
            name: float(np.average([chosen.shares[name] for _, chosen in choices], weights=weights))
            for name in choices[0][1].shares
        }
    return shares


def chosen_bits(results: Sequence[Result], held_out: Collection[str], evidence: Evidence | None) -> list[str]:
    """Returns the lines of a section on the widths that the selector chose, and what they depend on.

    With evidence, means have confidence intervals. None without results of a selector.
    """
    chosen: dict[View, ChosenBits] = {
        (r.family, r.severity): r.chosen for r in results if r.arm == "adaptive" and r.chosen is not None
    }
    if not chosen:
        return []
    sampled = {} if evidence is None else mean_bits(evidence)
    severities = sorted({severity for _, severity in chosen})
    rows = [
        [with_star(family, held_out), *(_cell(chosen, sampled, (family, severity)) for severity in severities)]
        for family in dict.fromkeys(family for family, _ in chosen)
    ]
    intervals = " In brackets: the 95 % confidence interval of the bootstrap for the mean of both widths."
    return [
        "## Bits the selector chose",
        "",
        "Mean bits of weights / activations over the multiply-adds of the variants chosen, and which variant answered "
        "most pictures; columns are severities." + intervals * bool(sampled),
        "",
        *markdown_table(["family", *map(str, severities)], rows),
        "",
        _in_words(chosen, sampled),
        "",
    ]


def mean_bits(evidence: Evidence) -> dict[View, np.ndarray]:
    """Returns view -> mean width of what the selector chose there, [1 + R]: as it is and in every resample."""
    width = np.array([(v.w_bits + v.a_bits) / 2 for v in evidence.variants])
    bits = evidence.by_view(width[evidence.arms["adaptive"].variant])
    return dict(zip(evidence.views, resampled(bits.T, SEED).T, strict=True))


@dataclass(frozen=True)
class Ends:
    """Views of the mildest and of the strongest severity."""

    mild: list[View]
    strong: list[View]


def _in_words(chosen: dict[View, ChosenBits], sampled: dict[View, np.ndarray]) -> str:
    """Whether the mean width differs between qualities by more than ALIKE, and in which direction with severity."""
    mean = {view: bits.mean for view, bits in chosen.items()}
    low = min(mean, key=lambda view: mean[view])
    high = max(mean, key=lambda view: mean[view])
    if mean[high] - mean[low] <= ALIKE:
        return (
            f"The bits do not differ with quality: every family and severity gets between {mean[low]:.2f} and "
            f"{mean[high]:.2f} on average."
        )
    text = (
        f"The bits differ with quality: from {mean[low]:.2f} ({_name(low)}) to {mean[high]:.2f} ({_name(high)}) "
        "on average"
    )
    ends = Ends([v for v in mean if v[1] == MILD], [v for v in mean if v[1] == STRONG])
    if not ends.mild or not ends.strong:
        return f"{text}."
    mild = float(np.mean([mean[view] for view in ends.mild]))
    strong = float(np.mean([mean[view] for view in ends.strong]))
    text += f"; with severity they {_trend(mild, strong)} ({mild:.2f} at severity {MILD}, {strong:.2f} at {STRONG}"
    return f"{text}{_with_intervals(ends, sampled)}." if sampled else f"{text})."


def _trend(mild: float, strong: float) -> str:
    if abs(strong - mild) <= ALIKE:
        return "hardly change"
    return "rise" if strong > mild else "fall"


def _with_intervals(ends: Ends, sampled: dict[View, np.ndarray]) -> str:
    """The end of the sentence: how sure the trend is, and whether strong degradations get more bits than none."""
    strong = np.mean([sampled[view] for view in ends.strong], 0)
    difference = Estimate.of(strong - np.mean([sampled[view] for view in ends.mild], 0))
    text = f", a difference of {with_interval(difference)})"
    clean = [view for view in sampled if view[0] == "clean"]
    if not clean:
        return text
    over_clean = Estimate.of(strong - sampled[clean[0]])
    return f"{text}. Pictures of severity {STRONG} get {_compared(over_clean)} clean ones: {with_interval(over_clean)}"


def _compared(difference: Estimate) -> str:
    words = {1: "more bits than", 0: "neither more nor fewer bits for sure than", -1: "fewer bits than"}
    return words[difference.verdict]


def _cell(chosen: dict[View, ChosenBits], sampled: dict[View, np.ndarray], view: View) -> str:
    """The widths at a view, with their interval, and the variant that answered most of its pictures."""
    if view not in chosen:
        return ""
    bits = chosen[view]
    interval = ""
    if sampled:
        estimate = Estimate.of(sampled[view])
        interval = f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    share, name = max((share, name) for name, share in bits.shares.items())
    return f"{bits.w_bits:.2f} / {bits.a_bits:.2f}{interval}, {name} {100 * share:.0f} %"


def _name(view: View) -> str:
    family, severity = view
    return family if family == "clean" else f"{family} {severity}"
