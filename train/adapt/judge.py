"""Judges an adapted family in integers: what every variant answers on pictures that nothing was fitted to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from targets.reference.graph import relative_cost
from train.adapt.answers import float_answers
from train.adapt.family import AdaptedVariant
from train.adapt.pictures import AdaptPictures
from train.adapt.settings import AdaptSettings
from train.adapt.source import AdaptSource
from train.adapt.twins import Degraded
from train.bits.configs import Configuration
from train.data.views import evaluation_views
from train.evidence.evidence import BudgetCurve, Evidence, View
from train.evidence.gather import joined, variant_facts
from train.evidence.parts import Parts
from train.kinds.kinds import Kinds

METHOD = "adapt"


@dataclass(frozen=True, eq=False)
class Judged:
    """The pictures that judge a family: degraded validation pictures, test views, and the truth about both.

    views: (family, severity) -> uint8 [N, H, W, 3]; labels int64 [V] and [N].
    """

    validation: Degraded
    validation_labels: np.ndarray
    views: dict[View, np.ndarray]
    labels: np.ndarray

    @classmethod
    def of(cls, source: AdaptSource, pictures: AdaptPictures, settings: AdaptSettings) -> "Judged":
        """Degrades the pictures, and has the float network answer those without labels."""
        families = settings.families + settings.hold_out
        views = evaluation_views(pictures.test, families, settings.seed, settings.cache, settings.workers)
        known = [(pictures.validation_labels, pictures.validation), (pictures.test_labels, pictures.test)]
        labels = [
            float_answers(source.network, source.normalization, part) if truth is None else truth
            for truth, part in known
        ]
        return cls(Degraded.of(pictures.validation, settings), labels[0], views, labels[1])

    def count(self, variants: int) -> int:
        """Returns how many answers of so many variants there will be."""
        return variants * (len(self.validation.flat) + len(self.views) * len(self.labels))


def configuration(variant: AdaptedVariant) -> Configuration:
    """Returns what configs.json says of a variant."""
    cost = relative_cost(variant.graph)
    return Configuration(variant.name, variant.graph.bit_config(), cost, METHOD, variant.kinds, base=variant.base)


def gather(
    source: AdaptSource,
    variants: Sequence[AdaptedVariant],
    judged: Judged,
    kinds: Kinds,
    folder: Path,
    advance: Callable[[int], None],
) -> Evidence:
    """Returns the answers of all variants, without arms; parts of them are kept in `folder` for a resumed run."""
    graphs = {v.name: v.graph for v in variants}
    parts = Parts(graphs, "cpu", folder, advance)
    trained = judged.validation.families
    validation = joined(
        [
            parts.outcomes(f"validation-{family}", np.asarray(row), judged.validation_labels)
            for family, row in zip(trained, judged.validation.views, strict=True)
        ]
    )
    test = joined(
        [
            parts.outcomes(f"test-{family}-{severity}", np.asarray(view), judged.labels)
            for (family, severity), view in judged.views.items()
        ]
    )
    right = [
        float_answers(source.network, source.normalization, np.asarray(view)) == judged.labels
        for view in judged.views.values()
    ]
    return Evidence(
        variants=tuple(variant_facts(configuration(v), v.graph, relative_cost(v.graph)) for v in variants),
        views=tuple(judged.views),
        held_out=tuple(dict.fromkeys(family for family, _ in judged.views if family not in trained)),
        trained=trained,
        labels=judged.labels,
        test=test,
        full_precision=np.concatenate(right),
        validation=validation,
        families=judged.validation.family,
        severities=judged.validation.severities.reshape(-1).astype(np.int64),
        kinds=kinds.classify(validation.features),
        arms={},
        curve=BudgetCurve.empty(len(judged.views)),
    )
