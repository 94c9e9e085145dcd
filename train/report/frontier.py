"""The Pareto front of static variants in cost and accuracy, its convex hull, and what lies above it.

Between two variants lies the straight line: giving each picture to one of both at random reaches every point of it.
"""

import numpy as np

from train.evidence.results import Point
from train.report.bootstrap import ROUNDING


def hull_corners(points: list[Point]) -> list[Point]:
    """Returns the corners (cost, accuracy) of the best random mixes of variants, from the cheapest to the best.

    They are the upper convex hull of the Pareto front.
    """
    hull: list[Point] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if hull and y <= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _slope(a: Point, b: Point) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else float("inf")


def over_line(accuracy: np.ndarray, cost: np.ndarray, corner_costs: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Returns accuracy [S] less that of the line through the corners at the same cost [S].

    corner_costs: [C], ascending; corners: accuracies [S, C]. The line stays level beyond its ends.
    """
    line = [np.interp(x, corner_costs, y) for x, y in zip(cost, corners, strict=True)]
    return accuracy - np.array(line)


def cost_on_line(accuracy: np.ndarray, corner_costs: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Returns the least cost [S] at which the line of `over_line` has an accuracy [S]; inf where it has it nowhere.

    corner_costs: [C], ascending; corners: accuracies [S, C].
    """
    costs = np.full(len(accuracy), np.inf)
    for s, (wanted, y) in enumerate(zip(accuracy, corners, strict=True)):
        reached = np.flatnonzero(y >= wanted - ROUNDING)
        if len(reached):
            k = reached[0]  # the line crosses between the corner before, which is lower, and this one
            before = max(k - 1, 0)
            costs[s] = np.interp(wanted, y[[before, k]], corner_costs[[before, k]]) if k else corner_costs[0]
    return costs
