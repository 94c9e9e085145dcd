"""Measures a run: each variant on validation and test pictures, in integer arithmetic, and the float network."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from targets.reference.graph import Graph, macs
from train.bits.configs import Configuration
from train.evidence.evidence import Evidence, Measured, Place
from train.evidence.outcomes import Outcomes
from train.kinds.kinds import Kinds
from train.network.network import FULL, Network
from train.network.statistics import check_float_answers

Views = dict[Place, np.ndarray]  # (family, severity) -> uint8 [N, H, W, 3]


def measured(variant: Configuration, graph: Graph, cost: float) -> Measured:
    """What is to be known of a variant; cost: of 8 bits everywhere, as the run counts it."""
    bits, counts = graph.bit_config(), macs(graph)
    w_bits, a_bits = (sum(n * bits[name][k] for name, n in counts.items()) / sum(counts.values()) for k in (0, 1))
    return Measured(variant.name, variant.method, cost, w_bits, a_bits, variant.kinds, variant.base)


def measure(
    variants: tuple[Measured, ...],
    answered: Callable[[str, np.ndarray, np.ndarray], Outcomes],
    teacher: Network,
    seen: np.ndarray,
    seen_labels: np.ndarray,
    severities: np.ndarray,
    trained: tuple[str, ...],
    views: Views,
    labels: np.ndarray,
    groups: Kinds | None,
    device,
) -> Evidence:
    """Evidence without arms or a curve.

    answered: outcomes of all variants, in their order, of a part's name, its pictures and labels. seen: validation
    pictures uint8 [F, M, H, W, 3], a row for each family of `trained`, with labels int64 [M] and severities [F, M];
    views: test pictures, the same N in each, with labels int64 [N]; groups: how kinds of quality are told apart, None
    where families are the kinds.
    """
    families, count = seen.shape[:2]
    learned = _joined(
        [answered(f"validation-{family}", row, seen_labels) for family, row in zip(trained, seen, strict=True)]
    )
    test = _joined(
        [answered(f"test-{family}-{severity}", pictures, labels) for (family, severity), pictures in views.items()]
    )
    full = [check_float_answers(teacher, FULL, pictures, labels, device) for pictures in views.values()]
    families_of = np.repeat(np.arange(families), count)
    kinds = families_of if groups is None else groups.classify(learned.features)
    return Evidence(
        variants,
        tuple(views),
        tuple(dict.fromkeys(f for f, _ in views if f not in trained)),
        trained,
        labels,
        test,
        np.concatenate(full),
        learned,
        families_of,
        severities.reshape(-1).astype(np.int64),
        kinds,
        {},
        (np.empty((0, len(views))),) * 2,
    )


def _joined(parts: list[Outcomes]) -> Outcomes:
    return Outcomes(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Outcomes)))


def accuracy_by_family(records: list[dict], arm: str, variant: str) -> dict[str, float]:
    """Mean over severities."""
    mine = [r for r in records if (r["arm"], r["variant"]) == (arm, variant)]
    return {
        f: float(np.mean([r["correct"] / r["pictures"] for r in mine if r["family"] == f]))
        for f in dict.fromkeys(r["family"] for r in mine)
    }


def mean_cost(records: list[dict], arm: str, variant: str) -> float:
    """Families weigh alike, as in the means of accuracy."""
    by_family = {}
    for r in records:
        if (r["arm"], r["variant"]) == (arm, variant):
            by_family.setdefault(r["family"], []).append(r["cost"])
    return float(np.mean([np.mean(costs) for costs in by_family.values()]))
