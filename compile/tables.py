"""Tables of a build's report that fit 80 columns, and one line that sums it up.

Rows that say the same become one, with "+5" for five more like it, and times that are sums. With `verbose` nothing is
joined.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from compile.ladder.layers import first_that_differs, worst_first
from compile.report import BuildReport, VariantReport
from compile.text_table import UNKNOWN, Column, TextTable
from compile.times.layer_table import LayerTable, LayerTime, sum_of_known
from compile.verify import Rung

MOST_NAMED = 5  # groups of variants that the last line names one by one
MOST_LAYERS = 5  # of those that differ, in the table that is not verbose

Row = TypeVar("Row")


def layers_table(name: str, table: LayerTable, verbose: bool = False) -> TextTable:
    """Returns the layers of a network; those of the same kernel, bits and work are one row unless verbose.

    "~" marks a time that is interpolated from layers like it.
    """
    groups = [[row] for row in table.rows] if verbose else group(table.rows, _layer_key)
    columns = (
        Column("layer", shrinks=True),
        Column("kernel", shrinks=True),
        Column("bits"),
        Column("MMACs", right=True),
        Column("predicted", right=True),
        Column("measured", right=True),
    )
    timed = any(time is not None for row in table.rows for time in (row.predicted, row.measured))
    unit = f"; times in {table.unit}" if timed else ""
    network = "" if table.network_us is None else f"; whole network {table.network_us:.1f} us"
    title = f"layers of {name} for {', '.join(table.levels)}{unit}{network}"
    totals = ("all layers", "", "", f"{table.macs / 1e6:.2f}", number(table.predicted), number(table.measured))
    return TextTable(title, columns, tuple(_layer_row(rows, verbose) for rows in groups), totals)


def ladder_table(rungs: Sequence[Rung], verbose: bool = False) -> TextTable:
    """Returns the verification ladder; variants with the same result are one row unless verbose."""
    groups = [[rung] for rung in rungs] if verbose else group(rungs, _rung_key)
    columns = (
        Column("variants", shrinks=True),
        Column("answers of", shrinks=True),
        Column("demanded"),
        Column("pictures", right=True),
        Column("logits off", right=True),
        Column("classes off", right=True),
        Column("result"),
    )
    rows = [(names([r.variant for r in alike]), *_rung_cells(alike[0])) for alike in groups]
    return TextTable("verification against the integer reference", columns, tuple(rows))


def _rung_cells(rung: Rung) -> tuple[str, ...]:
    """All cells of a rung but the variant's."""
    off = (f"{rung.differing:,}" if rung.differing else UNKNOWN, str(rung.other_classes or UNKNOWN))
    return rung.answers, rung.demand, str(rung.pictures), *off, rung.result


def differences_table(rung: Rung, verbose: bool = False) -> TextTable:
    """Returns the layers of a file whose codes differ from onnxruntime's, worst first; all of them where verbose."""
    worst = worst_first(rung.layers)
    columns = (
        Column("layer", shrinks=True),
        Column("codes", right=True),
        Column("differ", right=True),
        Column("by", right=True),
        Column("alone", right=True),
        Column("by", right=True),
    )
    rows = [
        (
            layer.tensor,
            f"{layer.codes:,}",
            f"{layer.differing:,}",
            str(layer.largest),
            f"{layer.alone_differing:,}",
            str(layer.alone_largest),
        )
        for layer in (worst if verbose else worst[:MOST_LAYERS])
    ]
    rest = "" if verbose or len(worst) <= MOST_LAYERS else f", the worst {MOST_LAYERS}"
    title = (
        f"layers of {rung.variant} whose codes differ from {rung.answers}'s: {len(worst)} of {len(rung.layers)}{rest}; "
        f"alone: fed with {rung.answers}'s codes"
    )
    return TextTable(title, columns, tuple(rows))


def meaning_of_differences(rung: Rung) -> str:
    """Returns in words what differing logits of a file mean; "" where none differ, or the rung is not of a file.

    Says too why a file's own runtime could not be asked.
    """
    if rung.missing:
        return (
            f"NOT CHECKED: {rung.variant} was not compared with {rung.answers}, its file's own runtime: {rung.missing}"
        )
    if not rung.differing or not (rung.is_indicative or rung.layers):
        return ""
    classes = "every picture gets the same class"
    if rung.other_classes:
        verb = "gets" if rung.other_classes == 1 else "get"
        classes = f"{rung.other_classes} of {rung.pictures} pictures {verb} another class"
    words = [
        f"{rung.variant}: {rung.differing:,} of {rung.logits:,} logits differ from {rung.answers}'s, by "
        f"{rung.largest:,} steps at most where they span {rung.span:,}; {classes}."
    ]
    first = first_that_differs(rung.layers)
    if first is not None:
        words.append(
            f"The first layer that differs is {first.tensor}: {first.differing:,} of {first.codes:,} codes, by "
            f"{first.largest} at most."
        )
    if rung.is_indicative:
        words.append(_reason(rung))
    return " ".join(words)


def _reason(rung: Rung) -> str:
    """Why a file's logits differ, as far as its layers tell."""
    if rung.misread is not None:
        return f"Layer {rung.misread.tensor} is not computed as the file says."
    approximated = next((layer for layer in rung.layers if layer.is_approximated), None)
    if approximated is not None:
        reason = (
            f"Fed with the same codes, layer {approximated.tensor} is up to {approximated.alone_largest} steps from "
            f"{rung.answers}: before it the file leaves values unquantized, which the integers round to 8 bits."
        )
    elif rung.layers:
        reason = (
            f"Fed with the same codes, no layer is more than a step from {rung.answers}, which computes in float32 and "
            "rounds near ties otherwise; such steps add up from layer to layer."
        )
    else:
        reason = f"{rung.answers} rounds some sums otherwise."
    return f"{reason} The bundle answers with the integers, and compiled code equals them bit for bit."


