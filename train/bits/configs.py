"""Bit configurations on disk: those a run will train, and the best of all that its search has seen."""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runtime.files import write_json
from targets.reference.nodes import BITS
from train.bits.cost import BitConfig
from train.network.network import FULL

FORMAT = 1
NAME = "configs.json"


class ConfigsError(ValueError):
    """Configurations that cannot be used; the message says what was expected."""


@dataclass(frozen=True)
class Variant:
    """A bit configuration and what is known of it.

    cost: of 8 bits everywhere, as the run counts it; method: what found it; kinds: quality kinds whose pictures it is
    trained with, empty for all alike; loss: on held pictures at widths still open, None where not measured; base: the
    variant that a private one was made from, whose weights it shares but in its private layers; else empty.
    """

    name: str
    bits: BitConfig
    cost: float
    method: str
    kinds: tuple[int, ...] = ()
    loss: float | None = None
    base: str = ""


@dataclass(frozen=True)
class Configs:
    """variants: those to train, best so far while a search goes on; pareto: its Pareto front (cost, loss).

    about: settings that make costs comparable; kinds: how kinds of quality are told apart (train/kinds/kinds.py) or
    None."""

    about: dict
    variants: tuple[Variant, ...] = ()
    pareto: tuple[Variant, ...] = ()
    kinds: dict | None = field(default=None)

    @property
    def bits(self) -> dict[str, BitConfig]:
        return {v.name: v.bits for v in self.variants}

    def to_dict(self) -> dict:
        return {
            "format": FORMAT,
            **self.about,
            "variants": [_entry(v) for v in self.variants],
            "pareto": [_entry(v) for v in self.pareto],
            "groups": self.kinds,
        }

    @classmethod
    def from_dict(cls, content: dict, where: str) -> "Configs":
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ConfigsError(f"{where}: expected configurations of format {FORMAT}; let a search write them anew")
        known = {"format", "variants", "pareto", "groups"}
        try:
            lists = [tuple(_variant(entry) for entry in content[key]) for key in ("variants", "pareto")]
            _check_names(lists[0])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigsError(f"{where}: not a list of configurations ({error!r}); search anew") from error
        return cls({k: v for k, v in content.items() if k not in known}, *lists, content.get("groups"))

    def write(self, folder: Path) -> Path:
        """Writes configs.json into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAME
        write_json(path, self.to_dict())
        return path


def _entry(variant: Variant) -> dict:
    """A variant as JSON holds it, where its kinds are called groups."""
    return {"groups" if name == "kinds" else name: value for name, value in asdict(variant).items()}


def _variant(entry: dict) -> Variant:
    """Raises KeyError, TypeError or ValueError for what is none."""
    name, loss, base = entry["name"], entry.get("loss"), entry.get("base", "")
    # It names files and modules.
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name) or name == FULL:
        raise ValueError(f"name: expected letters, digits, - and _, not {FULL}, got {name!r}")
    if not isinstance(entry["method"], str) or not isinstance(base, str):
        raise ValueError(f"{name}: expected texts as method and base, got {entry['method']!r} and {base!r}")
    if not _number(entry["cost"]) or not (loss is None or _number(loss)):
        raise ValueError(f"{name}: expected numbers as cost and loss, got {entry['cost']!r} and {loss!r}")
    groups = entry["groups"]
    if not isinstance(groups, (list, tuple)) or any(type(g) is not int or g < 0 for g in groups):
        raise ValueError(f"{name}: expected numbers of groups, got {groups!r}")
    others = {k: value for k, value in entry.items() if k != "groups"}
    return Variant(**{**others, "bits": checked_bits(name, entry["bits"]), "kinds": tuple(groups)})


def _number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def checked_bits(name: str, bits: dict) -> BitConfig:
    """Of JSON, layer -> (w_bits, a_bits). Raises ValueError, which begins with the name, for what is none."""
    if not isinstance(bits, dict):
        raise ValueError(f"{name}: expected bits as an object of layers, got {bits!r}")
    for layer, pair in bits.items():
        if (
            not isinstance(pair, (list, tuple))
            or len(pair) != 2
            or any(type(b) is not int or b not in BITS for b in pair)
        ):
            raise ValueError(f"{name}, {layer}: expected two widths from {BITS.start} to {BITS.stop - 1}, got {pair!r}")
    return {layer: tuple(pair) for layer, pair in bits.items()}


def _check_names(variants: tuple[Variant, ...]) -> None:
    """No name twice; weights can be shared with such as have their own."""
    if len({v.name for v in variants}) < len(variants):
        raise ValueError(f"expected variants of different names, got {[v.name for v in variants]}")
    known = {"", *(v.name for v in variants if not v.base)}
    unknown = [f"{v.base} of {v.name}" for v in variants if v.base not in known]
    if unknown:
        raise ValueError(f"no variant of its own weights is the base {', '.join(unknown)}")


def pareto(seen: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Those of measured loss that no other beats in cost and loss, by rising cost."""
    kept = []
    for v in sorted((v for v in seen if v.loss is not None), key=lambda v: (v.cost, v.loss)):
        if not kept or v.loss < kept[-1].loss:
            kept.append(v)
    return tuple(kept)


def distinct(variants) -> tuple[Variant, ...]:
    """The first of each bit configuration and quality kinds, by falling cost; equal names get a number."""
    kept = {}
    for v in variants:
        kept.setdefault((tuple(v.bits.items()), v.kinds), v)
    out, names = [], set()
    for v in sorted(kept.values(), key=lambda v: -v.cost):
        name = next(n for n in (v.name, *(f"{v.name}-{k}" for k in range(2, len(kept) + 2))) if n not in names)
        names.add(name)
        out.append(Variant(**{**asdict(v), "name": name}))
    return tuple(out)


def load(text: str, layers: tuple[str, ...]) -> Configs:
    """Variants of FILE, of FILE:name,name (also of its Pareto list), or of several such joined by "+".

    layers: names of the network's layers, which every configuration must have. Costs are in each file's own unit, about
    is empty. Raises ConfigsError.
    """
    found, groups = [], None
    for part in text.split("+"):
        path, colon, names = part.partition(":")
        if not path or (colon and not all(names.split(","))):
            raise ConfigsError(f"--configs {text}: expected FILE, FILE:name,name, or such joined by +, got {part!r}")
        configs = read(Path(path))
        chosen = _named(configs, names.split(","), path) if names else configs.variants
        for v in chosen:
            if set(v.bits) != set(layers):
                raise ConfigsError(
                    f"{path}: {v.name} has bits for {_few(v.bits)}, expected {_few(layers)}; "
                    "give the --arch it was found for"
                )
        if any(v.kinds for v in chosen):
            if groups is not None:
                raise ConfigsError(f"--configs {text}: two files with quality groups; give variants of one of them")
            groups = configs.kinds
        found += chosen
    repeated = {v.name for v in found if [w.name for w in found].count(v.name) > 1}
    if repeated or not found:
        raise ConfigsError(f"--configs {text}: expected variants of different names, got {sorted(repeated) or 'none'}")
    return Configs({}, tuple(found), (), groups)


def _few(names) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def read(path: Path) -> Configs:
    try:
        return Configs.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigsError(f"{path}: {error}; give the configs.json of a run") from error


def _named(configs: Configs, names: list[str], path: str) -> list[Variant]:
    known = {v.name: v for v in (*configs.pareto, *configs.variants)}
    missing = [n for n in names if n not in known]
    if missing:
        raise ConfigsError(f"{path}: no configuration {', '.join(missing)}; it has {', '.join(known)}")
    return [known[n] for n in names]
