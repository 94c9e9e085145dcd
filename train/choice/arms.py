"""The arms of a run: ways to answer the same pictures with the same variants, from all together to each idea alone.

    static    one variant for every picture: the best within the budget
    private   the static one's bits, one of its private variants by quality: the same cost
    bits      variants with weights of their own, by quality
    cascade   the same variants, the first alike for all pictures, a dearer one where it is unsure
    adaptive  all together, as exported
    random    adaptive's variants in the same shares, whatever the picture
    shuffled  adaptive with the quality of another picture, of any view
    oracle    for every true family and severity one variant, within the budget; one for families never trained with

All that is learned or picked, static and oracle too, is so on validation pictures.
"""

from dataclasses import replace

import numpy as np

from train.choice.fit import Choice, fit_choice
from train.choice.unseen_kinds import careful_inside
from train.evidence.evidence import Evidence, Taken
from train.evidence.outcomes import Outcomes

FULL_COST = 32 * 32 / (8 * 8)  # of the float network, relative to 8-bit weights and activations
BY_RULE = ("fp32", "static", "private", "bits", "cascade", "adaptive", "random", "shuffled", "oracle")
WAY = {"fp32": "fp32", "random": "shares", "oracle": "groups"}  # what stands for the variant in a record

Answers = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]  # (arm, variant) -> correct, cost, float64 [J, N] each


def choose(evidence: Evidence, budget: float, seed: int, *, escalate: bool, most: float) -> tuple[Choice, Evidence]:
    """The choice to export, learned on validation pictures, and the evidence with what every arm did.

    most: accuracy that a kind of quality never seen may lose (`train.choice.unseen_kinds`).
    """
    seen, kinds, shared = evidence.seen, evidence.kinds, evidence.shared
    inside = careful_inside(seen, kinds, evidence.costs, seed, shared=shared, most=most)
    choice = fit_choice(
        seen,
        kinds,
        evidence.costs,
        budget,
        seed,
        shared=shared,
        escalate=escalate,
        inside=inside,
        pictures=evidence.subjects,
    )
    return choice, take(evidence, choice, budget, seed)


def take(evidence: Evidence, choice: Choice, budget: float, seed: int) -> Evidence:
    """The same with what each arm did on the test pictures; arms that make no sense here are left out.

    choice: the exported one, of all variants.
    """
    test, ladder = evidence.test, evidence.ladder
    static = best_static(evidence, budget)
    private = [static, *evidence.private(static)]
    levels = len({evidence.costs[k] for k in ladder}) > 1
    arms = {"static": _alike(static, evidence)}
    whole = len(evidence.variants) if choice.escalation is None else 0  # a part that is all of adaptive shows nothing
    if 1 < len(private) != whole:
        arms["private"] = _part(evidence, private, evidence.costs[static], seed, inside=choice.inside[private])
    if 1 < len(ladder) != whole:
        arms["bits"] = _part(evidence, ladder, budget, seed, inside=choice.inside[ladder])
    if levels:
        arms["cascade"] = _part(evidence, ladder, budget, seed, escalate=True, by_quality=False)
    arms["adaptive"] = Taken(*choice.run(test))
    if len(evidence.variants) > 1:
        order = np.random.default_rng(seed).permutation(len(test))
        arms["shuffled"] = Taken(*choice.run(replace(test, features=test.features[order])))
        arms["oracle"] = _oracle(evidence, static, budget)
    return replace(evidence, arms=arms, curve=_curve(evidence, choice))


def best_static(evidence: Evidence, budget: float) -> int:
    """Of the variants with weights of their own, the one that gets most right in validation; the cheaper of equals.

    A budget below the cheapest means that one.
    """
    costs = evidence.costs
    limit = max(budget, costs[evidence.ladder].min()) * (1 + 1e-9)
    return max(
        (k for k in evidence.ladder if costs[k] <= limit), key=lambda k: (evidence.seen.correct[:, k].mean(), -costs[k])
    )


def answers(evidence: Evidence) -> Answers:
    """Of every arm and of every variant alone, the arm of these being the method that found it.

    random is given as its expectation: what every variant gets right, weighted with adaptive's shares over all views;
    it takes no second look, and costs none.
    """
    right = evidence.test.correct
    out = {("fp32", "fp32"): _views(evidence, evidence.full, FULL_COST)}
    for k, v in enumerate(evidence.variants):
        out[v.method, v.name] = _views(evidence, right[:, k], v.cost)
    for arm, taken in evidence.arms.items():
        name = evidence.variants[taken.variant[0]].name if arm == "static" else WAY.get(arm, "selector")
        out[arm, name] = _views(evidence, right[np.arange(len(right)), taken.variant], taken.cost)
    if "shuffled" in evidence.arms:
        adaptive = evidence.arms["adaptive"]
        shares = np.bincount(adaptive.variant, minlength=len(evidence.variants)) / len(right)
        out["random", "shares"] = _views(evidence, right @ shares, shares @ evidence.costs)
    return dict(sorted(out.items(), key=lambda item: _rank(item[0][0])))


