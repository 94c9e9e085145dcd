"""Tables of plain text that fit a width: names lose their middle, columns that say nothing are left out."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 80
GAP = "  "
ELLIPSIS = "…"
UNKNOWN = "-"  # in a cell whose number nobody knows


@dataclass(frozen=True)
class Column:
    """A column; right: numbers stand to the right; shrinks: its texts may lose their middle."""

    heading: str
    right: bool = False
    shrinks: bool = False


@dataclass(frozen=True)
class TextTable:
    """A title, columns, rows of cells, and a last row of totals, which may be left out."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    totals: tuple[str, ...] = ()

    def render(self, width: int | None = WIDTH) -> str:
        """Returns the table as lines of at most `width` characters; None: as wide as it is."""
        kept = [k for k, _ in enumerate(self.columns) if any(row[k] not in ("", UNKNOWN) for row in self.rows)]
        columns = [self.columns[k] for k in kept]
        body = [[row[k] for k in kept] for row in (*self.rows, *((self.totals,) if self.totals else ()))]
        cells = [[column.heading for column in columns], *body]
        widths = [max(len(row[k]) for row in cells) for k, _ in enumerate(columns)]
        if width is not None:
            widths = _fit(columns, widths, width)
        return "\n".join([self.title, *(_line(columns, row, widths) for row in cells)])


def shorten(text: str, width: int) -> str:
    """Returns the text, without its middle where it is longer than `width` characters."""
    if len(text) <= width:
        return text
    end = max(0, (width - 1) // 2)
    return text[: max(0, width - 1 - end)] + ELLIPSIS + (text[-end:] if end else "")


def _fit(columns: Sequence[Column], widths: list[int], width: int) -> list[int]:
    """Widths of columns that fit: the widest of those that shrink gives way first, down to its heading."""
    widths = list(widths)
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        wide = [k for k, column in enumerate(columns) if column.shrinks and widths[k] > len(column.heading)]
        if not wide:
            break
        widths[max(wide, key=lambda k: widths[k])] -= 1
    return widths


def _line(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        shorten(cell, width).rjust(width) if column.right else shorten(cell, width).ljust(width)
        for column, cell, width in zip(columns, row, widths, strict=True)
    ]
    return GAP.join(cells).rstrip()
