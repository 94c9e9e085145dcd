"""The report's section "Does it pay?": every arm against static variants at equal cost, in words by rule."""

from collections.abc import Mapping

import numpy as np

from train.evidence.evidence import Evidence
from train.evidence.results import Arm
from train.report.bootstrap import Estimate
from train.report.compare import CLEAN, FIXED, HELD_OUT, RIVAL, TRAINED, Comparison, arm_named
from train.report.sentences import versus, with_interval
from train.report.tables import TIMES, markdown_table

# what is ablated: each idea alone, and all together
IDEAS = {
    "private": "private variants chosen by quality, at the bits of the best static",
    "bits": "bits chosen by quality",
    "cascade": "a second pass where the first is unsure, alike for all qualities",
    "adaptive": "all together, as exported",
}
# controls and bound, against which the whole is held
CONTROLS = {
    "shuffled": "itself with the quality of other pictures",
    "random": "the same variants at random",
    "oracle": "one variant for each true family and severity",
}
TITLE = "Does it pay?"
NEVER = "never reached"
EQUAL_COST = "static variants at equal cost"


def does_it_pay(evidence: Evidence, compared: Mapping[str, Comparison]) -> list[str]:
    """Returns the lines of the section."""
    lines = [f"## {TITLE}", "", *verdicts(compared), "", *_controls(compared[TRAINED])]
    lines += ["", *_against_full_precision(compared), *_learned_bits(evidence, compared)]
    for panel, comparison in compared.items():
        lines += [f"{panel.capitalize()}:", "", *_table(evidence, comparison, with_ratio=panel == TRAINED), ""]
    return [*lines, *_notes(evidence, compared)]


def verdicts(compared: Mapping[str, Comparison]) -> list[str]:
    """Returns a sentence on the whole, and then a line on every idea."""
    trained = compared[TRAINED]
    lines = []
    paying = []
    for name, meaning in IDEAS.items():
        arm = arm_named(trained.accuracy, name)
        if arm is None:
            continue
        gain = trained.gain(arm)
        parts = [versus(gain, EQUAL_COST)]
        if gain.verdict > 0:
            paying.append(name)
            parts.append(_where_static_reaches(trained.cost_ratio(arm)))
        others = {panel: c for panel, c in compared.items() if panel != TRAINED}
        parts += [f"{panel}: {versus(c.gain(arm), 'these')}" for panel, c in others.items()]
        lines.append(f"* **{name}** ({meaning}): {'; '.join(parts)}.")
    if paying:
        total = f"On the {TRAINED}, this pays: {', '.join(paying)}."
    else:
        total = f"On the {TRAINED} nothing pays: no arm is better than {EQUAL_COST}."
    return [total, "", *lines]


def _where_static_reaches(ratio: Estimate) -> str:
    if np.isinf(ratio.value):
        return "no mix of static variants reaches its accuracy"
    high = "none" if np.isinf(ratio.high) else f"{ratio.high:.2f}"
    return f"static variants reach its accuracy at {ratio.value:.2f} times its cost [{ratio.low:.2f}, {high}]"


def _controls(comparison: Comparison) -> list[str]:
    """Whether the selector's knowledge of the picture matters, and how far it is from knowing the kind of quality."""
    adaptive = arm_named(comparison.accuracy, "adaptive")
    if adaptive is None:
        return []
    parts = []
    for name, meaning in CONTROLS.items():
        other = arm_named(comparison.accuracy, name)
        if other is not None:
            cost = with_interval(comparison.cost_difference(adaptive, other).scaled(1), 3)
            parts.append(f"{versus(comparison.difference(adaptive, other), meaning)} at a cost {cost} apart")
    return [f"On the {TRAINED}, adaptive is {'; '.join(parts)}."] if parts else []


