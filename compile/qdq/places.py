"""Where the values of a moved map come from: rows, columns and channels of another map."""

from dataclasses import dataclass

import numpy as np

from compile.qdq.values import MapShape, PendingMove
from targets.reference.nodes import NO_PADDING, Padding


@dataclass(frozen=True)
class Places:
    """Which rows, columns and channels of a map [H, W, C] make up another one; -1 stands for a zero."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    channels: tuple[int, ...]


def split_places(move: PendingMove) -> Places | None:
    """Returns the rows, columns and channels that a move takes; None where it mixes them."""
    index = move.index
    if index.ndim not in (1, 3):
        return None
    index = index.reshape(-1, 1, 1) if index.ndim == 1 else index
    return separated(index if move.layout == "NHWC" else index.transpose(1, 2, 0), move.source_shape)


def separated(index: np.ndarray, shape: MapShape) -> Places | None:
    """Returns the rows, columns and channels of places int [H, W, C] in a map of a shape; None where it mixes them."""
    _, width, channels = shape
    coordinates = (index // channels // width, index // channels % width, index % channels)
    rows, columns, kept = (
        np.where(index < 0, -1, places).max(tuple(k for k in range(3) if k != axis))
        for axis, places in enumerate(coordinates)
    )
    grid = np.ix_(rows, columns, kept)
    places = (grid[0] * width + grid[1]) * channels + grid[2]
    is_zero = (grid[0] < 0) | (grid[1] < 0) | (grid[2] < 0)
    if not np.array_equal(np.where(is_zero, -1, places), index):
        return None
    return Places(tuple(rows.tolist()), tuple(columns.tolist()), tuple(kept.tolist()))


def padding_of(places: Places, shape: MapShape) -> Padding | None:
    """Returns the pixels of zeros around a whole map, else None."""
    height, width, channels = shape
    if places.channels != tuple(range(channels)):
        return None
    around = []
    for index, size in ((places.rows, height), (places.columns, width)):
        before = next((k for k, place in enumerate(index) if place >= 0), 0)
        after = len(index) - before - size
        if after < 0 or list(index) != [-1] * before + list(range(size)) + [-1] * after:
            return None
        around.append((before, after))
    (top, bottom), (left, right) = around
    return top, left, bottom, right


def is_whole(places: Places, shape: MapShape) -> bool:
    """Whether nothing moves."""
    return padding_of(places, shape) == NO_PADDING


def as_shortcut(places: Places, shape: MapShape) -> tuple[tuple[int, int], int] | None:
    """Returns (stride, channels of zeros in front) where places are every k-th pixel with all channels in one run."""
    height, width, channels = shape
    before = next((k for k, place in enumerate(places.channels) if place >= 0), 0)
    run = [k - before if before <= k < before + channels else -1 for k in range(len(places.channels))]
    fits = list(places.channels) == run and before + channels <= len(run)
    for stride in range(1, max(height, width) + 1):
        regular = (tuple(range(0, height, stride)), tuple(range(0, width, stride)))
        if fits and (places.rows, places.columns) == regular:
            return (stride, stride), before
    return None
