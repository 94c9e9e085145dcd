"""Reading JSON objects member by member, with type and range checked and one kind of error."""

import math
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

LIMIT = 1 << 31  # bytes or values of anything in a bundle
REBUILD = "build the bundle again with `python -m compile.build`"
COPY = f"copy the whole bundle folder here again, or {REBUILD}"


class BundleError(ValueError):
    """The bundle cannot be used here; the message says what is wrong, why, and what to do."""


class Fields:
    """A JSON object whose members are read with their type and range checked.

    where: names it in errors; todo: what they advise.
    """

    def __init__(self, data: Any, where: str, todo: str = REBUILD):
        if not isinstance(data, dict):
            raise BundleError(f"{where}: expected an object, got {short(data)}; {todo}")
        self.data, self.where, self.todo = data, where, todo

    def require(self, fits: bool, expected: str, came: Any) -> None:
        if not fits:
            raise BundleError(f"{self.where}: expected {expected}, got {short(came)}; {self.todo}")

    def get(self, key: str, kind, expected: str) -> Any:
        self.require(key in self.data, f"a field {key!r}", "none")
        value = self.data[key]
        self.require(isinstance(value, kind) and not isinstance(value, bool), f"{key} to be {expected}", value)
        return value

    def whole(self, key: str, low: int, high: int = LIMIT, step: int = 1) -> int:
        value = self.get(key, int, "a whole number")
        self.require(low <= value <= high and value % step == 0, f"{key} in {low}..{high}, a multiple of {step}", value)
        return value

    def real(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        value = self.get(key, (int, float), "a number")
        self.require(-(LIMIT**4) < value < LIMIT**4 and low <= value <= high, f"{key} finite in {low}..{high}", value)
        return float(value)

    def text(self, key: str) -> str:
        value = self.get(key, str, "text")
        self.require(0 < len(value) <= 1000 and value.isprintable(), f"{key} to be printable text", value)
        return value

    def path(self, key: str) -> str:
        return inside(self.text(key), f"{self.where}: {key}")

    def texts(self, key: str, least: int = 0) -> list[str]:
        values = self.get(key, list, "a list")
        self.require(len(values) >= least, f"at least {least} {key}", values)
        return [Fields({key: v}, self.where, self.todo).text(key) for v in values]

    def object(self, key: str) -> "Fields":
        return Fields(self.get(key, dict, "an object"), f"{self.where}: {key}", self.todo)

    def objects(self, key: str, least: int = 0) -> list["Fields"]:
        values = self.get(key, list, "a list")
        self.require(len(values) >= least, f"at least {least} of {key}", values)
        return [Fields(v, f"{self.where}: {key}[{i}]", self.todo) for i, v in enumerate(values)]

    def table(self, key: str) -> list[tuple[str, "Fields"]]:
        members = self.object(key)
        return [(k, Fields(v, f"{members.where}: {k}", self.todo)) for k, v in members.data.items()]

    def mapping(self, key: str, read: Callable[["Fields", str], Any]) -> dict[str, Any]:
        members = self.object(key)
        return {k: read(members, k) for k in members.data}


def short(value: Any) -> str:
    text = value if isinstance(value, str) and len(value) < 100 else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def inside(path: str, where: str) -> str:
    """The path, relative and without a way out of its folder; raises BundleError for any other."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or str(PurePosixPath(path)) != path:
        raise BundleError(f"{where}: expected a plain path inside the bundle, got {short(path)}; {REBUILD}")
    return path
