"""The settings of a run as a short table: a row a section, with what a user gave and what every run is asked about."""

from pathlib import Path
from typing import Any

from rich.table import Table

from train.settings.options import default_of, rules_of
from train.settings.settings import SECTIONS, Settings


def settings_table(settings: Settings, device: str) -> Table:
    """Returns a table with the everyday options and those that differ from their defaults; device: the one in use."""
    table = Table(title="settings", title_justify="left", show_header=False, box=None, width=80)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    shown = {"out": settings.folder, "flip": "yes" if settings.data.mirrored else "no", "device": device}
    for name, section in SECTIONS.items():
        options = {
            option: shown.get(option, settings.value(option))
            for option, rules in rules_of(section).items()
            if rules.everyday or option == "device" or settings.value(option) != default_of(section, option)
        }
        words = [f"{option}={_word(value)}" for option, value in options.items() if value is not None]
        if words:
            table.add_row(name, ", ".join(words))
    return table


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace(str(Path.home()), "~") if isinstance(value, Path) else str(value)