def variants_table(variants: Sequence[VariantReport], verbose: bool = False) -> TextTable:
    """Returns cost, accuracy and time of the variants; those of equal bits are one row unless verbose."""
    groups = [[variant] for variant in variants] if verbose else group(variants, _variant_key)
    levels = _level_groups(variants)
    columns = (
        Column("variants", shrinks=True),
        Column("MMACs", right=True),
        Column("cost of W8A8", right=True),
        Column("accuracy", right=True),
        *(Column(f"{names([_short_level(level) for level in alike])}", right=True) for alike in levels),
        Column("per second", right=True),
    )
    rows = [
        (
            names([v.name for v in alike]),
            f"{alike[0].macs / 1e6:.1f}",
            f"{alike[0].cost:.3f}",
            _accuracy_range(alike),
            *(_time_on(alike[0], level[0]) for level in levels),
            _rate(alike[0]),
        )
        for alike in groups
    ]
    predicted = any(cell.startswith("~") for row in rows for cell in row)
    title = "variants, and the time of one picture" + (' ("~": predicted)' if predicted else "")
    return TextTable(title, columns, tuple(rows))


def summary(report: BuildReport) -> str:
    """Returns one line: the size of the bundle, and the time of a picture by each group of variants of equal bits."""
    timed = [alike for alike in group(report.variants, _variant_key) if main_table(alike[0]) is not None]
    if len(timed) > MOST_NAMED:
        timed = [timed[0], timed[-1]]
    times = [f"{names([v.name for v in alike])} {_time_in_words(alike[0])}" for alike in timed]
    size = f"bundle: {report.bundle}, {report.bytes / 1e6:.2f} MB"
    return "; one picture: ".join([size, ", ".join(times)]) if times else size


def main_table(variant: VariantReport) -> LayerTable | None:
    """Returns the table of layers that was measured here, else the first; None where there is none with any time."""
    timed = [table for table in variant.tables if table.network_us is not None or table.predicted is not None]
    return next((table for table in timed if table.network_us is not None), timed[0] if timed else None)


def names(texts: Sequence[str]) -> str:
    """Returns the first of the names and how many more there are: "w8a8 +6"."""
    return texts[0] if len(texts) == 1 else f"{texts[0]} +{len(texts) - 1}"


def number(value: float | None) -> str:
    """Returns a time with three digits or more, "-" where it is unknown."""
    if value is None:
        return UNKNOWN
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def group(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> list[list[Row]]:
    """Returns the rows in lists of equal keys, in the order in which keys first come."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def _layer_key(row: LayerTime) -> Hashable:
    return short_kernel(row.kernel), row.bits, row.macs


def _rung_key(rung: Rung) -> Hashable:
    return _rung_cells(rung)


def _variant_key(variant: VariantReport) -> Hashable:
    return variant.macs, tuple(variant.bits.items())


def short_kernel(kernel: str) -> str:
    """Returns a kernel's rule without its details, which matter to those who write kernels."""
    return kernel.partition(",")[0]


def _short_level(level: str) -> str:
    return level.partition(":")[2] or level


def _layer_row(rows: Sequence[LayerTime], verbose: bool) -> tuple[str, ...]:
    macs = sum(row.macs for row in rows)
    kernel = rows[0].kernel if verbose else short_kernel(rows[0].kernel)
    interpolated = "~" if any(row.interpolated for row in rows) else ""
    predicted = sum_of_known([row.predicted for row in rows])
    measured = sum_of_known([row.measured for row in rows])
    return (
        names([row.layer for row in rows]),
        kernel,
        rows[0].bits,
        f"{macs / 1e6:.2f}" if macs else "",
        interpolated + number(predicted),
        number(measured),
    )


def _level_groups(variants: Sequence[VariantReport]) -> list[list[str]]:
    """The levels, those together that take the same kernels in every variant."""
    tables = [table for variant in variants for table in variant.tables]
    levels = dict.fromkeys(level for table in tables for level in table.levels)
    return group(levels, lambda level: tuple(level in table.levels for table in tables))


def _accuracy_range(variants: Sequence[VariantReport]) -> str:
    values = [v.accuracy for v in variants if v.accuracy is not None]
    if not values:
        return UNKNOWN
    low, high = f"{min(values):.1%}", f"{max(values):.1%}"
    return high if low == high else f"{low.removesuffix('%')}..{high}"


def _time_on(variant: VariantReport, level: str) -> str:
    table = next((table for table in variant.tables if level in table.levels), None)
    return UNKNOWN if table is None else picture_time(table)


def picture_time(table: LayerTable) -> str:
    """Returns the time of one picture: measured, or "~" and what the table of costs predicts."""
    if table.network_us is not None:
        return f"{number(table.network_us)} us"
    if table.predicted is None:
        return UNKNOWN
    unit = table.unit.partition(", ")[0]
    if table.predicted >= 1e5:
        return f"~{table.predicted / 1e6:.2f} M {unit}"
    return f"~{number(table.predicted)} {unit}"


def _rate(variant: VariantReport) -> str:
    table = main_table(variant)
    return UNKNOWN if table is None or table.network_us is None else f"{1e6 / table.network_us:,.0f}"


def _time_in_words(variant: VariantReport) -> str:
    table = main_table(variant)
    if table is not None and table.network_us is not None:
        return f"{number(table.network_us)} us ({_rate(variant)} per second)"
    predicted = [t for t in variant.tables if t.predicted is not None]
    return " or ".join(f"{picture_time(t)} ({names([_short_level(level) for level in t.levels])})" for t in predicted)
