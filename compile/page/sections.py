"""The sections of a build's page: what was built, the verification ladder, differences and costs by layer."""

from collections.abc import Sequence
from pathlib import Path

from compile.ladder.layers import MOST_STEPS, LayerDifference, worst_first
from compile.page.markup import Heading, Markup, bar, element, joined, table
from compile.report import BuildReport, VariantReport
from compile.tables import group, main_table, meaning_of_differences, names, number, picture_time
from compile.times.layer_table import LayerTable, LayerTime
from compile.verify import Rung

OPEN_ROWS = 12  # of a long table; the others unfold
TONES = {"equal": "equal", "indicative": "indicative", "FAILED": "failed-word", "not run": "faint"}


def head(report: BuildReport) -> Markup:
    """Returns the title, the verdict, and the facts of a build."""
    failed = [rung for rung in report.rungs if not rung.holds]
    compiled = [rung for rung in report.rungs if rung.needed is None and rung.ran]
    logits = sum(rung.logits for rung in compiled)
    words = f"Verified: all {logits:,} logits that were compared bit for bit equal the integer reference."
    if failed:
        words = f"Failed: {failed[0].variant}: {failed[0].compared}, {failed[0].differing:,} of {failed[0].logits:,} "
        words += "logits differ. No bundle was written."
    facts = [
        (report.target, "target"),
        (str(len(report.variants)), "variant" if len(report.variants) == 1 else "variants"),
        (f"{max(v.macs for v in report.variants) / 1e6:,.1f} M", "multiply-adds of the largest"),
        (f"{report.bytes / 1e6:,.2f} MB" if report.bytes else "-", "bundle"),
    ]
    return joined(
        element("h1", report.bundle.name),
        element("p", f"{', '.join(v.name for v in report.variants[:8])} for {report.target}", class_="faint"),
        element("p", words, class_="verdict failed" if failed else "verdict"),
        element(
            "div",
            *(element("div", element("b", a), element("span", b), class_="fact") for a, b in facts),
            class_="facts",
        ),
    )


def built(report: BuildReport) -> Markup:
    """Returns the variants, and what takes room in the bundle."""
    headings = [
        Heading("variant"),
        Heading("bits"),
        Heading("M multiply-adds", True),
        Heading("cost of W8A8", True),
        Heading("accuracy", True),
        Heading("time a picture", True),
        Heading("code of"),
    ]
    rows = [_variant_row(variant) for variant in report.variants]
    return joined(
        element("h2", "What was built"), table("", headings, rows), _sizes(report.bundle if report.bytes else None)
    )


def _variant_row(variant: VariantReport) -> list[str]:
    timed = main_table(variant)
    widths = sorted({f"w{w}a{a}" for w, a in variant.bits.values()})
    return [
        variant.name,
        names(widths) if widths else "",
        f"{variant.macs / 1e6:,.1f}",
        f"{variant.cost:.3f}",
        "" if variant.accuracy is None else f"{variant.accuracy:.1%}",
        "" if timed is None else picture_time(timed),
        "" if variant.code_of == variant.name else variant.code_of,
    ]


def _sizes(bundle: Path | None) -> Markup:
    """The files of a bundle by kind, largest first."""
    if bundle is None:
        return Markup("")
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
    kinds = group(files, lambda path: path.relative_to(bundle).parts[0])
    sizes = [
        (alike[0].relative_to(bundle).parts[0], len(alike), sum(p.stat().st_size for p in alike)) for alike in kinds
    ]
    sizes.sort(key=lambda size: -size[2])
    headings = [Heading("in the bundle"), Heading("files", True), Heading("kB", True), Heading("share")]
    largest = sizes[0][2]
    rows = [[name, str(count), f"{size / 1e3:,.1f}", bar(size / largest)] for name, count, size in sizes]
    return table("", headings, rows)


