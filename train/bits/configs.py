"""Bit configurations on disk: those that a run trains, and the Pareto front of all that its search has judged."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.files import write_json
from targets.reference.nodes import BITS
from train.bits.cost import BitConfig
from train.network.network import FULL

CONFIGS_FORMAT = 1
CONFIGS_FILE = "configs.json"
NAMED_LAYERS = 4  # that an error lists


class ConfigsError(ValueError):
    """Configurations cannot be used; the message says what was expected."""


@dataclass(frozen=True)
class Configuration:
    """The bits of every layer, and what is known of a network that has them.

    cost: relative to 8 bits everywhere, in the run's unit. method: what found it. kinds: numbers of the quality kinds
    that it is trained for, empty for all pictures. loss: on held pictures at widths still open, None where not
    measured. base: the variant that a private one was made from, whose weights it shares but in its private layers;
    else empty.
    """

    name: str
    bits: BitConfig
    cost: float
    method: str
    kinds: tuple[int, ...] = ()
    loss: float | None = None
    base: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as JSON holds it, where kinds are called groups."""
        return {
            "name": self.name,
            "bits": self.bits,
            "cost": self.cost,
            "method": self.method,
            "groups": list(self.kinds),
            "loss": self.loss,
            "base": self.base,
        }

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "Configuration":
        """Returns the configuration that `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        name = entry["name"]
        loss = entry.get("loss")
        base = entry.get("base", "")
        # It names files and modules.
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name) or name == FULL:
            raise ValueError(f"name: expected letters, digits, - and _, not {FULL}, got {name!r}")
        unknown = set(entry) - {"name", "bits", "cost", "method", "groups", "loss", "base"}
        if unknown:
            raise ValueError(f"{name}: expected no other members, got {', '.join(sorted(unknown))}")
        if not isinstance(entry["method"], str) or not isinstance(base, str):
            raise ValueError(f"{name}: expected texts as method and base, got {entry['method']!r} and {base!r}")
        if not _is_number(entry["cost"]) or not (loss is None or _is_number(loss)):
            raise ValueError(f"{name}: expected numbers as cost and loss, got {entry['cost']!r} and {loss!r}")
        kinds = entry["groups"]
        if not isinstance(kinds, (list, tuple)) or any(type(k) is not int or k < 0 for k in kinds):
            raise ValueError(f"{name}: expected numbers of quality kinds as groups, got {kinds!r}")
        bits = checked_bits(name, entry["bits"])
        return cls(name, bits, entry["cost"], entry["method"], tuple(kinds), loss, base)


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; true and false are none."""
    return type(value) in (int, float) and math.isfinite(value)


def checked_bits(name: str, bits: Any) -> BitConfig:
    """Returns layer -> (w_bits, a_bits) of a JSON value. Raises ValueError, which begins with the name, for others."""
    if not isinstance(bits, dict):
        raise ValueError(f"{name}: expected bits as an object of layers, got {bits!r}")
    for layer, pair in bits.items():
        is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2
        if not is_pair or any(type(b) is not int or b not in BITS for b in pair):
            raise ValueError(f"{name}, {layer}: expected two widths from {BITS.start} to {BITS.stop - 1}, got {pair!r}")
    return {layer: (w_bits, a_bits) for layer, (w_bits, a_bits) in bits.items()}


@dataclass(frozen=True)
class Configs:
    """The content of configs.json.

    about: the settings under which its costs compare, as JSON. variants: the configurations to train, the best so far
    while a search goes on. pareto: the Pareto front (cost, loss) of that search. kinds: how quality kinds are told
    apart, as JSON (train/kinds/), or None.
    """

    about: dict[str, Any]
    variants: tuple[Configuration, ...] = ()
    pareto: tuple[Configuration, ...] = ()
    kinds: dict[str, Any] | None = None

    @property
    def bits(self) -> dict[str, BitConfig]:
        """The bits of all variants, by name."""
        return {v.name: v.bits for v in self.variants}

    def to_dict(self) -> dict[str, Any]:
        """Returns the content as JSON holds it, where kinds are called groups."""
        return {
            "format": CONFIGS_FORMAT,
            **self.about,
            "variants": [v.to_dict() for v in self.variants],
            "pareto": [v.to_dict() for v in self.pareto],
            "groups": self.kinds,
        }

    @classmethod
    def from_dict(cls, content: Any, where: str) -> "Configs":
        """Returns what `to_dict` gave. Raises ConfigsError, which begins with `where`, for anything else."""
        if not isinstance(content, dict) or content.get("format") != CONFIGS_FORMAT:
            raise ConfigsError(
                f"{where}: expected configurations of format {CONFIGS_FORMAT}; let a search write them anew"
            )
        try:
            variants = tuple(Configuration.from_dict(entry) for entry in content["variants"])
            pareto = tuple(Configuration.from_dict(entry) for entry in content["pareto"])
            _check_names(variants)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigsError(f"{where}: not a list of configurations ({error!r}); search anew") from error
        about = {k: v for k, v in content.items() if k not in ("format", "variants", "pareto", "groups")}
        return cls(about, variants, pareto, content.get("groups"))

    def write(self, folder: Path) -> Path:
        """Writes configs.json into a folder, which is made if need be, and returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CONFIGS_FILE
        write_json(path, self.to_dict())
        return path


def _check_names(variants: Sequence[Configuration]) -> None:
    """Raises ValueError where a name is there twice, or a private variant's base has no weights of its own."""
    if len({v.name for v in variants}) < len(variants):
        raise ValueError(f"expected variants of different names, got {[v.name for v in variants]}")
    bases = {"", *(v.name for v in variants if not v.base)}
    unknown = [f"{v.base} of {v.name}" for v in variants if v.base not in bases]
    if unknown:
        raise ValueError(f"no variant of its own weights is the base {', '.join(unknown)}")


