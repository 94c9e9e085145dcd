"""Settings as a TOML file with a table a section: what `--config` reads, and what every run leaves as settings.toml."""

import sys
from pathlib import Path
from typing import Any

import tomli_w

from runtime.files import write_bytes
from runtime.terminal import did_you_mean
from train.settings.options import SettingsError, annotation_of
from train.settings.settings import SECTION_OF, SECTIONS, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEFT_OUT = ("out", "resume")  # of the file a run leaves: it repeats the run in another folder


def read_config(path: Path) -> dict[str, Any]:
    """Returns the options in a TOML file, name -> value. Raises SettingsError for a file that is no such file."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"--config {path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"--config {path}: expected a TOML file, cannot read it ({error})") from error
    values: dict[str, Any] = {}
    for section, options in tables.items():
        if section not in SECTIONS or not isinstance(options, dict):
            raise SettingsError(
                f"--config {path}: expected tables named {', '.join(SECTIONS)}, got {section!r}; every run's "
                "settings.toml shows the form"
            )
        for name, value in options.items():
            if SECTION_OF.get(name) != section:
                if name in SECTION_OF:
                    home = f"it belongs under [{SECTION_OF[name]}]"
                else:
                    home = f"no option is called so{did_you_mean(name, SECTION_OF)}"
                raise SettingsError(f"--config {path}: [{section}] has an option {name!r}, but {home}")
            values[name] = _checked(path, section, name, value)
    return values


def write_config(path: Path, settings: Settings) -> None:
    """Writes the settings that repeat a run: `python -m train.run --config FILE --out FOLDER`."""
    tables: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in settings.values().items():
        if value is not None and name not in LEFT_OUT:
            tables[SECTION_OF[name]][name] = str(value) if isinstance(value, Path) else value
    write_bytes(path, tomli_w.dumps(tables).encode())


def _checked(path: Path, section: str, name: str, value: Any) -> Any:
    """The value as its option holds it."""
    kind = annotation_of(SECTIONS[section], name)
    fits = isinstance(value, (int, float) if kind is float else str if kind is Path else kind)
    if not fits or (kind is not bool and isinstance(value, bool)):
        raise SettingsError(f"--config {path}: [{section}] {name}: expected {_NAMES[kind]}, got {value!r}")
    return kind(value)


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path as text"}
