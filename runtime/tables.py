"""Shows the records of commands as plain text that fits 80 columns: long names are shortened, numbers never."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.choice.budgets import rounded_up
from runtime.commands import BenchRecord, CheckRecord, InferRecord, InfoRecord, ServedBudget, VariantRow

WIDTH = 80
GAP = "  "
ELLIPSIS = "…"
LEAST = 5  # letters that a shortened name keeps, the ellipsis included
SHOWN = ("luma", "noise", "detail")  # features of a picture's quality in the table; --json has them all


@dataclass(frozen=True)
class Column:
    """A column of a table. number: to the right, and never shortened."""

    title: str
    cells: Sequence[str]
    number: bool = True

    @property
    def width(self) -> int:
        """Letters that the widest cell takes."""
        return max(map(len, [self.title, *self.cells]))

    @property
    def least(self) -> int:
        """Letters that it needs when its cells are shortened."""
        return self.width if self.number else min(self.width, max(len(self.title), LEAST))

    def lines(self, width: int) -> list[str]:
        """Returns the title and the cells at that width."""
        texts = [shorten(text, width) for text in [self.title, *self.cells]]
        return [text.rjust(width) if self.number else text.ljust(width) for text in texts]


def names(title: str, cells: Sequence[str]) -> Column:
    """Returns a column of texts, to the left, which are shortened where there is too little room."""
    return Column(title, cells, number=False)


def shorten(text: str, width: int) -> str:
    """Returns a text in at most `width` letters, with an ellipsis in place of its middle."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    tail = width - 1 - head
    return text[:head] + ELLIPSIS + text[len(text) - tail :]


def format_table(columns: Sequence[Column]) -> str:
    """Returns a line of titles and a line for each row; the widest names are shortened first."""
    widths = [column.width for column in columns]
    while sum(widths) + len(GAP) * (len(widths) - 1) > WIDTH:
        room = [width - column.least for width, column in zip(widths, columns, strict=True)]
        if max(room) <= 0:
            break
        widest = max(range(len(columns)), key=lambda k: (room[k] > 0, widths[k]))
        widths[widest] -= 1
    lines = [column.lines(width) for column, width in zip(columns, widths, strict=True)]
    return "\n".join(GAP.join(row).rstrip() for row in zip(*lines, strict=True))


def show_check(records: Sequence[CheckRecord]) -> str:
    """Returns a row for each variant and level, and what the differing logits mean."""
    table = format_table(
        [
            names("variant", [r.variant for r in records]),
            names("level", [r.level for r in records]),
            Column("pictures", [str(r.pictures) for r in records]),
            Column("logits", [str(r.logits) for r in records]),
            Column("differing", [str(r.differing) for r in records]),
        ]
    )
    differing = sum(r.differing for r in records)
    advice = "; this device computes something else:\ndo not use this bundle here" if differing else ""
    return f"{table}\n{differing} logits differ{advice}"


def show_infer(records: Sequence[InferRecord], level: str, budget: str) -> str:
    """Returns what ran, and a row for each picture. budget: as text, empty for none."""
    heading = f"level {level}" + (f", budget {budget}" if budget else "")
    if not records:
        return heading
    columns = [
        names("picture", [r.picture for r in records]),
        names("label", [r.label for r in records]),
        Column("score", [f"{r.score:.3f}" for r in records]),
        names("variant", [r.variant for r in records]),
    ]
    if any(r.escalated for r in records):
        columns.append(names("first", [r.first if r.escalated else "" for r in records]))
    columns.append(Column("ms", [f"{r.ms:.1f}" for r in records]))
    qualities = [r.quality for r in records if r.quality is not None]
    if len(qualities) == len(records):
        columns += [Column(feature, [str(quality[feature]) for quality in qualities]) for feature in SHOWN]
    return f"{heading}\n{format_table(columns)}"


def show_bench(records: Sequence[BenchRecord]) -> str:
    """Returns what all steps have in common, and a row for each step."""
    first = records[0]
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    heading = f"level {first.level}, {threads}, {first.calls} calls of each step, on"
    table = format_table(
        [
            names("step", [r.step for r in records]),
            names("variant", [r.variant for r in records]),
            Column("min_us", [f"{r.min_us:.1f}" for r in records]),
            Column("median_us", [f"{r.median_us:.1f}" for r in records]),
            Column("p99_us", [f"{r.p99_us:.1f}" for r in records]),
        ]
    )
    return f"{heading}\n{shorten(first.cpu, WIDTH)}\n{table}"


def show_info(record: InfoRecord) -> str:
    """Returns what the bundle is, its variants, its own budget and its table of budgets."""
    rest = f" for {record.target}; level {record.level} runs here"
    own = "none of its own, so any cost" if record.budget is None else f"{record.budget:g}, that of its run"
    parts = [
        shorten(record.name, max(LEAST, WIDTH - len(rest))) + rest,
        _show_variants(record.variants),
        f"budget: {own}",
        "--budget N takes another, --budget inf any cost",
    ]
    if record.budgets:
        parts.append(_show_budgets(record.budgets))
    return "\n".join(parts)


def _show_variants(rows: Sequence[VariantRow]) -> str:
    accuracies = ["not measured" if row.accuracy is None else f"{row.accuracy:.1%}" for row in rows]
    return format_table(
        [
            names("variant", [row.variant for row in rows]),
            Column("cost", [f"{row.cost:.3f}" for row in rows]),
            Column("bytes", [str(row.bytes) for row in rows]),
            Column("macs", [str(row.macs) for row in rows]),
            Column("accuracy", accuracies),
            names("unsure, then", [row.then or "" for row in rows]),
        ]
    )


def _show_budgets(rows: Sequence[ServedBudget]) -> str:
    columns = [
        Column("budget", [rounded_up(row.budget) for row in rows]),
        Column("accuracy", [f"{row.accuracy:.1%}" for row in rows]),
    ]
    largest = [row.worst for row in rows if row.worst is not None]
    if len(largest) == len(rows):
        columns.append(Column("largest cost", [rounded_up(cost) for cost in largest]))
    columns.append(names("", ["<- default" if row.default else "" for row in rows]))
    return format_table(columns)
