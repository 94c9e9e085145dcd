"""What one option is: a field with a default, a help text, and the check of its range that needs no other option."""

from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from runtime.terminal import did_you_mean


class SettingsError(ValueError):
    """A setting that cannot be used; the message says what was expected, what came, and what to do."""


@dataclass(frozen=True)
class Rules:
    """What an option's field carries beside its default.

    help: a sentence for `--help`. everyday: whether the short `--help` shows it. among: the values it may take. least:
    its smallest value. between: an open interval that it must lie in.
    """

    help: str
    everyday: bool = False
    among: Collection[str] | None = None
    least: float | None = None
    between: tuple[float, float] | None = None


def option(default: Any, help: str, **rules: Any) -> Any:
    """Returns a dataclass field with a default and its Rules; see there for the keywords."""
    return field(default=default, metadata={"rules": Rules(help, **rules)})


def rules_of(section: type) -> dict[str, Rules]:
    """Returns the Rules of every option of a section, in the order in which they are written."""
    return {f.name: f.metadata["rules"] for f in fields(section)}


def default_of(section: type, name: str) -> Any:
    """Returns the default of an option. Raises TypeError for one that has none: every option needs a default."""
    default = next(f.default for f in fields(section) if f.name == name)
    if default is MISSING:
        raise TypeError(f"option {name} needs a default")
    return default


def flag(name: str) -> str:
    """Returns the flag of an option: "--fp-epochs" of "fp_epochs"."""
    return "--" + name.replace("_", "-")


def check_rules(section: Any) -> None:
    """Raises SettingsError for the first option whose value its own Rules exclude; None is left to other checks."""
    for name, rules in rules_of(type(section)).items():
        value = getattr(section, name)
        if value is None:
            continue
        if rules.among is not None and value not in rules.among:
            near = did_you_mean(str(value), rules.among)
            raise SettingsError(f"{flag(name)}: expected one of {', '.join(rules.among)}, got {value!r}{near}")
        if rules.least is not None and not value >= rules.least:  # also for NaN
            raise SettingsError(f"{flag(name)}: expected at least {rules.least}, got {value}")
        if rules.between is not None and not rules.between[0] < value < rules.between[1]:
            low, high = rules.between
            raise SettingsError(f"{flag(name)}: expected a number between {low} and {high}, got {value}")


def require_two(name: str, count: int) -> None:
    """Raises SettingsError for a count of one picture, of which none is left to judge by; 0 stands for all."""
    if count == 1:
        raise SettingsError(
            f"{flag(name)}: expected at least 2, to judge by one what another teaches, or 0 for all, got 1"
        )


def annotation_of(section: type, name: str) -> type:
    """Returns the type of an option's value, None apart: bool, int, float, str or Path."""
    annotation = next(f.type for f in fields(section) if f.name == name)
    kinds = (annotation, *getattr(annotation, "__args__", ()))
    return next(kind for kind in (bool, int, float, Path, str) if kind in kinds)