def pareto_front(judged: Iterable[Configuration]) -> tuple[Configuration, ...]:
    """Returns those of measured loss that no other beats in both cost and loss, by rising cost."""
    measured = [(v.cost, v.loss, v) for v in judged if v.loss is not None]
    front: list[Configuration] = []
    least = math.inf
    for _, loss, v in sorted(measured, key=lambda entry: entry[:2]):
        if loss < least:
            front.append(v)
            least = loss
    return tuple(front)


def distinct(configurations: Iterable[Configuration]) -> tuple[Configuration, ...]:
    """Returns the first of all that share bits and quality kinds, by falling cost; equal names get a number."""
    first: dict[tuple, Configuration] = {}
    for v in configurations:
        first.setdefault((tuple(v.bits.items()), v.kinds), v)
    renamed: dict[str, Configuration] = {}
    for v in sorted(first.values(), key=lambda v: -v.cost):
        name = v.name
        number = 2
        while name in renamed:
            name = f"{v.name}-{number}"
            number += 1
        renamed[name] = replace(v, name=name)
    return tuple(renamed.values())


def read(path: Path) -> Configs:
    """Returns the content of a configs.json. Raises ConfigsError for a file that cannot be read or is none."""
    try:
        return Configs.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigsError(f"{path}: {error}; give the configs.json of a run") from error


def load(text: str, layers: tuple[str, ...]) -> Configs:
    """Returns the configurations that --configs names: FILE, FILE:name,name, or several such joined by "+".

    Names may also be of a file's Pareto front. layers: names of the network's layers, which every configuration must
    have. Costs are in each file's own unit, so `about` is empty. Raises ConfigsError.
    """
    chosen: list[Configuration] = []
    kinds = None
    for part in text.split("+"):
        file, colon, names = part.partition(":")
        if not file or (colon and not all(names.split(","))):
            raise ConfigsError(f"--configs {text}: expected FILE, FILE:name,name, or such joined by +, got {part!r}")
        configs = read(Path(file))
        some = _find_named(configs, names.split(","), file) if names else configs.variants
        _check_layers(some, layers, file)
        if any(v.kinds for v in some):
            if kinds is not None:
                raise ConfigsError(f"--configs {text}: two files with quality groups; give variants of one of them")
            kinds = configs.kinds
        chosen += some
    names_chosen = [v.name for v in chosen]
    repeated = sorted({name for name in names_chosen if names_chosen.count(name) > 1})
    if repeated or not chosen:
        raise ConfigsError(f"--configs {text}: expected variants of different names, got {repeated or 'none'}")
    return Configs({}, tuple(chosen), (), kinds)


def _find_named(configs: Configs, names: list[str], file: str) -> tuple[Configuration, ...]:
    """Returns the configurations of these names. Raises ConfigsError where one is unknown."""
    known = {v.name: v for v in (*configs.pareto, *configs.variants)}
    missing = [name for name in names if name not in known]
    if missing:
        raise ConfigsError(f"{file}: no configuration {', '.join(missing)}; it has {', '.join(known)}")
    return tuple(known[name] for name in names)


def _check_layers(configurations: Iterable[Configuration], layers: tuple[str, ...], file: str) -> None:
    """Raises ConfigsError for a configuration of another network's layers."""
    for v in configurations:
        if set(v.bits) != set(layers):
            raise ConfigsError(
                f"{file}: {v.name} has bits for {_first_names(v.bits)}, expected {_first_names(layers)}; "
                "give the --arch it was found for"
            )


def _first_names(layers: Iterable[str]) -> str:
    names = list(layers)
    return ", ".join(names[:NAMED_LAYERS]) + (", ..." if len(names) > NAMED_LAYERS else "")
