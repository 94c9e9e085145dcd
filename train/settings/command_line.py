"""The command line of `python -m train.run`: a dozen everyday flags, all others by section, presets and a file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.terminal import OneLineParser, add_version, program
from train.settings.config_file import read_config
from train.settings.options import SettingsError, annotation_of, default_of, flag, rules_of
from train.settings.presets import MEANINGS, PRESETS
from train.settings.settings import SECTIONS, Settings

ABOUT = "Trains a family of integer networks on pictures of many qualities."


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Returns the settings of a command line; a bad one ends the program with one line that says what is wrong.

    Flags win over --config, which wins over --preset, which wins over the defaults.
    """
    parser = make_parser()
    words = vars(parser.parse_args(arguments))
    try:
        preset, config = words.pop("preset"), words.pop("config")
        from_file = {} if config is None else read_config(config)
        return Settings.of(**{**PRESETS.get(preset, {}), **from_file, **words})
    except SettingsError as error:
        parser.error(str(error))


def make_parser(everything: bool = False) -> argparse.ArgumentParser:
    """Returns the parser; everything: whether its help shows all options, a group a section, or the everyday ones."""
    hidden = sum(not rules.everyday for section in SECTIONS.values() for rules in rules_of(section).values())
    parser = OneLineParser(
        prog=program("train.run"),
        usage="%(prog)s [options]",
        description=ABOUT,
        epilog=None if everything else f"--help-all shows {hidden} more.",
        add_help=False,
        allow_abbrev=False,
    )
    common = parser.add_argument_group("everyday options")
    common.add_argument("-h", "--help", action="help", help="Shows the everyday options.")
    common.add_argument(
        "--help-all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS, help="Shows every option, by section."
    )
    add_version(common)
    presets = "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items())
    common.add_argument("--preset", choices=PRESETS, help=f"Options that go together. {presets}.")
    common.add_argument(
        "--config",
        type=given_path,
        metavar="FILE",
        help="TOML file with any of the options, such as the settings.toml that every run leaves; flags win over it.",
    )
    for name, section in SECTIONS.items():
        title, _, about = (section.__doc__ or "").partition(": ")
        about = about or title
        group = parser.add_argument_group(f"{name} options", about[:1].upper() + about[1:]) if everything else common
        for option, rules in rules_of(section).items():
            shown = everything or rules.everyday
            text = f"{rules.help} (default: {_shown(default_of(section, option))})".replace("%", "%%")
            _add(group, section, option, text if shown else argparse.SUPPRESS)
    return parser


def make_full_parser() -> argparse.ArgumentParser:
    """Returns the parser whose help shows every option, by section."""
    return make_parser(everything=True)


def given_path(text: str) -> Path:
    """Returns the path of a word; raises argparse.ArgumentTypeError for "", which would be the folder one is in."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


class _HelpAll(argparse.Action):
    """Prints the help with every option and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        make_parser(everything=True).print_help()
        parser.exit()


def _add(group: argparse._ArgumentGroup, section: type, option: str, text: str) -> None:
    """Adds an option that is left out of the result when it is not given."""
    kind = annotation_of(section, option)
    if kind is bool:
        action = argparse.BooleanOptionalAction
        group.add_argument(flag(option), action=action, default=argparse.SUPPRESS, help=text)
        return
    metavar = {Path: "PATH", int: "N", float: "X", str: "TEXT"}[kind]
    convert = given_path if kind is Path else kind
    group.add_argument(flag(option), type=convert, metavar=metavar, default=argparse.SUPPRESS, help=text)


def _shown(default: Any) -> str:
    if default is None or default == "":
        return "none"
    if isinstance(default, Path):
        return str(default).replace(str(Path.home()), "~")
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default)
