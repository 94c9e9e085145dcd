"""Undoes the filters of PNG's rows: whole rows where numpy can, diagonals where every value needs the one before it."""

import numpy as np

_NONE, _LEFT, _UP, _AVERAGE, _PAETH = range(5)  # what is taken off a value (PNG, 3rd edition, 9.2)
_BAND = 1024  # rows whose diagonals are done together, which bounds the memory beside the picture
# Rough seconds on a slow board; which of two ways is taken changes no byte.
_VALUE = 1e-6  # of a value, one by one
_DIAGONAL = 1e-4  # of a diagonal, beside its values
_PATIENCE = 20.0  # for one picture


class TooLong(ValueError):
    """The picture is so long and thin that numpy alone would take minutes."""


def unfilter(rows: np.ndarray, step: int) -> np.ndarray:
    """Returns uint8 [H, stride] of rows [H, 1 + stride], each led by its filter.

    step: bytes of a pixel. Raises ValueError for an unknown filter, TooLong for a picture that would take too long.
    """
    kinds, lines = rows[:, 0], rows[:, 1:]
    if kinds.max() > _PAETH:
        raise ValueError(f"expected PNG filters 0..4, got {kinds.max()}")
    bands = [slice(first, first + _BAND) for first in range(0, len(rows), _BAND)]
    seconds = sum(min(_seconds(kinds[band], lines.shape[1], step)) for band in bands)
    if seconds > _PATIENCE:
        raise TooLong(f"expected a picture that is less long and thin, this one would take some {seconds:.0f} s")
    out = np.empty(lines.shape, np.uint8)
    above = np.zeros(lines.shape[1], np.uint8)
    for band in bands:
        by_value, by_diagonal = _seconds(kinds[band], lines.shape[1], step)
        undo = _undo_by_rows if by_value <= by_diagonal else _undo_by_diagonals
        out[band] = undo(lines[band], kinds[band], above, step)
        above = out[band][-1]
    return out


def _seconds(kinds: np.ndarray, stride: int, step: int) -> tuple[float, float]:
    """Returns rough times of a band of rows: row by row, where some filters go value by value, and by diagonals."""
    one_by_one = np.count_nonzero(kinds >= _AVERAGE)
    return one_by_one * stride * _VALUE, (stride // step + len(kinds)) * _DIAGONAL


def _undo_by_rows(lines: np.ndarray, kinds: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Returns the values uint8 [H, stride] of a band below the row `above` [stride]."""
    out = np.empty_like(lines)
    for row, line, kind in zip(out, lines, kinds.tolist(), strict=True):
        if kind == _NONE:
            row[:] = line
        elif kind == _LEFT:
            row[:] = np.cumsum(line.reshape(-1, step), 0, dtype=np.uint8).reshape(-1)
        elif kind == _UP:
            row[:] = line + above
        else:
            undo = _undo_average if kind == _AVERAGE else _undo_paeth
            row[:] = undo(above.tolist(), line.tolist(), step)
        above = row
    return out


def _undo_average(above: list[int], line: list[int], step: int) -> list[int]:
    """Returns a row of the row above and a line of filtered values."""
    row = [0] * step  # a zero pixel to the left, taken off in the end
    for i, value in enumerate(line):
        row.append((value + (row[i] + above[i]) // 2) & 255)
    return row[step:]


def _undo_paeth(above: list[int], line: list[int], step: int) -> list[int]:
    """Returns a row of the row above and a line of filtered values (PNG, 3rd edition, 9.4)."""
    row = [0] * step
    corners = [0] * step + above
    for i, value in enumerate(line):
        left, up, corner = row[i], above[i], corners[i]
        to_left = abs(up - corner)  # distances of the estimate left + up - corner
        to_up = abs(left - corner)
        to_corner = abs(left + up - 2 * corner)
        if to_left <= to_up and to_left <= to_corner:
            nearest = left
        elif to_up <= to_corner:
            nearest = up
        else:
            nearest = corner
        row.append((value + nearest) & 255)
    return row[step:]


def _undo_by_diagonals(lines: np.ndarray, kinds: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Returns the values uint8 [H, stride] of a band below the row `above` [stride].

    Pixel (y, x) needs those to its left, above it, and at the corner between: diagonals x + y - 1 and x + y - 2. So all
    pixels of a diagonal are done at once.
    """
    height, width = len(lines), lines.shape[1] // step
    diagonals = np.zeros((width + height - 1, height, step), np.uint8)  # [x + y, y]
    for y, line in enumerate(lines):
        diagonals[y : y + width, y] = line.reshape(width, step)
    _undo_diagonals(diagonals.reshape(len(diagonals), -1), np.repeat(kinds, step), above.reshape(width, step))
    out = np.empty((height, width, step), np.uint8)
    for y, row in enumerate(out):
        row[:] = diagonals[y : y + width, y]
    return out.reshape(lines.shape)


def _undo_diagonals(diagonals: np.ndarray, kinds: np.ndarray, above: np.ndarray) -> None:
    """Replaces filtered values [x + y, y * step] by the picture's. kinds: [y * step]; above: [x, step]."""
    width, step = above.shape
    # A diagonal, led by its pixel of the row above the band. What lies left of the picture is never written: zeros.
    before, last, now = np.zeros((3, len(kinds) + step), np.int16)
    for t, values in enumerate(diagonals):
        if t < width:
            last[:step] = above[t]
        some = slice(max(0, t - width + 1) * step, min(len(kinds), (t + 1) * step))
        behind = slice(some.start + step, some.stop + step)
        values[some] += _predicted(last[behind], last[some], before[some], kinds[some])
        now[behind] = values[some]
        before, last, now = last, now, before


def _predicted(left: np.ndarray, up: np.ndarray, corner: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Returns what each filter has taken off, uint8 [n], of neighbours int16 [n]."""
    down = up - corner
    right = left - corner
    to_left, to_up, to_corner = np.abs(down), np.abs(right), np.abs(down + right)
    nearest = np.where(to_up <= to_corner, up, corner)
    np.copyto(nearest, left, where=to_left <= np.minimum(to_up, to_corner))
    by_kind = [np.zeros_like(left), left, up, (left + up) >> 1, nearest]
    predicted: np.ndarray = np.choose(kinds, by_kind).astype(np.uint8)
    return predicted
