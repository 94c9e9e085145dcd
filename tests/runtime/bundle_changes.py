"""Changes of bundles by chance, each a function of a seed: fields, bytes, cuts, swaps, and what is no file at all."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bundle.manifest import signed

# A digest is no signature: who makes it anew may change what is computed, by these members, but not how safely.
DECIDING = ("variants", "input", "golden")


@dataclass
class Case:
    """A bundle that is being changed. may_differ: whether other logits are what the data now say."""

    folder: Path
    manifest: dict[str, Any]
    rng: np.random.Generator
    may_differ: bool = False

    def pick(self, choices: Any) -> Any:
        choices = list(choices)
        return choices[int(self.rng.integers(len(choices)))]

    def listed(self, library: bool = True) -> str:
        """One of the files, evenly."""
        return self.pick(name for name in sorted(self.manifest["files"]) if library or not name.startswith("lib/"))

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file, which may be a hard link to the sound one."""
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).write_bytes(data)

    def list_anew(self, name: str) -> None:
        data = self.read(name)
        self.manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    def sign(self) -> None:
        self.write("manifest.json", json.dumps(signed(self.manifest)).encode())


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every member and element of a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*path, key)
        yield from places(member, (*path, key))


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


ODD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    63,
    64,
    65,
    1 << 16,
    1 << 31,
    (1 << 31) - 64,
    1 << 63,
    1 << 200,
    0.5,
    1e308,
    -0.0,
)
WORDS = (
    "",
    "x",
    "\0",
    "\x1b[31m",
    "\ud800",
    "n" * 5000,
    "../x",
    "/etc/passwd",
    "weights.bin",
    "main",
    "serve",
    "sha256",
)
ODD += (float("nan"), float("inf"), *WORDS, [], {}, [[]], [0] * 3, {"x": 0}, [[[[[[]]]]]])


def change_field(case: Case) -> None:
    """Any member of the manifest becomes another value, goes, is doubled, or changes its place with another."""
    for _ in range(int(case.pick((1, 1, 1, 2, 4)))):
        *path, key = case.pick(places({k: v for k, v in case.manifest.items() if k != "sha256"}))
        parent = at(case.manifest, tuple(path))
        value = parent[key]
        case.may_differ |= (path[0] if path else key) in DECIDING
        way = int(case.rng.integers(6))
        if way == 0:
            del parent[key]
        elif way == 1 and type(value) is int:
            parent[key] = value + int(case.pick((-64, -4, -1, 1, 4, 64, value, -value)))
        elif way == 2:
            parent[key] = copy.deepcopy(at(case.manifest, case.pick(places(case.manifest))))
        elif way == 3 and isinstance(parent, list):
            parent.insert(int(case.rng.integers(len(parent) + 1)), copy.deepcopy(value))
        elif way == 4 and isinstance(parent, dict):
            parent[case.pick(WORDS)] = value
        else:
            parent[key] = copy.deepcopy(case.pick(ODD))
    case.sign()


def damage(case: Case, data: bytes) -> bytes:
    """Bytes, words of 32 bits, or runs of other values."""
    changed = bytearray(data)
    for _ in range(int(case.rng.integers(1, 9))):
        place = int(case.rng.integers(len(changed)))
        way = int(case.rng.integers(3))
        if way == 0:
            changed[place] ^= 1 << int(case.rng.integers(8))
        elif way == 1:
            word = case.pick((0, -1, 1, 1 << 30, -(1 << 31), 4096, 1 << 20))
            changed[place & -4 : (place & -4) + 4] = (word & 0xFFFFFFFF).to_bytes(4, "little")
        else:
            run = int(case.rng.integers(1, 64))
            changed[place : place + run] = case.rng.bytes(len(changed[place : place + run]))
    return bytes(changed[: len(data)])


def damage_data(case: Case) -> None:
    """A file other than a library, whose bytes are code, is damaged and listed as it is now."""
    name = case.listed(library=False)
    case.write(name, damage(case, case.read(name)))
    case.may_differ = name in ("weights.bin", "tables.bin")
    case.list_anew(name)
    case.sign()


def damage_unlisted(case: Case) -> None:
    """Any file is damaged, the manifest among them, and the digests stay."""
    name = case.pick([*case.manifest["files"], "manifest.json"])
    case.write(name, damage(case, case.read(name)))


def cut(case: Case) -> None:
    """A file is cut off or goes on with zeros, and is listed so or not."""
    name = case.listed()
    data = case.read(name)
    end = int(case.rng.integers(len(data) + 1))
    case.write(name, case.pick((data[:end], data[:end], data + bytes(end))))
    if case.rng.integers(2):
        case.list_anew(name)
        case.may_differ = not name.startswith("lib/")
    case.sign()


def swap(case: Case) -> None:
    """Two files change places, and are listed so or not."""
    first, second = case.listed(), case.listed()
    data = case.read(first)
    case.write(first, case.read(second))
    case.write(second, data)
    if case.rng.integers(2):
        case.list_anew(first)
        case.list_anew(second)
        case.may_differ = True
    case.sign()


def replace_by_none(case: Case) -> None:
    """In the place of a file there is nothing, a loop of links, a link elsewhere, a pipe or a folder."""
    path = case.folder / case.pick([*case.manifest["files"], "manifest.json"])
    path.unlink()
    make = case.pick(
        (
            lambda: None,
            lambda: path.symlink_to(path.name),
            lambda: path.symlink_to("/dev/zero"),
            lambda: os.mkfifo(path),
            path.mkdir,
        )
    )
    make()


def change_golden(case: Case) -> None:
    """The headers in golden data say something else: other packings and flags, other versions, other sizes."""
    data = bytearray(case.read("golden.npz"))
    for _ in range(int(case.rng.integers(1, 4))):
        mark, low, high = case.pick(((b"PK\x03\x04", 4, 30), (b"PK\x01\x02", 4, 46), (b"PK\x05\x06", 4, 22)))
        starts = [i for i in range(len(data)) if data.startswith(mark, i)]
        if starts:
            place = case.pick(starts) + int(case.rng.integers(low, high))
            data[place] = int(case.pick((0, 1, 8, 12, 14, 99, 255, data[place] ^ 1)))
    case.write("golden.npz", bytes(data))
    case.list_anew("golden.npz")
    case.sign()


WAYS: tuple[Callable[[Case], None], ...] = (change_field,) * 4 + (damage_data,) * 3
WAYS += (damage_unlisted, cut, swap, replace_by_none, change_golden)


def make_case(sound: Path, folder: Path, seed: int, number: int) -> tuple[str, bool]:
    """Fills an empty folder with a changed bundle; returns how it was changed, and whether its logits may differ."""
    for path in sound.rglob("*"):
        place = folder / path.relative_to(sound)
        if path.is_file():
            place.parent.mkdir(exist_ok=True, parents=True)
            os.link(path, place)
    case = Case(folder, json.loads((sound / "manifest.json").read_text()), np.random.default_rng((seed, number)))
    way = case.pick(WAYS)
    way(case)
    return way.__name__, case.may_differ