def ladder(rungs: Sequence[Rung]) -> Markup:
    """Returns the verification ladder as a table of rungs, and what differing logits mean."""
    headings = [
        Heading("variant"),
        Heading("answers of"),
        Heading("result"),
        Heading("demanded"),
        Heading("pictures", True),
        Heading("logits", True),
        Heading("logits off", True),
        Heading("largest step", True),
        Heading("classes off", True),
    ]
    rows = [
        [
            rung.variant,
            rung.answers,
            element("span", rung.result, class_=TONES[rung.result]),
            rung.demand,
            str(rung.pictures),
            f"{rung.logits:,}",
            f"{rung.differing:,}",
            f"{rung.largest:,}",
            str(rung.other_classes),
        ]
        for rung in rungs
    ]
    meanings = [meaning_of_differences(rung) for rung in rungs]
    about = "Every rung compares logits with those of the integer reference, on golden pictures."
    return joined(
        element("h2", "Verification ladder"),
        element("p", about, class_="faint"),
        table("", headings, rows),
        *(element("p", meaning) for meaning in meanings if meaning),
    )


def differences(rungs: Sequence[Rung]) -> Markup:
    """Returns the layers of each file whose codes differ from its own runtime's, worst first."""
    parts = [_layers(rung) for rung in rungs if any(layer.differing for layer in rung.layers)]
    return joined(element("h2", "Differences by layer"), *parts) if parts else Markup("")


def _layers(rung: Rung) -> Markup:
    worst = worst_first(rung.layers)
    headings = [
        Heading("layer"),
        Heading("share of codes"),
        Heading("differ", True),
        Heading("of", True),
        Heading("by", True),
        Heading("alone", True),
        Heading("by", True),
    ]
    about = (
        f"{len(worst)} of {len(rung.layers)} layers differ from {rung.answers} somewhere. Alone: fed with "
        f"{rung.answers}'s own codes, where rounding explains {MOST_STEPS} step, and more only values left unquantized."
    )
    return joined(
        element("h3", rung.variant),
        element("p", about, class_="faint"),
        _folded(headings, [_layer_row(layer) for layer in worst]),
    )


def _layer_row(layer: LayerDifference) -> list[str]:
    share = layer.differing / layer.codes
    tone = "bad" if layer.is_misread else "warn"
    return [
        layer.tensor,
        bar(share, tone),
        f"{layer.differing:,}",
        f"{layer.codes:,}",
        str(layer.largest),
        f"{layer.alone_differing:,}",
        str(layer.alone_largest),
    ]


def costs(variants: Sequence[VariantReport]) -> Markup:
    """Returns what each layer costs, of the variants that have code of their own."""
    tables = [(v.name, t) for v in variants if (t := main_table(v)) is not None and v.code_of == v.name]
    parts = [_costs(name, timed) for name, timed in tables]
    return joined(element("h2", "Cost by layer"), *parts) if parts else Markup("")


def _costs(name: str, timed: LayerTable) -> Markup:
    measured = timed.measured is not None
    unit = "us, measured here" if measured else f"{timed.unit}, predicted"
    largest = max((_cost(row, measured) or 0 for row in timed.rows), default=0) or 1
    headings = [
        Heading("layer"),
        Heading("share of the dearest"),
        Heading("us" if measured else timed.unit.partition(",")[0], True),
        Heading("M multiply-adds", True),
        Heading("bits"),
        Heading("kernel"),
    ]
    rows = [
        [
            row.layer,
            bar((_cost(row, measured) or 0) / largest),
            number(_cost(row, measured)),
            f"{row.macs / 1e6:.2f}" if row.macs else "",
            row.bits,
            row.kernel,
        ]
        for row in sorted(timed.rows, key=lambda row: -(_cost(row, measured) or 0))
    ]
    return joined(
        element("h3", name),
        element("p", f"{', '.join(timed.levels)}; times in {unit}", class_="faint"),
        _folded(headings, rows),
    )


def _cost(row: LayerTime, measured: bool) -> float | None:
    return row.measured if measured else row.predicted


def _folded(headings: Sequence[Heading], rows: Sequence[Sequence[str]]) -> Markup:
    """A table of the first rows; the others unfold."""
    first, rest = rows[:OPEN_ROWS], rows[OPEN_ROWS:]
    if not rest:
        return table("", headings, first)
    return joined(
        table("", headings, first),
        element("details", element("summary", f"{len(rest)} more"), table("", headings, rest)),
    )
