"""Bit configurations on disk: those a run will train, and the best of all that its search has seen."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from train.cost import BitConfig

FORMAT = 1
NAME = "configs.json"


class ConfigsError(ValueError):
    """Configurations that cannot be used; the message says what was expected."""


@dataclass(frozen=True)
class Variant:
    """A bit configuration and what is known of it.

    cost: of 8 bits everywhere, as the run counts it; method: what found it; groups: quality groups whose pictures it is
    trained with, empty for all alike; loss: on held pictures at widths still open, None where not measured; base: the
    variant that a private one was made from, whose weights it shares but in its private layers; else empty.
    """

    name: str
    bits: BitConfig
    cost: float
    method: str
    groups: tuple[int, ...] = ()
    loss: float | None = None
    base: str = ""


@dataclass(frozen=True)
class Configs:
    """variants: those to train, best so far while a search goes on; seen: the Pareto list (cost, loss) of its search.

    about: settings that make costs comparable; groups: how quality groups are told apart (train/groups.py) or None.
    """

    about: dict
    variants: tuple[Variant, ...] = ()
    seen: tuple[Variant, ...] = ()
    groups: dict | None = field(default=None)

    @property
    def bits(self) -> dict[str, BitConfig]:
        return {v.name: v.bits for v in self.variants}

    def to_dict(self) -> dict:
        return {"format": FORMAT, **self.about, "variants": [asdict(v) for v in self.variants],
                "pareto": [asdict(v) for v in self.seen], "groups": self.groups}

    @classmethod
    def from_dict(cls, content: dict, where: str) -> "Configs":
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ConfigsError(f"{where}: expected configurations of format {FORMAT}; let a search write them anew")
        known = {"format", "variants", "pareto", "groups"}
        try:
            lists = [tuple(_variant(entry) for entry in content[key]) for key in ("variants", "pareto")]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigsError(f"{where}: not a list of configurations ({error!r}); search anew") from error
        return cls({k: v for k, v in content.items() if k not in known}, *lists, content.get("groups"))

    def write(self, folder: Path) -> Path:
        """Writes configs.json into a folder, under a temporary name first."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAME
        temporary = path.with_name(f"{NAME}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
        return path


def _variant(entry: dict) -> Variant:
    bits = {layer: (int(w), int(a)) for layer, (w, a) in entry["bits"].items()}
    return Variant(**{**entry, "bits": bits, "groups": tuple(entry["groups"])})


def pareto(seen: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Those of measured loss that no other beats in cost and loss, by rising cost."""
    kept = []
    for v in sorted((v for v in seen if v.loss is not None), key=lambda v: (v.cost, v.loss)):
        if not kept or v.loss < kept[-1].loss:
            kept.append(v)
    return tuple(kept)


def distinct(variants) -> tuple[Variant, ...]:
    """The first of each bit configuration and quality groups, by falling cost; equal names get a number."""
    kept = {}
    for v in variants:
        kept.setdefault((tuple(v.bits.items()), v.groups), v)
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
        path, _, names = part.partition(":")
        configs = read(Path(path))
        chosen = _named(configs, names.split(","), path) if names else configs.variants
        for v in chosen:
            if set(v.bits) != set(layers):
                raise ConfigsError(f"{path}: {v.name} has bits for {_few(v.bits)}, expected {_few(layers)}; "
                                   "give the --arch it was found for")
        if any(v.groups for v in chosen):
            if groups is not None:
                raise ConfigsError(f"--configs {text}: two files with quality groups; give variants of one of them")
            groups = configs.groups
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
    known = {v.name: v for v in (*configs.seen, *configs.variants)}
    missing = [n for n in names if n not in known]
    if missing:
        raise ConfigsError(f"{path}: no configuration {', '.join(missing)}; it has {', '.join(known)}")
    return [known[n] for n in names]
