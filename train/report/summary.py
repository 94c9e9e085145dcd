"""The two sentences that a report begins with: what to deploy, and what it gains."""

from collections.abc import Mapping

from train.evidence.results import Arm, Point
from train.report.compare import TRAINED, Comparison, arm_named
from train.report.sentences import versus


def summary(compared: Mapping[str, Comparison]) -> list[str]:
    """Returns two sentences by rule: the whole family where its choice pays on training families, else one variant."""
    trained = compared[TRAINED]
    adaptive = arm_named(trained.accuracy, "adaptive")
    static = arm_named(trained.accuracy, "static")
    if adaptive is None or static is None:
        return ["Deploy the variant that fits your budget.", "The run has no arm that chooses among its variants."]
    gain = versus(trained.gain(adaptive), "static variants at equal cost")
    if trained.gain(adaptive).verdict > 0:
        cost = trained.cost[adaptive][0]
        return [
            "Deploy the whole family with its selector (`adaptive`), which picks a variant for each picture.",
            f"On the {TRAINED} it is {gain}, at a mean cost of {cost:.3f} of 8 bits everywhere.",
        ]
    return [
        f"Deploy the single variant `{static[1]}`, the best one within the budget, for every picture.",
        f"Choosing by picture gains nothing for sure: on the {TRAINED} the family with its selector is {gain}.",
    ]


def summary_without_outcomes(points: Mapping[Arm, Point]) -> list[str]:
    """Returns two sentences for a run without outcomes.npz, from (cost, percent) of each arm on training families."""
    adaptive = arm_named(points, "adaptive")
    if adaptive is None:
        return [
            "Deploy the variant that fits your budget.",
            "The run has no results of a selector, so nothing can be said of choosing by picture.",
        ]
    cost, percent = points[adaptive]
    return [
        "Deploy the whole family with its selector (`adaptive`), which picks a variant for each picture.",
        f"On the {TRAINED} it gets {percent:.2f} % at a mean cost of {cost:.3f} of 8 bits everywhere; whether that is "
        "a gain over static variants cannot be said without the run's outcomes.npz.",
    ]
