"""Markdown tables for reports, never wider than a reader can follow."""

from collections.abc import Collection, Sequence

MOST_COLUMNS = 8
TIMES = "\N{MULTIPLICATION SIGN}"
STAR = r" \*"  # behind the name of a family that was held out


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table, or of several where it has more than MOST_COLUMNS; each begins with column one."""
    lines: list[str] = []
    width = MOST_COLUMNS - 1
    for start in range(1, max(2, len(header)), width):
        columns = [0, *range(start, min(start + width, len(header)))]
        lines += [
            *([""] if lines else []),
            _line([header[k] for k in columns]),
            "| --- |" + " ---: |" * (len(columns) - 1),
            *(_line([row[k] for k in columns]) for row in rows),
        ]
    return lines


def with_star(family: str, held_out: Collection[str]) -> str:
    """Returns a family's name, with a star where it was held out."""
    return family + STAR if family in held_out else family


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
