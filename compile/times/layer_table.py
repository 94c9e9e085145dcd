"""The table of a network's layers that a build prints: rule, bits, work, and predicted and measured times."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compile.lowering.lower import Lowered, table_of_rules
from compile.times.measured import Local, library_time, missing
from targets import Target
from targets.costs.shapes import layer_calls
from targets.costs.table import MEASURED, CostsError, load, path_of
from targets.reference.graph import Graph

BUDGET_US = 5_000.0  # of measuring, for each distinct kernel: a build is not to wait for it


@dataclass(frozen=True)
class Row:
    """One call. predicted: from the target's table of costs, None without one; measured: this very kernel, here, None
    where that cannot be."""

    layer: str
    rule: str
    bits: str
    macs: int
    predicted: float | None
    interpolated: bool
    measured: float | None


@dataclass(frozen=True)
class Report:
    """All calls of a network, and the time of the whole; predicted times are in `unit`, measured ones microseconds."""

    rows: list[Row]
    unit: str
    network: float | None

    def total(self, column: str) -> float | None:
        """Sum of "macs", "predicted" or "measured"."""
        values = [getattr(row, column) for row in self.rows]
        return None if None in values else sum(values)


def report(
    graph: Graph,
    target: Target,
    lowered: Lowered,
    library: Path | None = None,
    function: str = "main",
    times: bool = True,
) -> Report:
    """library, function: the network's code, to time the whole of it. times: False measures nothing."""
    runs_here = times and not missing(target)
    measured = Local(target).times(lowered.calls, BUDGET_US) if runs_here else [None] * len(lowered.calls)
    predicted, unit = _predicted(graph, target)
    rows = [
        Row(*named, *guess, time)
        for named, guess, time in zip(table_of_rules(graph, lowered), predicted, measured, strict=True)
    ]
    return Report(rows, unit, library_time(library, function, lowered) if runs_here and library else None)


def _predicted(graph: Graph, target: Target) -> tuple[list[tuple[float | None, bool]], str]:
    """(time, whether it is interpolated) of each call, and the unit; None where no table of costs tells."""
    calls = layer_calls(graph)
    if not path_of(target.name).exists():
        return [(None, False)] * len(calls), "us"
    costs, found = load(target.name), []
    for call in calls:
        try:
            time, how = costs.layer(call.shape, call.bits)
            found.append((time, how != MEASURED))
        except CostsError:  # the table has no layer like it
            found.append((None, False))
    return found, costs.unit


def print_report(rows: Report, title: str, console: Console) -> None:
    """Prints the table, with a line of totals. "~": interpolated from layers like it; "-": not known."""
    table = Table(title=title, title_justify="left", show_footer=True)
    sums = [_number(rows.total(column)) for column in ("predicted", "measured")]
    predicted = f"predicted {rows.unit}"
    table.add_column("layer", "all layers", no_wrap=True)
    table.add_column("kernel", ratio=1)
    table.add_column("bits")
    macs = f"{rows.total('macs') / 1e6:.2f}"
    for heading, total in zip(("MMACs", predicted, "measured us"), (macs, *sums), strict=True):
        table.add_column(heading, total, justify="right")
    for row in rows.rows:
        table.add_row(
            row.layer,
            row.rule,
            row.bits,
            f"{row.macs / 1e6:.2f}" if row.macs else "",
            f"{'~' * row.interpolated}{_number(row.predicted)}",
            _number(row.measured),
        )
    console.print(table)
    if rows.network is not None:
        console.print(f"whole network, one thread: {rows.network:.1f} us", highlight=False)


def _number(time: float | None) -> str:
    return "-" if time is None else f"{time:,.0f}" if time >= 1000 else f"{time:.3g}" if time < 10 else f"{time:.1f}"
