"""Writes docs/options.md from the parsers of the commands: `python docs/options.py [--check]`.

--check writes nothing and ends with an error where the page is not what the parsers say.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"
# command -> function that makes its parser, as "module:function"
COMMANDS = {
    "train.run": "train.settings.command_line:make_full_parser",
    "train.adapt": "train.adapt.command_line:make_parser",
    "train.recost": "train.recost.command_line:make_parser",
    "train.report": "train.report.command_line:make_parser",
    "compile.build": "compile.command_line:make_build_parser",
    "compile.profile": "compile.command_line:make_profile_parser",
    "runtime": "runtime.arguments:make_parser",
}
HEAD = """# Every option

Made from the parsers by `python docs/options.py`; a test fails when this page is not what they say. Each command also
has `--help` and `--version`, and two names:

| by the console command | by Python |
| --- | --- |
"""


def page() -> str:
    """Returns the whole page."""
    sections = [HEAD + "".join(f"| `bitgrade {name}` | `python -m {m}` |\n" for name, (m, _) in console().items())]
    for command, maker in COMMANDS.items():
        module, _, function = maker.partition(":")
        parser = getattr(importlib.import_module(module), function)()
        sections.append(f"## `python -m {command}`\n\n{parser.description}\n")
        sections += described(parser, "")
    return "\n".join(sections)


def console() -> dict[str, tuple[str, str]]:
    """Returns the table of bitgrade's console command: its words -> (module, what it does)."""
    return importlib.import_module("bitgrade").COMMANDS


def described(parser: argparse.ArgumentParser, prefix: str) -> Iterator[str]:
    """Yields a list of options for each group of a parser, then the same of its subcommands."""
    subcommands: list[tuple[str, argparse.ArgumentParser]] = []
    for group in parser._action_groups:
        lines = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                subcommands += action.choices.items()
            elif action.help != argparse.SUPPRESS and action.dest not in ("help", "version"):
                lines.append(option(action))
        if lines:
            title = group.title if group.title not in ("positional arguments", "options") else ""
            about = f"{group.description}\n\n" if group.description else ""
            yield (f"### {prefix}{title[:1].upper()}{title[1:]}\n\n" if title else "") + about + "\n".join(lines) + "\n"
    for name, subparser in subcommands:
        yield f"### `{name}`\n\n{subparser.description}\n"
        yield from described(subparser, f"`{name}`: ")


def option(action: argparse.Action) -> str:
    """Returns one option as an item of a list."""
    value = "" if action.nargs == 0 else f" {action.metavar or (action.dest.upper() if action.option_strings else '')}"
    if action.choices and not action.metavar:
        value = " " + "|".join(map(str, action.choices))
    names = ", ".join(
        f"`{s}{value}`" if s.startswith("--") and value.strip() else f"`{s}`" for s in action.option_strings
    )
    names = names or f"`{action.metavar or action.dest}`"
    text = " ".join((action.help or "").replace("%%", "%").replace("|", "\\|").split())
    return f"* {names}: {text}"


def main() -> None:
    """Writes the page, or compares it."""
    parser = argparse.ArgumentParser(prog="python docs/options.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text)
    elif not PAGE.is_file() or PAGE.read_text() != text:
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what the parsers say; run python docs/options.py")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