def _against_full_precision(compared: Mapping[str, Comparison]) -> list[str]:
    """The whole against the network of full precision, also over the families of both panels."""
    panels = dict(compared)
    if HELD_OUT in compared:
        both = compared[TRAINED].with_panel(compared[HELD_OUT])
        panels = {f"all {both.families} families": both, **panels}
    adaptive = arm_named(compared[TRAINED].accuracy, "adaptive")
    full_precision = arm_named(compared[TRAINED].accuracy, "fp32")
    if adaptive is None or full_precision is None:
        return []
    parts = [f"{panel}: {versus(c.difference(adaptive, full_precision), 'that')}" for panel, c in panels.items()]
    return [f"Against the network of full precision, adaptive is, on {'; '.join(parts)}.", ""]


def _learned_bits(evidence: Evidence, compared: Mapping[str, Comparison]) -> list[str]:
    """Every variant of learned bits against the line through those of fixed ones; none where either is lacking."""
    fixed = compared[TRAINED].fixed
    learned = [evidence.variants[k] for k in evidence.statics if evidence.variants[k].method != FIXED]
    if not fixed or not learned:
        return []
    lines = [f"Learned bits against the given ones of {', '.join(f'`{name}`' for _, name in fixed)}:", ""]
    for v in learned:
        parts = [
            f"{panel}: {versus(c.gain_over_fixed((v.method, v.name)), 'given bits at equal cost')}"
            for panel, c in compared.items()
        ]
        lines.append(f"* `{v.name}` (by `{v.method}`, cost {v.cost:.3f}): {'; '.join(parts)}.")
    return [*lines, ""]


def _table(evidence: Evidence, comparison: Comparison, with_ratio: bool) -> list[str]:
    """One row for each arm and each variant alone, private variants left out."""
    private = {v.name for v in evidence.variants if v.base}
    names = {v.name for v in evidence.variants}
    header = ["arm", "accuracy", "cost", "over static at equal cost"]
    header += ["static cost for the same accuracy"] * with_ratio
    rows = []
    for arm in comparison.accuracy:
        alone = arm[1] in names and arm[0] not in ("static", RIVAL)
        if not (alone and arm[1] in private):
            rows.append([_label(arm, alone), *_cells(comparison, arm)[: len(header) - 1]])
    return markdown_table(header, rows)


def _cells(comparison: Comparison, arm: Arm) -> list[str]:
    accuracy = Estimate.of(comparison.accuracy[arm]).scaled(100)
    measured = [f"{accuracy.value:.2f} ± {accuracy.stderr:.2f} %", f"{comparison.cost[arm][0]:.3f}"]
    if arm[0] == "fp32":
        return [*measured, "", ""]
    gain = "corner" if arm in comparison.corners else with_interval(comparison.gain(arm).scaled(100))
    return [*measured, gain, _ratio(comparison.cost_ratio(arm))]


def _ratio(ratio: Estimate) -> str:
    if np.isinf(ratio.value):
        return NEVER
    value, low, high = ("never" if np.isinf(v) else f"{v:.2f}" for v in (ratio.value, ratio.low, ratio.high))
    return f"{TIMES} {value} [{low}, {high}]"


def _label(arm: Arm, alone: bool) -> str:
    if alone or arm[0] == RIVAL:
        return f"`{arm[1]}`"
    return f"static (`{arm[1]}`)" if arm[0] == "static" else arm[0]


def _notes(evidence: Evidence, compared: Mapping[str, Comparison]) -> list[str]:
    corners = ", ".join(_label(arm, arm[0] != RIVAL) for arm in compared[TRAINED].corners)
    lines = [
        f"* Static variants at equal cost: the straight line through {corners}, the corners of their Pareto front on "
        "validation pictures.",
        f"* In brackets: the 95 % confidence interval of the paired bootstrap over {evidence.pictures} test pictures, "
        "each drawn with all its views; ±: one standard error. Better or worse is said where the whole interval is on "
        "one side of 0, each interval by itself. The noise of training another time is not in it: give several runs of "
        "different seeds to `python -m train.report`.",
        "* Families of a panel weigh alike, and severities of a family; so they do in the mean costs.",
    ]
    if CLEAN not in compared:
        lines.append("* The run has no clean pictures.")
    return [*lines, ""]
