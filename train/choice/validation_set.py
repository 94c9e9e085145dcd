"""What a choice among variants is learned from: outcomes on validation pictures, and the facts that go with them."""

from dataclasses import dataclass, replace

import numpy as np

from runtime.choice.quality import NAMES
from train.evidence.evidence import Evidence
from train.evidence.outcomes import Outcomes


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """Outcomes of V variants on M pictures that none of them was trained on.

    kinds: int64 [M], the kind of quality of each picture; subjects: int64 [M], which picture each is a view of; costs:
    float64 [V] relative to 8 bits; shared: bool [V], variants for pictures of every kind, of which one of an unseen
    kind may get one.
    """

    outcomes: Outcomes
    kinds: np.ndarray
    subjects: np.ndarray
    costs: np.ndarray
    shared: np.ndarray

    @classmethod
    def of_evidence(cls, evidence: Evidence) -> "ValidationSet":
        """Takes the validation pictures of a run's evidence."""
        return cls(evidence.validation, evidence.kinds, evidence.subjects, evidence.costs, evidence.shared)

    def __len__(self) -> int:
        """How many pictures there are (M)."""
        return len(self.outcomes)

    @property
    def correct(self) -> np.ndarray:
        """Whether each variant gets each picture right, [M, V]."""
        return self.outcomes.correct

    @property
    def features(self) -> np.ndarray:
        """Quality features of the pictures, int32 [M, D]."""
        return self.outcomes.features

    def of_variants(self, indices: list[int]) -> "ValidationSet":
        """Returns the same pictures with some of the variants."""
        outcomes = self.outcomes.of_variants(indices)
        return replace(self, outcomes=outcomes, costs=self.costs[indices], shared=self.shared[indices])

    def of_pictures(self, rows: np.ndarray) -> "ValidationSet":
        """Returns the same variants on some of the pictures; rows: indices int64 [n], or a mask bool [M]."""
        outcomes = self.outcomes.of_pictures(rows)
        return replace(self, outcomes=outcomes, kinds=self.kinds[rows], subjects=self.subjects[rows])

    def require_sound(self) -> None:
        """Raises ValueError unless shapes, types and values of the arrays are as this class says."""
        count = len(self)
        features, correct = self.features, self.correct
        costs, shared = self.costs, self.shared
        if features.dtype != np.int32 or features.shape != (count, len(NAMES)) or count < 2:
            raise ValueError(
                f"expected features int32 [M >= 2, {len(NAMES)}], got {features.dtype} {list(features.shape)}"
            )
        if correct.shape != (count, len(costs)) or not np.isin(correct, (0, 1)).all():
            raise ValueError(
                f"expected correct 0 or 1 [{count}, {len(costs)}], got {correct.dtype} {list(correct.shape)}"
            )
        if self.kinds.shape != (count,) or not (np.isfinite(costs).all() and (costs >= 0).all()):
            raise ValueError(f"expected kinds [{count}] and costs >= 0, got {list(self.kinds.shape)} and {costs}")
        if shared.shape != costs.shape or shared.dtype != bool or not shared.any():
            raise ValueError(
                f"expected shared bool [{len(costs)}], at least one true: variants for pictures of unseen "
                f"kinds; got {shared.tolist()}"
            )
