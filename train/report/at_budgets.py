"""The report's section on the exported choice at other budgets."""

from collections.abc import Mapping

import numpy as np

from train.evidence.evidence import Evidence
from train.evidence.results import Point
from train.report.compare import TRAINED, Comparison, budget_curves
from train.report.does_it_pay import NEVER
from train.report.frontier import cost_on_line, over_line
from train.report.tables import TIMES, markdown_table

ROWS = 9  # budgets that are shown


def at_budgets(evidence: Evidence, compared: Mapping[str, Comparison]) -> list[str]:
    """Returns the lines of the section, ROWS budgets about evenly apart; none without a curve."""
    if len(evidence.curve) < 2:
        return []
    curves = budget_curves(evidence)
    price = np.log([cost for cost, _ in curves[TRAINED]])
    shown = dict.fromkeys(int(np.abs(price - x).argmin()) for x in np.linspace(price[0], price[-1], ROWS))
    lines = [
        "## At other budgets",
        "",
        "The same selector with other budgets, on the test pictures: accuracy, how far it is above static "
        "variants at equal cost, and what static variants cost for the same accuracy, as a multiple. Without "
        "intervals: those of the budget above are about right for its neighbours.",
        "",
    ]
    for panel, comparison in compared.items():
        rows = [_row(curves[panel][k], comparison.line()) for k in shown]
        lines += [f"{panel.capitalize()}:", ""]
        lines += [*markdown_table(["cost", "accuracy", "over static", "static cost"], rows), ""]
    return lines


def _row(point: Point, line: list[Point]) -> list[str]:
    cost, accuracy = point
    corner_costs, corners = np.array(line).T
    gain = over_line(np.array([accuracy]), np.array([cost]), corner_costs, corners[None])[0]
    ratio = cost_on_line(np.array([accuracy]), corner_costs, corners[None])[0] / cost
    reached = NEVER if np.isinf(ratio) else f"{TIMES} {ratio:.2f}"
    return [f"{cost:.3f}", f"{accuracy:.2f} %", f"{gain:+.2f}", reached]
