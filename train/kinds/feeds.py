"""Which pictures which variants learn from and are judged by: those of their own kinds of quality, or all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from runtime.choice.quality import features
from train.bits.configs import Configs
from train.data.batches import Batches, Held
from train.kinds.finding import view_features
from train.kinds.kinds import Kinds
from train.loop.phase import Feed
from train.network.network import Network
from train.network.statistics import check_float_answers


@dataclass(frozen=True, eq=False, kw_only=True)
class JudgedFeed(Feed):
    """Variants that learn from the same pictures, with the held pictures that they are judged by."""

    held: Held


def make_feeds(configs: Configs, batches: Batches, held: Held) -> list[JudgedFeed]:
    """Returns one feed for each set of quality kinds that variants are for.

    Variants are judged on the held pictures of their kinds, on all of them where none is of these kinds.
    """
    if all(not v.kinds for v in configs.variants):
        return [JudgedFeed(tuple(v.name for v in configs.variants), held=held)]
    kinds = Kinds.from_dict(configs.kinds or {})
    kind_of_view = kinds.classify(view_features(batches.views_numpy()))
    kind_of_held = kinds.classify(features(held.pictures))
    feeds = []
    for own_kinds in sorted({v.kinds for v in configs.variants}):
        variants = tuple(v.name for v in configs.variants if v.kinds == own_kinds)
        own = np.isin(kind_of_view, own_kinds)
        judged = np.isin(kind_of_held, own_kinds)
        views = torch.from_numpy(own) if own_kinds and own.any() else None
        part = Held(held.pictures[judged], held.labels[judged]) if judged.any() else held
        feeds.append(JudgedFeed(variants, views, held=part))
    return feeds


def accuracy(net: Network, variant: str, held: Held, device: torch.device) -> float:
    """Returns the share of the held pictures that a variant of the float network has right."""
    return float(check_float_answers(net, variant, held.pictures, held.labels, device).mean())


def accuracies(net: Network, feeds: Sequence[JudgedFeed], device: torch.device) -> dict[str, float]:
    """Returns "accuracy/VARIANT" -> accuracy of all variants of the feeds, as the journal gets them."""
    return {
        f"accuracy/{variant}": accuracy(net, variant, feed.held, device) for feed in feeds for variant in feed.variants
    }
