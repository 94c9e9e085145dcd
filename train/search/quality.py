"""The quality of all training views, as the bit policy sees it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.kinds.finding import quality_kinds, view_features
from train.kinds.kinds import Kinds
from train.search.shared import Search


@dataclass(frozen=True, eq=False)
class ViewQuality:
    """Quality vectors of all training views, and their kinds.

    q: float32 [F, N, D]. kind: int64 [F, N]. centres: mean q of each kind, float32 [K, D]. shares: of the kinds among
    the views, float32 [K].
    """

    q: Tensor
    kind: Tensor
    centres: Tensor
    shares: Tensor

    @classmethod
    def of(cls, kinds: Kinds, quality: np.ndarray) -> "ViewQuality":
        """Returns the quality of views with features int32 [F, N, D].

        Every kind has a centre: the Gaussian's own mean where no view is of it.
        """
        q = kinds.standardize(quality)
        kind = kinds.classify_standardized(q)
        counts = np.bincount(kind.reshape(-1), minlength=len(kinds))
        means = [q[kind == k].mean(0) if counts[k] else kinds.means[k] for k in range(len(kinds))]
        return cls(
            torch.from_numpy(q),
            torch.from_numpy(kind),
            torch.tensor(np.stack(means)).float(),
            torch.from_numpy(counts / counts.sum()).float(),
        )


def find_quality(search: Search) -> tuple[Kinds, ViewQuality]:
    """Returns the kinds found on a spread of the training views, and the quality of all of them."""
    session = search.session
    settings = search.settings
    net = session.networks.full_precision
    kinds = quality_kinds(session.batches, net, settings.private.kinds, settings.training.seed)
    return kinds, ViewQuality.of(kinds, view_features(session.batches.views_numpy()))
