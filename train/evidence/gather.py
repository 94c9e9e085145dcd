"""Gathers what a trained family is judged by: all variants on validation and test pictures, part by part.

Each part is kept in a folder until the run is whole, so that a run killed on the way goes on where it was.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from runtime.files import replacing
from targets.reference.graph import Graph
from train.bits.configs import Configs
from train.bits.cost import layer_cost, relative
from train.data.datasets import Dataset, spread
from train.data.names import FAMILIES
from train.data.views import MIXED_SEED, evaluation_views, mixed_views, severities, training_views
from train.evidence.evidence import Evidence
from train.evidence.measure import Views, measure, measured
from train.evidence.outcomes import Outcomes, outcomes
from train.kinds.finding import BY_FAMILY
from train.kinds.kinds import Kinds
from train.network.network import Network
from train.settings.settings import Settings


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a run is judged by.

    seen: validation pictures uint8 [F, M, H, W, 3], a row for each family of training, labels int64 [M], severities
    [F, M]; views: test pictures, the same N in each, labels int64 [N]; mixed: every test picture once, of a family and
    severity at random, uint8 [T, H, W, 3], labels int64 [T].
    """

    seen: np.ndarray
    seen_labels: np.ndarray
    severities: np.ndarray
    views: Views
    labels: np.ndarray
    mixed: np.ndarray
    mixed_labels: np.ndarray

    @classmethod
    def of(cls, settings: Settings, dataset: Dataset) -> "Pictures":
        trained, options = (
            settings.data.training_families,
            (settings.training.seed, settings.place.cache, settings.place.workers),
        )
        some = spread(len(dataset.val_y), settings.judging.selector_pictures)
        val = replace(dataset, train_x=dataset.val_x[some], train_y=dataset.val_y[some])
        test = spread(len(dataset.test_y), settings.judging.test_pictures)
        views = evaluation_views(dataset.test_x[test], trained + settings.data.held_out, *options)
        mixed = mixed_views(dataset.test_x, FAMILIES, MIXED_SEED, *options[1:])[0]
        return cls(
            training_views(val, trained, *options),
            val.train_y,
            severities(len(some), trained, settings.training.seed),
            views,
            dataset.test_y[test],
            mixed,
            dataset.test_y,
        )

    def __len__(self) -> int:
        """How many each variant answers."""
        return self.seen.shape[0] * self.seen.shape[1] + len(self.views) * len(self.labels) + len(self.mixed)


@dataclass(frozen=True)
class Parts:
    """Outcomes of all variants on parts of the pictures, each from the folder where it is there already.

    advance: called with how many pictures a variant has answered.
    """

    graphs: dict[str, Graph]
    device: object
    folder: Path
    advance: Callable[[int], None]

    def outcomes(self, name: str, pictures: np.ndarray, labels: np.ndarray) -> Outcomes:
        """Of pictures uint8 [M, H, W, 3] with labels int64 [M]."""
        path, key = self.folder / f"{name}.npz", digest(self.graphs, pictures, labels)
        found = _read(path, key)
        if found is None:
            found = outcomes(self.graphs, pictures, labels, self.device, self.advance)
            _write(path, key, found)
        else:
            self.advance(len(self.graphs) * len(pictures))
        return found


def gather(
    settings: Settings, pictures: Pictures, teacher: Network, found: Configs, parts: Parts
) -> tuple[Evidence, dict[str, int]]:
    """Outcomes on validation and test pictures; how many of `mixed` each variant has right, as a bundle must too."""
    cost = layer_cost(settings.bits.cost, settings.bits.target)
    variants = tuple(measured(v, parts.graphs[v.name], relative(cost, teacher.arch, v.bits)) for v in found.variants)
    evidence = measure(
        variants,
        parts.outcomes,
        teacher,
        pictures.seen,
        pictures.seen_labels,
        pictures.severities,
        settings.data.training_families,
        pictures.views,
        pictures.labels,
        _groups(settings, found),
        parts.device,
    )
    right = parts.outcomes("mixed", np.asarray(pictures.mixed), pictures.mixed_labels).correct.sum(0)
    return evidence, {name: int(count) for name, count in zip(parts.graphs, right, strict=True)}


def _groups(settings: Settings, found: Configs) -> Kinds | None:
    """The groups that were found without labels; None where a picture's family says its kind."""
    by_family = settings.private.kinds == BY_FAMILY and len(settings.data.training_families) > 1
    return None if by_family or not found.kinds else Kinds.from_dict(found.kinds)


def digest(graphs: dict[str, Graph], *arrays: np.ndarray) -> str:
    """Of all that outcomes depend on: the networks' integers, pictures and labels."""
    state = sha256()
    for name, graph in graphs.items():
        _absorb(state, (name, graph.tensors, graph.input, graph.output, graph.nodes))
    _absorb(state, arrays)
    return state.hexdigest()


def _absorb(state, value) -> None:
    if isinstance(value, np.ndarray):
        state.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value):
        _absorb(state, (type(value).__name__, *(getattr(value, f.name) for f in fields(value))))
    elif isinstance(value, (tuple, list)):
        for part in value:
            _absorb(state, part)
    else:
        state.update(repr(value).encode())


def _read(path: Path, key: str) -> Outcomes | None:
    """What is kept there under the same key."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                return Outcomes(*(kept[f.name] for f in fields(Outcomes)))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        pass  # nothing of use: it is made again
    return None


def _write(path: Path, key: str, found: Outcomes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.savez(temporary, key=np.array(key), **{f.name: getattr(found, f.name) for f in fields(Outcomes)})
