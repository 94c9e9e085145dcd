"""HTML made of elements: every text that is no Markup is escaped, so that names in files cannot become tags."""

import html
from collections.abc import Sequence
from dataclasses import dataclass


class Markup(str):
    """HTML that is well formed and escaped already."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str) -> Markup:
    """Returns an element; children that are plain text and values of attributes are escaped. `class_` is `class`."""
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(v)}"' for key, v in attributes.items())
    return Markup(f"<{name}{words}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Returns children one after the other, plain text escaped."""
    return Markup("".join(child if isinstance(child, Markup) else html.escape(visible(child)) for child in children))


def visible(text: str) -> str:
    """Returns the text with characters that cannot be seen, or that no page can hold, as their codes."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def bar(share: float, tone: str = "") -> Markup:
    """Returns a bar as long as a share in 0..1 of its column; tone: a class of the style sheet."""
    width = f"{100 * min(1.0, max(0.0, share)):.2f}%"
    return element("span", element("span", class_=f"fill {tone}".strip(), style=f"width:{width}"), class_="bar")


@dataclass(frozen=True)
class Heading:
    """The heading of a column of an HTML table; number: its cells stand to the right."""

    text: str
    number: bool = False


def table(caption: str, headings: Sequence[Heading], rows: Sequence[Sequence[str]]) -> Markup:
    """Returns a table that scrolls sideways where the screen is too narrow; columns without any text are left out."""
    kept = [k for k, _ in enumerate(headings) if any(row[k] for row in rows)]
    kinds = {k: {"class_": "number"} if headings[k].number else {} for k in kept}
    head = element("tr", *(element("th", headings[k].text, scope="col", **kinds[k]) for k in kept))
    body = [element("tr", *(element("td", row[k], **kinds[k]) for k in kept)) for row in rows]
    title = [element("caption", caption)] if caption else []
    whole = element("table", *title, element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", tabindex="0")
