"""The swap test: every private variant on the pictures of every quality group. Each should be best on its own."""

from collections import Counter

import numpy as np

from train.evidence.evidence import Evidence
from train.kinds.kinds import Kinds
from train.report.bootstrap import Estimate, resampled
from train.report.compare import SEED, TRAINED, panel_weights
from train.report.does_it_pay import against


def swap(evidence: Evidence, groups: Kinds) -> list[str]:
    """Lines of a section; none without private variants. Of the level of the best static, else of the first."""
    levels = [k for k in evidence.ladder if evidence.private(k)]
    if not levels:
        return []
    static = int(evidence.arms["static"].variant[0])
    base = static if static in levels else levels[0]
    rows, weights = [base, *evidence.private(base)], panel_weights(evidence)[TRAINED]
    of_picture = groups.classify(evidence.test.features)
    columns = [k for k in range(len(groups)) if (evidence.by_view(of_picture == k).any(1) * weights).any()]
    sampled = accuracies(evidence, of_picture, columns, rows, weights)
    lines = [
        f"## Private variants of `{evidence.variants[base].name}` swapped",
        "",
        "Accuracy in percent of each variant (row) on the test pictures of each quality group (column), training "
        "families; groups by quality features, as on a device. Bold: on its own group.",
        "",
        "| variant | "
        + " | ".join(f"group {k}: {_made_of(evidence, of_picture == k, weights)}" for k in columns)
        + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for r, row in enumerate(rows):
        own = evidence.variants[row].groups
        cells = [f"{'**' * (k in own)}{100 * sampled[0, r, c]:.2f}{'**' * (k in own)}" for c, k in enumerate(columns)]
        lines.append(f"| `{evidence.variants[row].name}`{'' if own else ' (shared)'} | {' | '.join(cells)} |")
    return [*lines, "", *_in_words(evidence, rows, columns, sampled), ""]


def accuracies(
    evidence: Evidence, of_picture: np.ndarray, columns: list[int], rows: list[int], weights: np.ndarray
) -> np.ndarray:
    """[1 + R, rows, columns]: of the views of each group, as they are and in every resample; weights: of views [J]."""
    inside = evidence.by_view(of_picture[:, None] == np.array(columns)).astype(np.float64)
    right = evidence.by_view(evidence.test.correct[:, rows]).astype(np.float64)
    hits = np.einsum("j,jnr,jnc->nrc", weights, right, inside)
    count = np.einsum("j,jnc->nc", weights, inside)[:, None]
    sampled = resampled(np.concatenate([hits, count], 1).reshape(len(hits), -1), SEED)
    sampled = sampled.reshape(len(sampled), len(rows) + 1, len(columns))
    with np.errstate(invalid="ignore"):  # a resample without any picture of a small group
        return np.nan_to_num(sampled[:, :-1] / sampled[:, -1:])


def _in_words(evidence: Evidence, rows: list[int], columns: list[int], sampled: np.ndarray) -> list[str]:
    """Whether each private variant is better on its group than the shared one, and than the best of the others."""
    lines, wins, told = [], 0, 0
    for r, row in enumerate(rows[1:], 1):
        variant = evidence.variants[row]
        for c in (columns.index(k) for k in variant.groups if k in columns):
            mine, others = sampled[:, r, c], [o for o in range(1, len(rows)) if o != r]
            name = {o: f"`{evidence.variants[rows[o]].name}`" for o in (0, *others)}
            over = {f"the shared {name[0]}": Estimate.of(mine - sampled[:, 0, c])}
            if others:
                best = max(others, key=lambda o: sampled[0, o, c])
                over[f"the next best, {name[best]},"] = Estimate.of(mine - sampled[:, best, c])
            wins, told = wins + all(e.verdict > 0 for e in over.values()), told + 1
            lines.append(
                f"* `{variant.name}` on its own group is "
                + "; ".join(against(e, what) for what, e in over.items())
                + "."
            )
    summary = f"{wins} of {told} private variants are better on their own group than the shared one and all others."
    return [summary, "", *lines] if told else []


def _made_of(evidence: Evidence, inside: np.ndarray, weights: np.ndarray) -> str:
    """The families that a group's pictures are mostly of."""
    share, total = Counter(), 0.0
    for (family, _), part in zip(evidence.places, weights * evidence.by_view(inside).mean(1), strict=True):
        share[family], total = share[family] + part, total + part
    return ", ".join(f"{100 * s / total:.0f} % {family}" for family, s in share.most_common(2) if s > 0)
