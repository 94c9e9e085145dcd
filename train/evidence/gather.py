"""Gathers the evidence that a trained family is judged by: all variants on validation and test pictures."""

import numpy as np

from targets.reference.graph import Graph, macs
from train.bits.configs import Configs, Configuration
from train.bits.cost import layer_cost, relative
from train.evidence.evidence import BudgetCurve, Evidence, VariantFacts
from train.evidence.outcomes import Outcomes
from train.evidence.parts import Parts
from train.evidence.pictures import JudgedPictures
from train.kinds.finding import BY_FAMILY
from train.kinds.kinds import Kinds
from train.network.network import FULL, Network
from train.network.statistics import check_float_answers
from train.settings.settings import Settings


def gather_evidence(
    settings: Settings, pictures: JudgedPictures, full_precision: Network, configs: Configs, parts: Parts
) -> Evidence:
    """Answers all pictures but the mixed ones with every variant; the evidence has no arms and no curve yet."""
    trained = settings.data.training_families
    price = layer_cost(settings.bits.cost, settings.bits.target)
    variants = tuple(
        variant_facts(v, parts.graphs[v.name], relative(price, full_precision.arch, v.bits)) for v in configs.variants
    )
    validation = joined(
        [
            parts.outcomes(f"validation-{family}", row, pictures.validation_labels)
            for family, row in zip(trained, pictures.validation, strict=True)
        ]
    )
    test = joined(
        [
            parts.outcomes(f"test-{family}-{severity}", view, pictures.labels)
            for (family, severity), view in pictures.views.items()
        ]
    )
    right = [
        check_float_answers(full_precision, FULL, view, pictures.labels, parts.device)
        for view in pictures.views.values()
    ]
    families = np.repeat(np.arange(len(trained)), len(pictures.validation_labels))
    kinds = _kinds_without_labels(settings, configs)
    return Evidence(
        variants=variants,
        views=tuple(pictures.views),
        held_out=tuple(dict.fromkeys(family for family, _ in pictures.views if family not in trained)),
        trained=trained,
        labels=pictures.labels,
        test=test,
        full_precision=np.concatenate(right),
        validation=validation,
        families=families,
        severities=pictures.severities.reshape(-1).astype(np.int64),
        kinds=families if kinds is None else kinds.classify(validation.features),
        arms={},
        curve=BudgetCurve.empty(len(pictures.views)),
    )


def count_right_on_mixed(pictures: JudgedPictures, parts: Parts) -> dict[str, int]:
    """Counts the mixed pictures that each variant gets right; a bundle of the run must get as many right."""
    outcomes = parts.outcomes("mixed", np.asarray(pictures.mixed), pictures.mixed_labels)
    return {name: int(count) for name, count in zip(parts.graphs, outcomes.correct.sum(0), strict=True)}


def variant_facts(variant: Configuration, graph: Graph, cost: float) -> VariantFacts:
    """Returns the facts about one variant; cost: relative to the same network at 8 bits, in the run's unit."""
    bits = graph.bit_config()
    counts = macs(graph)
    total = sum(counts.values())
    w_bits = sum(count * bits[name][0] for name, count in counts.items()) / total
    a_bits = sum(count * bits[name][1] for name, count in counts.items()) / total
    return VariantFacts(variant.name, variant.method, cost, w_bits, a_bits, variant.kinds, variant.base)


def _kinds_without_labels(settings: Settings, configs: Configs) -> Kinds | None:
    """The kinds of quality that were found without labels; None where a picture's degradation family is its kind."""
    by_family = settings.private.kinds == BY_FAMILY and len(settings.data.training_families) > 1
    return None if by_family or not configs.kinds else Kinds.from_dict(configs.kinds)


def joined(parts: list[Outcomes]) -> Outcomes:
    """Returns the outcomes of several parts, one after the other."""
    return Outcomes(
        features=np.concatenate([part.features for part in parts]),
        correct=np.concatenate([part.correct for part in parts]),
        margin=np.concatenate([part.margin for part in parts]),
    )
