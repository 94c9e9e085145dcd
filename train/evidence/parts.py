"""Computes outcomes part by part and keeps each part on disk, so that a run killed on the way goes on where it was."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.files import replacing
from targets.reference.graph import Graph
from train.evidence.outcomes import Outcomes, compute_outcomes


@dataclass(frozen=True)
class Parts:
    """Outcomes of all graphs on parts of the pictures, each read from the folder where it is there already.

    advance: called with how many pictures a variant has answered.
    """

    graphs: dict[str, Graph]
    device: torch.device | str
    folder: Path
    advance: Callable[[int], None] = lambda _: None

    def with_progress(self, advance: Callable[[int], None]) -> "Parts":
        """Returns the same parts with another function to call."""
        return replace(self, advance=advance)

    def outcomes(self, name: str, pictures: np.ndarray, labels: np.ndarray) -> Outcomes:
        """Returns the outcomes on a part, pictures uint8 [M, H, W, 3] with labels int64 [M]; name: of its file."""
        path = self.folder / f"{name}.npz"
        key = digest(self.graphs, pictures, labels)
        kept = _read(path, key)
        if kept is not None:
            self.advance(len(self.graphs) * len(pictures))
            return kept
        computed = compute_outcomes(self.graphs, pictures, labels, self.device, self.advance)
        _write(path, key, computed)
        return computed


def digest(graphs: dict[str, Graph], *arrays: Any) -> str:
    """Returns a hexadecimal SHA-256 of the graphs' integers and of arrays of any shape [...], in their order."""
    state = sha256()
    for name, graph in graphs.items():
        _absorb(state, (name, graph.tensors, graph.input, graph.output, graph.nodes))
    _absorb(state, arrays)
    return state.hexdigest()


def _absorb(state: Any, value: Any) -> None:
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
    """The outcomes that are kept there under the same key; None where there are none, or a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                return Outcomes(kept["features"], kept["correct"], kept["margin"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # nothing of use: the part is computed again
    return None


def _write(path: Path, key: str, outcomes: Outcomes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"key": np.array(key), **vars(outcomes)}
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)
