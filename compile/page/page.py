"""Writes a build's report as one HTML page that needs nothing beside it: no script, no picture, no network."""

from pathlib import Path

from compile.page.markup import Markup, element, joined
from compile.page.sections import built, costs, differences, head, ladder
from compile.page.style import STYLE
from compile.report import BuildReport
from runtime.version import VERSION


def write_page(path: Path, report: BuildReport) -> None:
    """Writes the page; raises OSError where the place cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(report), encoding="utf-8")


def page(report: BuildReport) -> str:
    """Returns the whole page; sections that a build has nothing for are left out."""
    body = element(
        "main",
        head(report),
        built(report),
        ladder(report.rungs),
        differences(report.rungs),
        costs(report.variants),
        element("p", f"bitgrade {VERSION}", class_="faint"),
    )
    top = joined(
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", f"{report.bundle.name} for {report.target}"),
        element("style", Markup(STYLE)),
    )
    return f"<!doctype html>\n{element('html', element('head', top), element('body', body), lang='en')}\n"