def arm_records(evidence: Evidence, seed: int) -> list[dict]:
    """One of every arm on every view: counts, mean cost, and the standard error of the accuracy (0..1) there.

    Those of adaptive have "share/VARIANT" beside the common fields: for how much of the pictures the answer of which
    counted, and "w_bits", "a_bits": the mean widths of these.
    """
    given, out = answers(evidence), []
    for j, (family, severity) in enumerate(evidence.places):
        about = {
            "family": family,
            "severity": severity,
            "heldout": family in evidence.held_out,
            "pictures": evidence.pictures,
        }
        for (arm, variant), (correct, cost) in given.items():
            whole = arm != "random"
            counted = {
                "correct": int(correct[j].sum()) if whole else float(correct[j].sum()),
                "cost": _mean(cost[j]),
                "seed": seed,
                "stderr": float(correct[j].std() / evidence.pictures**0.5),
            }
            out.append({"arm": arm, "variant": variant, **about, **counted})
            if arm == "adaptive":
                out[-1] |= _chosen(evidence, j)
    return out


def _mean(cost: np.ndarray) -> float:
    """Equal costs have just this mean, with no rounding."""
    return float(cost[0] if np.ptp(cost) == 0 else cost.mean())


def _chosen(evidence: Evidence, view: int) -> dict[str, float]:
    variants = evidence.variants
    chosen = evidence.by_view(evidence.arms["adaptive"].variant)[view]
    shares = np.bincount(chosen, minlength=len(variants)) / len(chosen)
    w_bits, a_bits = (float(b) for b in shares @ np.array([(v.w_bits, v.a_bits) for v in variants]))
    return {
        "w_bits": w_bits,
        "a_bits": a_bits,
        **{f"share/{v.name}": float(s) for v, s in zip(variants, shares, strict=True)},
    }


def _rank(arm: str) -> int:
    """Float first, then the variants, then the arms in their order."""
    return BY_RULE.index(arm) if arm in BY_RULE else 0.5


def _views(evidence: Evidence, correct: np.ndarray, cost) -> tuple[np.ndarray, np.ndarray]:
    correct = correct.astype(np.float64)
    return evidence.by_view(correct), evidence.by_view(np.broadcast_to(cost, correct.shape).astype(np.float64))


def _alike(variant: int, evidence: Evidence) -> Taken:
    count = len(evidence.test)
    return Taken(np.full(count, variant), np.full(count, evidence.costs[variant]))


def _part(evidence: Evidence, chosen: list[int], budget: float, seed: int, **way) -> Taken:
    """A choice among some variants only, learned as the exported one is."""
    choice = fit_choice(
        evidence.seen.of_variants(chosen),
        evidence.kinds,
        evidence.costs[chosen],
        budget,
        seed,
        shared=evidence.shared[chosen],
        pictures=evidence.subjects,
        **way,
    )
    last, cost = choice.run(evidence.test.of_variants(chosen))
    return Taken(np.array(chosen)[last], cost)


def _curve(evidence: Evidence, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and mean cost of the choice on every view, at each budget of its table."""
    points = []
    for entry in (choice.escalation or {"budgets": choice.budgets})["budgets"]:
        margins = np.array(entry.get("margins", [0] * len(choice.costs)), np.int64)
        last, cost = replace(choice, lam=entry["lambda"], margins=margins).run(evidence.test)
        right = evidence.test.correct[np.arange(len(last)), last]
        points.append([evidence.by_view(values).mean(1) for values in (right, cost)])
    return tuple(np.array(points).transpose(1, 0, 2))


def _oracle(evidence: Evidence, static: int, budget: float) -> Taken:
    """Knows family and severity, not the label; where none was seen in validation, the static variant."""
    cells = sorted(set(zip(evidence.families.tolist(), evidence.severities.tolist(), strict=True)))
    members = [(evidence.families == f) & (evidence.severities == s) for f, s in cells]
    accuracy = np.stack([_accuracy(evidence.seen, mine) for mine in members])
    weights = np.array([mine.mean() for mine in members])
    best = dict(zip(cells, within_budget(accuracy, weights, evidence.costs, budget), strict=True))
    number = {name: k for k, name in enumerate(evidence.trained)}
    chosen = [best.get((number.get(family, -1), severity), static) for family, severity in evidence.places]
    variant = np.repeat(np.array(chosen), evidence.pictures)
    return Taken(variant, evidence.costs[variant])


def _accuracy(seen: Outcomes, mine: np.ndarray) -> np.ndarray:
    return seen.correct[mine].mean(0)


def within_budget(accuracy: np.ndarray, weights: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray:
    """The variant of each of G groups, int64 [G], that argmax(accuracy - lambda * cost) gives.

    accuracy: [G, V]; weights: shares of the groups [G]. lambda is the least that keeps the mean cost within the budget,
    which below the cheapest variant's cost means that one; of equals the cheaper is taken.
    """
    order = np.argsort(costs, kind="stable")
    gains, prices = (a[..., :, None] - a[..., None, :] for a in (accuracy[:, order], costs[order]))
    prices = np.broadcast_to(prices, gains.shape)
    slopes = gains[prices > 0] / prices[prices > 0]
    lambdas = np.unique(np.concatenate([[0.0], slopes[slopes > 0]]))
    low, high = 0, len(lambdas) - 1  # mean cost falls with lambda
    while low < high:
        middle = (low + high) // 2
        chosen = _at(lambdas[middle], accuracy, costs, order)
        low, high = (low, middle) if weights @ costs[chosen] <= budget * (1 + 1e-9) else (middle + 1, high)
    return _at(lambdas[low], accuracy, costs, order)


def _at(lam: float, accuracy: np.ndarray, costs: np.ndarray, order: np.ndarray) -> np.ndarray:
    value = accuracy[:, order] - lam * costs[order]
    nearly = value >= value.max(1, keepdims=True) - 1e-12  # at a slope two are equal but for rounding
    return order[nearly.argmax(1)]
