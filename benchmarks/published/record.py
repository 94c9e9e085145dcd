"""What became of one published file, and the table of all of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compile.text_table import UNKNOWN, Column, TextTable, shorten

MOST_CELL = 110  # letters of a cell
FILES_HEADING = "\n## Files\n"
MOST_MESSAGE = 400  # letters of an error


@dataclass(frozen=True)
class Record:
    """One file.

    tool: what made it; imports: it became an integer graph; builds: a bundle was written; exact: compiled code equals
    the integer reference on all golden pictures. pictures: real ones; differing: logits over them that are not those of
    the file's own runtime; agree: pictures with the same class; both None where there is nothing to compare. message:
    the error that ended it, "" where nothing did.
    """

    file: str
    tool: str = ""
    imports: bool = False
    builds: bool = False
    exact: bool = False
    pictures: int = 0
    differing: int | None = None
    agree: int | None = None
    seconds: float = 0.0
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the members for a JSON file."""
        return asdict(self)


def table(records: Sequence[Record]) -> TextTable:
    """Returns a row for each file and how many came how far."""
    columns = (
        Column("file", shrinks=True),
        Column("tool", shrinks=True),
        Column("imports"),
        Column("builds"),
        Column("exact"),
        Column("logits off", right=True),
        Column("agree", right=True),
        Column("s", right=True),
    )
    compared = [record for record in records if record.agree is not None]
    totals = (
        f"all {len(records)}",
        "",
        str(sum(record.imports for record in records)),
        str(sum(record.builds for record in records)),
        str(sum(record.exact for record in records)),
        f"{sum(record.differing or 0 for record in compared):,}",
        f"{sum(record.agree or 0 for record in compared):,} of {sum(record.pictures for record in compared):,}",
        f"{sum(record.seconds for record in records):.0f}",
    )
    return TextTable("published files", columns, tuple(_row(record) for record in records), totals)


def _row(record: Record) -> tuple[str, ...]:
    words = ["yes" if value else "no" for value in (record.imports, record.builds, record.exact)]
    differing = UNKNOWN if record.differing is None else f"{record.differing:,}"
    agree = UNKNOWN if record.agree is None else f"{record.agree} of {record.pictures}"
    return (Path(record.file).name, record.tool, *words, differing, agree, f"{record.seconds:.0f}")


def markdown(records: Sequence[Record]) -> str:
    """Returns the same table for a page, whose last column says why a file did not come through."""
    whole = table(records)
    headings = [*(column.heading for column in whole.columns), "why not"]
    rows = [[*row, record.message] for row, record in zip(whole.rows, records, strict=True)]
    lines = [headings, ["---"] * len(headings), *rows, [*whole.totals, ""]]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: str) -> str:
    """A text that stays inside its cell."""
    return shorten(text.replace("|", "/").replace("`", "'").replace("<", "&lt;"), MOST_CELL)


def write_into(page: Path, records: Sequence[Record]) -> None:
    """Replaces what follows the heading "Files" of a page by the table; raises ValueError for a page without one."""
    text, heading, _ = page.read_text().partition(FILES_HEADING)
    if not heading:
        raise ValueError(f"--into {page}: expected a page with the heading {FILES_HEADING.strip()!r}, it has none")
    page.write_text(f"{text}{heading}\n{markdown(records)}\n")


def messages(records: Sequence[Record]) -> list[str]:
    """Returns a line for each file that did not come through, with the reason."""
    return [f"{Path(record.file).name}: {record.message}" for record in records if record.message]


def short(message: object) -> str:
    """Returns an error's words in one line that a table of records can hold."""
    return shorten(" ".join(str(message).split()), MOST_MESSAGE)
