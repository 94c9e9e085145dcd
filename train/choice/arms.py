"""The arms of a run: ways to answer the same pictures with the same variants.

    static    one variant for every picture: the best within the budget
    private   ablation: the static one's bits, one of its private variants by quality, at the same cost
    bits      ablation: variants with weights of their own, by quality
    cascade   ablation: the same variants, the first alike for all pictures, a dearer one where it is unsure
    adaptive  all together, as exported
    random    control: adaptive's variants in the same shares, whatever the picture
    shuffled  control: adaptive with the quality of another picture, of any view
    oracle    bound: for every true family and severity one variant within the budget, the static one for families never
              trained with

All that is learned or picked, static and oracle too, is so on validation pictures.
"""

from dataclasses import replace

import numpy as np

from train.choice.fit import Choice, fit_choice
from train.choice.oracle import answer_as_oracle
from train.choice.unseen_kinds import careful_inside
from train.choice.validation_set import ValidationSet
from train.evidence.evidence import Answers, BudgetCurve, Evidence


def learn_choice(
    evidence: Evidence, budget: float, seed: int, *, escalate: bool, unseen_loss: float
) -> tuple[Choice, Evidence]:
    """Learns the choice to export on validation pictures; returns it, and the evidence with what every arm answers.

    unseen_loss: accuracy (0..1) that a kind of quality never seen may lose (`train.choice.unseen_kinds`).
    """
    validation = ValidationSet.of_evidence(evidence)
    inside = careful_inside(validation, seed, most=unseen_loss)
    choice = fit_choice(validation, budget, seed, escalate=escalate, inside=inside)
    return choice, answer_with_arms(evidence, choice, budget, seed)


def answer_with_arms(evidence: Evidence, choice: Choice, budget: float, seed: int) -> Evidence:
    """Returns the evidence with the answers of each arm to the test pictures; arms without sense here are left out.

    choice: the exported one, among all variants.
    """
    statics = evidence.statics
    static = best_static(evidence, budget)
    private = [static, *evidence.private_of(static)]
    # Without a cascade, an ablation with all variants would be adaptive again.
    all_of_adaptive = len(evidence.variants) if choice.cascade is None else 0
    arms = {"static": _answer_alike(static, evidence)}
    if 1 < len(private) != all_of_adaptive:
        inside = choice.inside[private]
        part = fit_choice(_part(evidence, private), evidence.costs[static], seed, inside=inside)
        arms["private"] = _answer_with_part(evidence, private, part)
    if 1 < len(statics) != all_of_adaptive:
        part = fit_choice(_part(evidence, statics), budget, seed, inside=choice.inside[statics])
        arms["bits"] = _answer_with_part(evidence, statics, part)
    if len({evidence.costs[k] for k in statics}) > 1:
        part = fit_choice(_part(evidence, statics), budget, seed, escalate=True, by_quality=False)
        arms["cascade"] = _answer_with_part(evidence, statics, part)
    arms["adaptive"] = choice.run(evidence.test)
    if len(evidence.variants) > 1:
        order = np.random.default_rng(seed).permutation(len(evidence.test))
        arms["shuffled"] = choice.run(replace(evidence.test, features=evidence.test.features[order]))
        arms["oracle"] = answer_as_oracle(evidence, static, budget)
    return replace(evidence, arms=arms, curve=_budget_curve(evidence, choice))


def best_static(evidence: Evidence, budget: float) -> int:
    """Returns the static variant within the budget that gets most right in validation; of equals the cheaper.

    A budget below the cheapest means that one.
    """
    costs = evidence.costs
    limit = max(budget, costs[evidence.statics].min()) * (1 + 1e-9)
    affordable = [k for k in evidence.statics if costs[k] <= limit]
    return max(affordable, key=lambda k: (evidence.validation.correct[:, k].mean(), -costs[k]))


def _answer_alike(variant: int, evidence: Evidence) -> Answers:
    count = len(evidence.test)
    return Answers(np.full(count, variant), np.full(count, evidence.costs[variant]))


def _part(evidence: Evidence, indices: list[int]) -> ValidationSet:
    """What a choice among some variants only is learned from."""
    return ValidationSet.of_evidence(evidence).of_variants(indices)


def _answer_with_part(evidence: Evidence, indices: list[int], choice: Choice) -> Answers:
    """Answers of a choice among the variants `indices`, numbered as all variants are."""
    answers = choice.run(evidence.test.of_variants(indices))
    return Answers(np.array(indices)[answers.variant], answers.cost)


def _budget_curve(evidence: Evidence, choice: Choice) -> BudgetCurve:
    """Accuracy and mean cost of the choice on every view, at each row of its table."""
    accuracy = []
    cost = []
    for row in choice.rows:
        answers = choice.at(row).run(evidence.test)
        right = evidence.test.correct[np.arange(len(evidence.test)), answers.variant]
        accuracy.append(evidence.by_view(right).mean(1))
        cost.append(evidence.by_view(answers.cost).mean(1))
    return BudgetCurve(np.array(accuracy), np.array(cost))
