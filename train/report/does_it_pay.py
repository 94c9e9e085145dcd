"""The report's section "Does it pay?": every arm against static variants at equal cost, in words by rule."""

import numpy as np

from train.evidence.evidence import Evidence
from train.report.bootstrap import Estimate
from train.report.compare import CLEAN, GIVEN, HELD_OUT, RIVAL, TRAINED, Arm, Comparison, arms_of, curves
from train.report.frontier import cost_on_line, over_line

IDEAS = {
    "private": "private variants chosen by quality, at the bits of the best static",
    "bits": "bits chosen by quality",
    "cascade": "escalation by confidence alone",
    "adaptive": "all together, as exported",
}
BOUND = "oracle"
TITLE = "Does it pay?"
ROWS = 9


def worth(evidence: Evidence, compared: dict[str, Comparison]) -> list[str]:
    """Lines of the section."""
    return [
        f"## {TITLE}",
        "",
        *verdicts(compared),
        "",
        *_controls(compared[TRAINED]),
        "",
        *_robust(compared),
        *_learned(evidence, compared),
        *_table(evidence, compared),
        "",
        *_notes(evidence, compared),
    ]


def at_budgets(evidence: Evidence, compared: dict[str, Comparison]) -> list[str]:
    """A section with the exported choice at ROWS budgets of its table, about evenly apart; none without a curve."""
    if len(evidence.curve[0]) < 2:
        return []
    given = curves(evidence)
    price = np.log([cost for cost, _ in given[TRAINED]])
    rows = dict.fromkeys(int(np.abs(price - x).argmin()) for x in np.linspace(price[0], price[-1], ROWS))
    lines = [
        "## At other budgets",
        "",
        "The same selector with other budgets, on the test pictures: accuracy, how far it is above static "
        "variants at equal cost, and what static variants cost for the same accuracy, as a multiple. Without "
        "intervals: those of the budget above are about right for its neighbours.",
        "",
        "| " + " | ".join(f"{p}: cost | accuracy | over static | static cost" for p in compared) + " |",
        "|" + " ---: |" * (4 * len(compared)),
    ]
    for k in rows:
        cells = [cell for panel, c in compared.items() for cell in _at_budget(*given[panel][k], c.line())]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _at_budget(cost: float, accuracy: float, line: list[tuple[float, float]]) -> tuple[str, ...]:
    corner_costs, corners = np.array(line).T
    gain = over_line(np.array([accuracy]), np.array([cost]), corner_costs, corners[None])[0]
    ratio = cost_on_line(np.array([accuracy]), corner_costs, corners[None])[0] / cost
    return f"{cost:.3f}", f"{accuracy:.2f} %", f"{gain:+.2f}", "never reached" if np.isinf(ratio) else f"× {ratio:.2f}"


def against(e: Estimate, what: str) -> str:
    """A difference in accuracy in words: which is better only where the whole interval says so."""
    said = e.scaled(100)
    interval = f"[{said.low:.2f}, {said.high:.2f}]"
    if e.verdict > 0:
        return f"better than {what} by {said.value:.2f} points {interval}"
    if e.verdict < 0:
        return f"worse than {what} by {-said.value:.2f} points [{-said.high:.2f}, {-said.low:.2f}]"
    return f"not better than {what} ({said.value:+.2f} points {interval})"


def verdicts(compared: dict[str, Comparison]) -> list[str]:
    """A sentence on the whole, then a line on every idea."""
    trained, lines, pays = compared[TRAINED], [], []
    for name, meaning in IDEAS.items():
        arm = arms_of(trained.accuracy, name)
        if arm is None:
            continue
        gain = trained.gain(arm)
        pays += [name] * (gain.verdict > 0)
        told = [against(gain, "static variants at equal cost")]
        if gain.verdict > 0:
            told.append(_reached(trained.cost_ratio(arm)))
        told += [f"{panel}: {against(c.gain(arm), 'these')}" for panel, c in compared.items() if panel != TRAINED]
        lines.append(f"* **{name}** ({meaning}): {'; '.join(told)}.")
    total = (
        f"On the {TRAINED}, this pays: {', '.join(pays)}."
        if pays
        else f"On the {TRAINED} nothing pays: no arm is better than static variants at equal cost."
    )
    return [total, "", *lines]


def _reached(ratio: Estimate) -> str:
    if np.isinf(ratio.value):
        return "no mix of static variants reaches its accuracy"
    high = "none" if np.isinf(ratio.high) else f"{ratio.high:.2f}"
    return f"static variants reach its accuracy at {ratio.value:.2f} times its cost [{ratio.low:.2f}, {high}]"


