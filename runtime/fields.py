"""Reads JSON objects member by member, checks types and ranges, and raises one kind of error."""

import math
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, TypeVar

LIMIT = 1 << 31  # the most bytes, or values, that anything in a bundle may have
LONGEST_TEXT = 1000
REBUILD = "build the bundle again with `python -m compile.build`"
COPY = f"copy the whole bundle folder here again, or {REBUILD}"

Value = TypeVar("Value")


class BundleError(ValueError):
    """A bundle cannot be used here; the message says what was expected, what came instead and what to do."""


class Fields:
    """A JSON object whose members are read one by one, each with its type and range checked.

    where: names the object in errors; todo: the advice that ends them. Every method raises BundleError for a member
    that is missing, of another type or out of range.
    """

    def __init__(self, data: Any, where: str, todo: str = REBUILD) -> None:
        if not isinstance(data, dict):
            raise BundleError(f"{where}: expected an object, got {abbreviate(data)}; {todo}")
        self.data = data
        self.where = where
        self.todo = todo

    def require(self, fits: bool, expected: str, value: Any) -> None:
        """Raises BundleError, which names what was expected and the value that came, unless `fits`."""
        if not fits:
            raise BundleError(f"{self.where}: expected {expected}, got {abbreviate(value)}; {self.todo}")

    def get(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        """Returns the member if it is of that type; `expected` names the type in errors. Booleans are no numbers."""
        self.require(key in self.data, f"a field {key!r}", "none")
        value = self.data[key]
        fits = isinstance(value, kind) and not isinstance(value, bool)
        self.require(fits, f"{abbreviate(key)} to be {expected}", value)
        return value

    def whole(self, key: str, low: int, high: int = LIMIT, step: int = 1) -> int:
        """Returns an integer in low..high that is a multiple of `step`."""
        value: int = self.get(key, int, "a whole number")
        self.require(low <= value <= high and value % step == 0, f"{key} in {low}..{high}, a multiple of {step}", value)
        return value

    def real(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Returns a finite number in low..high, an integer as a float."""
        value = self.get(key, (int, float), "a number")
        self.require(
            -(LIMIT**4) < value < LIMIT**4 and low <= value <= high, f"{abbreviate(key)} finite in {low}..{high}", value
        )
        return float(value)

    def text(self, key: str) -> str:
        """Returns printable text of 1 to 1000 letters."""
        return self._text(key, self.get(key, str, "text"))

    def path(self, key: str) -> str:
        """Returns a path inside the bundle; see `require_inside`."""
        return require_inside(self.text(key), f"{self.where}: {key}")

    def texts(self, key: str, least: int = 0) -> list[str]:
        """Returns a list of at least `least` texts."""
        values = self.get(key, list, "a list")
        self.require(len(values) >= least, f"at least {least} {key}", values)
        for value in values:
            self.require(isinstance(value, str), f"{key} to be text", value)
        return [self._text(key, value) for value in values]

    def object(self, key: str) -> "Fields":
        """Returns an object, whose errors name this one too."""
        return Fields(self.get(key, dict, "an object"), f"{self.where}: {key}", self.todo)

    def objects(self, key: str, least: int = 0) -> list["Fields"]:
        """Returns a list of at least `least` objects."""
        values = self.get(key, list, "a list")
        self.require(len(values) >= least, f"at least {least} of {key}", values)
        return [Fields(value, f"{self.where}: {key}[{i}]", self.todo) for i, value in enumerate(values)]

    def table(self, key: str) -> list[tuple[str, "Fields"]]:
        """Returns the (key, object) pairs of an object of objects."""
        members = self.object(key)
        return [
            (name, Fields(value, f"{members.where}: {abbreviate(name)}", self.todo))
            for name, value in members.data.items()
        ]

    def mapping(self, key: str, read: Callable[["Fields", str], Value]) -> dict[str, Value]:
        """Returns an object with each member as `read(fields of the object, the member's key)` returns it."""
        members = self.object(key)
        return {name: read(members, name) for name in members.data}

    def _text(self, key: str, value: str) -> str:
        self.require(0 < len(value) <= LONGEST_TEXT and value.isprintable(), f"{key} to be printable text", value)
        return value


def abbreviate(value: Any) -> str:
    """Returns a value as errors show it, in at most 203 letters, none of which a terminal would obey."""
    text = value if isinstance(value, str) and len(value) < 100 and value.isprintable() else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def require_inside(path: str, where: str) -> str:
    """Returns the path itself if it is relative, plain and stays in its folder; raises BundleError for any other.

    Plain are at most 1000 printable letters, which every file system takes and every terminal shows.
    """
    if not path.isprintable() or len(path) > LONGEST_TEXT:
        raise BundleError(f"{where}: expected a path of printable letters, got {abbreviate(path)}; {REBUILD}")
    parts = PurePosixPath(path).parts
    plain = str(PurePosixPath(path)) == path and "\\" not in path and not path.startswith("/")
    if not parts or ".." in parts or not plain:
        raise BundleError(f"{where}: expected a plain path inside the bundle, got {abbreviate(path)}; {REBUILD}")
    return path
