"""Reads what a manifest says of a bundle's look: the library that resizes, chooses and ranks, and how it is called."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from runtime.fields import Fields

NAMES = ("plan", "resize", "rank", "choose")


@dataclass(frozen=True)
class LookBuild:
    """A look's code for one level: names of its functions, and the bytes that `choose` works in.

    choose: empty where the bundle has no selector; plan, resize: where its pictures are grey.
    """

    level: str
    plan: str
    resize: str
    rank: str
    choose: str
    workspace: int


@dataclass(frozen=True)
class Look:
    """A bundle's look, compiled for each level of the target, in their order; the table is that of `choose`."""

    library: str
    builds: tuple[LookBuild, ...]
    table_offset: int
    table_bytes: int


def digest(selector: dict[str, Any] | None) -> str:
    """Returns the sha256 of a selector's JSON object, by which a look says what it was compiled for; "" for none."""
    if selector is None:
        return ""
    return hashlib.sha256(json.dumps(selector, sort_keys=True).encode()).hexdigest()


def parse_look(top: Fields, levels: list[str], tables_bytes: int, channels: int) -> Look:
    """Reads the look of a manifest whose target has those levels. Raises BundleError for anything else.

    tables_bytes: of the file of tables. channels: of a picture.
    """
    fields = top.object("look")
    table = fields.object("table")
    look = Look(
        library=fields.path("library"),
        builds=tuple(_parse_build(build) for build in fields.objects("builds")),
        table_offset=table.whole("offset", 0, step=64),
        table_bytes=table.whole("bytes", 0, step=4),
    )
    table.require(
        look.table_offset + look.table_bytes <= tables_bytes, f"a table within {tables_bytes} bytes", table.data
    )
    built_for = [build.level for build in look.builds]
    fields.require(built_for == levels, f"a build for each of {', '.join(levels)}", built_for)
    selector = top.data.get("selector")
    compiled_for = fields.get("selector", str, "text")
    fields.require(compiled_for == digest(selector), "code for the selector of this manifest", compiled_for)
    chooses = all(bool(build.choose) == (selector is not None) for build in look.builds)
    resizes = all(bool(build.plan) == bool(build.resize) == (channels == 3) for build in look.builds)
    fields.require(resizes, f"functions that resize pictures of {channels} channels", built_for)
    fields.require(chooses, "a function that chooses where there is a selector, and none elsewhere", built_for)
    return look


def _parse_build(fields: Fields) -> LookBuild:
    return LookBuild(
        level=fields.text("level"),
        plan=_parse_function(fields, "plan"),
        resize=_parse_function(fields, "resize"),
        rank=fields.text("rank"),
        choose=_parse_function(fields, "choose"),
        workspace=fields.whole("workspace", 0),
    )


def _parse_function(fields: Fields, name: str) -> str:
    """The name of a function; empty where there is none."""
    return fields.text(name) if fields.get(name, str, "text") else ""