def _controls(c: Comparison) -> list[str]:
    """Whether the selector's knowledge of the picture matters, and how far it is from knowing the kind of quality."""
    adaptive = arms_of(c.accuracy, "adaptive")
    pairs = {
        "shuffled": "itself with the quality of other pictures",
        "random": "the same variants at random",
        BOUND: "one variant for each true family and severity",
    }
    told = []
    for name, meaning in pairs.items():
        other = arms_of(c.accuracy, name)
        if other is not None:
            cost = Estimate.of(c.cost[adaptive] - c.cost[other]).scaled(1)
            told.append(
                f"{against(c.difference(adaptive, other), meaning)} at a cost {cost.value:+.3f} "
                f"[{cost.low:+.3f}, {cost.high:+.3f}] apart"
            )
    return [f"On the {TRAINED}, adaptive is {'; '.join(told)}."] if told else []


def _robust(compared: dict[str, Comparison]) -> list[str]:
    """The whole against the network of full precision, also over the families of both panels."""
    panels = dict(compared)
    if HELD_OUT in compared:
        both = compared[TRAINED].with_panel(compared[HELD_OUT])
        panels = {f"all {both.families} families": both, **panels}
    adaptive, full = (arms_of(compared[TRAINED].accuracy, name) for name in ("adaptive", "fp32"))
    if adaptive is None:
        return []
    told = "; ".join(f"{panel}: {against(c.difference(adaptive, full), 'that')}" for panel, c in panels.items())
    return [f"Against the network of full precision, adaptive is, on {told}.", ""]


def _learned(evidence: Evidence, compared: dict[str, Comparison]) -> list[str]:
    """Every variant of learned bits against the line through those of given ones; none where a kind is lacking."""
    given = compared[TRAINED].given
    learned = [evidence.variants[k] for k in evidence.ladder if evidence.variants[k].method != GIVEN]
    if not given or not learned:
        return []
    lines = [f"Learned bits against the given ones of {', '.join(f'`{name}`' for _, name in given)}:", ""]
    for v in learned:
        told = [
            f"{panel}: {against(c.gain_over_given((v.method, v.name)), 'given bits at equal cost')}"
            for panel, c in compared.items()
        ]
        lines.append(f"* `{v.name}` (by `{v.method}`, cost {v.cost:.3f}): {'; '.join(told)}.")
    return [*lines, ""]


def _table(evidence: Evidence, compared: dict[str, Comparison]) -> list[str]:
    private = {v.name for v in evidence.variants if v.base}
    single = {v.name for v in evidence.variants}
    lines = [
        "| arm | "
        + " | ".join(f"{p}: accuracy | cost | over static at equal cost" for p in compared)
        + " | static cost for the same accuracy |",
        "| --- |" + " ---: |" * (3 * len(compared) + 1),
    ]
    for arm in compared[TRAINED].accuracy:
        alone = arm[1] in single and arm[0] not in ("static", RIVAL)
        if alone and arm[1] in private:
            continue
        cells = [cell for c in compared.values() for cell in _cells(c, arm)]
        ratio = "" if arm[0] == "fp32" else _ratio(compared[TRAINED].cost_ratio(arm))
        lines.append(f"| {_named(arm, alone)} | {' | '.join(cells)} | {ratio} |")
    return lines


def _cells(c: Comparison, arm: Arm) -> list[str]:
    accuracy = Estimate.of(c.accuracy[arm]).scaled(100)
    told = [f"{accuracy.value:.2f} ± {accuracy.stderr:.2f} %", f"{c.cost[arm][0]:.3f}"]
    if arm[0] == "fp32":
        return [*told, ""]
    gain = c.gain(arm).scaled(100)
    return [*told, "corner" if arm in c.corners else f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"]


def _ratio(e: Estimate) -> str:
    ends = (e.value, e.low, e.high)
    value, low, high = ("never" if np.isinf(v) else f"{v:.2f}" for v in ends)
    return f"× {value} [{low}, {high}]" if np.isfinite(e.value) else "never reached"


def _named(arm: Arm, alone: bool) -> str:
    if alone:
        return f"`{arm[1]}`"
    return {"static": f"static (`{arm[1]}`)", RIVAL: f"`{arm[1]}`"}.get(arm[0], arm[0])


def _notes(evidence: Evidence, compared: dict[str, Comparison]) -> list[str]:
    corners = ", ".join(_named(arm, arm[0] != RIVAL) for arm in compared[TRAINED].corners)
    lines = [
        f"* Static variants at equal cost: the straight line through {corners}, the corners of the accuracy-cost "
        "frontier on validation pictures; random choice between two neighbours reaches every point of it.",
        f"* In brackets: 95 % of the paired bootstrap over {evidence.pictures} test pictures, each drawn with all its "
        "views; ±: one standard error. Better or worse is said where the whole interval is on one side of 0, each "
        "interval by itself. The noise of training another time is not in it: give several runs of different seeds to "
        "`python -m train.report`.",
        "* Families of a panel weigh alike, and severities of a family; so they do in the mean costs.",
        "* shuffled: the features of all test pictures and views together are dealt out anew. oracle: knows family and "
        "severity, not the label; its variants too are picked on validation pictures, and families never trained with "
        "get the static one.",
    ]
    if CLEAN not in compared:
        lines.append("* The run has no clean pictures.")
    return [*lines, ""]
