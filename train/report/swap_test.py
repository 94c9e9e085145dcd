"""The swap test: every private variant on the pictures of every kind of quality. Each should be best on its own."""

from dataclasses import dataclass

import numpy as np

from train.evidence.evidence import Evidence
from train.kinds.kinds import Kinds
from train.report.bootstrap import Estimate, resampled
from train.report.compare import SEED, TRAINED, panel_weights
from train.report.sentences import versus
from train.report.tables import markdown_table


@dataclass(frozen=True, eq=False)
class Swap:
    """Variants on kinds of quality, over the test views of training families.

    rows: variants, the shared one first; columns: kinds that occur; weights: of the views [J]; kind_of: int64 [J * N],
    the kind of each test picture; accuracy: [1 + R, rows, columns], as it is and in every resample.
    """

    rows: list[int]
    columns: list[int]
    weights: np.ndarray
    kind_of: np.ndarray
    accuracy: np.ndarray


def swap_test(evidence: Evidence, kinds: Kinds) -> list[str]:
    """Returns the lines of a section; none without private variants.

    It shows the private variants of the best static variant, where that has none those of the cheapest that has.
    """
    bases = [k for k in evidence.statics if evidence.private_of(k)]
    if not bases:
        return []
    static = int(evidence.arms["static"].variant[0])
    swap = _swap(evidence, kinds, static if static in bases else bases[0])
    names = [evidence.variants[row].name for row in swap.rows]
    lines = [
        f"## Private variants of `{names[0]}` swapped",
        "",
        "Accuracy in percent of each variant (row) on the test pictures of each kind of quality (column), training "
        "families; kinds by quality features, as on a device. Bold: on its own kind.",
        "",
        *(f"* kind {k}: {_composition(evidence, swap, k)}" for k in swap.columns),
        "",
    ]
    rows = []
    for r, row in enumerate(swap.rows):
        own = evidence.variants[row].kinds
        cells = [f"{100 * swap.accuracy[0, r, c]:.2f}" for c in range(len(swap.columns))]
        cells = [f"**{cell}**" if k in own else cell for k, cell in zip(swap.columns, cells, strict=True)]
        rows.append([f"`{names[r]}`" if own else f"`{names[r]}` (shared)", *cells])
    table = markdown_table(["variant", *(f"kind {k}" for k in swap.columns)], rows)
    return [*lines, *table, "", *_in_words(evidence, swap), ""]


def _swap(evidence: Evidence, kinds: Kinds, base: int) -> Swap:
    rows = [base, *evidence.private_of(base)]
    weights = panel_weights(evidence)[TRAINED]
    kind_of = kinds.classify(evidence.test.features)
    columns = [k for k in range(len(kinds)) if (evidence.by_view(kind_of == k).any(1) * weights).any()]
    inside = evidence.by_view(kind_of[:, None] == np.array(columns)).astype(np.float64)
    right = evidence.by_view(evidence.test.correct[:, rows]).astype(np.float64)
    return Swap(rows, columns, weights, kind_of, _sampled_accuracy(right, inside, weights))


def _sampled_accuracy(right: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[1 + R, rows, columns] of right answers [J, N, rows], pictures of each kind [J, N, columns], weights [J]."""
    rows, columns = right.shape[2], inside.shape[2]
    hits = np.einsum("j,jnr,jnc->nrc", weights, right, inside)
    count = np.einsum("j,jnc->nc", weights, inside)[:, None]
    sampled = resampled(np.concatenate([hits, count], 1).reshape(len(hits), -1), SEED)
    sampled = sampled.reshape(len(sampled), rows + 1, columns)
    with np.errstate(invalid="ignore"):  # a resample without any picture of a small kind
        return np.nan_to_num(sampled[:, :-1] / sampled[:, -1:])


def _in_words(evidence: Evidence, swap: Swap) -> list[str]:
    """Whether each private variant is better on its kind than the shared one, and than the best of the others."""
    lines = []
    wins = 0
    for r, row in enumerate(swap.rows[1:], 1):
        variant = evidence.variants[row]
        for c in (swap.columns.index(k) for k in variant.kinds if k in swap.columns):
            over = _differences(evidence, swap, r, c)
            wins += all(difference.verdict > 0 for difference in over.values())
            parts = [versus(difference, what) for what, difference in over.items()]
            lines.append(f"* `{variant.name}` on its own kind is {'; '.join(parts)}.")
    if not lines:
        return []
    total = f"{wins} of {len(lines)} private variants are better on their own kind than the shared one and all others."
    return [total, "", *lines]


def _differences(evidence: Evidence, swap: Swap, r: int, c: int) -> dict[str, Estimate]:
    """Accuracy of row r on column c over the shared variant's, and over the best of the other private ones'."""
    own = swap.accuracy[:, r, c]
    shared = evidence.variants[swap.rows[0]].name
    over = {f"the shared `{shared}`": Estimate.of(own - swap.accuracy[:, 0, c])}
    others = [o for o in range(1, len(swap.rows)) if o != r]
    if others:
        best = max(others, key=lambda o: swap.accuracy[0, o, c])
        name = evidence.variants[swap.rows[best]].name
        over[f"the next best, `{name}`,"] = Estimate.of(own - swap.accuracy[:, best, c])
    return over


def _composition(evidence: Evidence, swap: Swap, kind: int) -> str:
    """The degradation families that a kind's pictures are mostly of."""
    shares: dict[str, float] = {}
    parts = swap.weights * evidence.by_view(swap.kind_of == kind).mean(1)
    for (family, _), part in zip(evidence.views, parts, strict=True):
        shares[family] = shares.get(family, 0.0) + part
    total = sum(parts)
    most = sorted(shares.items(), key=lambda item: -item[1])[:2]
    return ", ".join(f"{100 * share / total:.0f} % {family}" for family, share in most if share > 0)
