"""A bundle's manifest as frozen dataclasses; every field is checked, so that nothing later meets a surprise."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from runtime.bundle.segments import BITS, Segment, parse_segment
from runtime.choice.escalation import Escalation, parse_escalation
from runtime.choice.quality import SIDE
from runtime.fields import COPY, REBUILD, BundleError, Fields, inside

FORMAT = 4


@dataclass(frozen=True)
class Level:
    """What one way of compiling a variant requires: words of /proc/cpuinfo, or one "sm_NN" of an NVIDIA GPU."""

    name: str
    requires: tuple[str, ...]


@dataclass(frozen=True)
class TargetInfo:
    """What the bundle was built for; code for every level is there, best first."""

    name: str
    family: str
    machine: str
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Parallel:
    """Functions of a library: what several threads run for one picture, and what helpers run all the time."""

    share: str
    serve: str


@dataclass(frozen=True)
class Build:
    """A variant's code for one level, functions of its library, with the data it reads; sizes in bytes."""

    level: str
    function: str
    parallel: Parallel | None
    segments: tuple[Segment, ...]
    weights_bytes: int
    table_offset: int
    table_bytes: int
    workspace: int


@dataclass(frozen=True)
class Variant:
    """One bit configuration, compiled for each level of the target, in their order.

    bytes: of weights and tables; cost of 8 bits everywhere is 1; accuracy by family in 0..1.
    """

    name: str
    library: str
    builds: tuple[Build, ...]
    logit_scale: float
    bits: dict[str, tuple[int, int]] = field(hash=False)
    macs: int = 0
    bitops: int = 0
    bytes: int = 0
    cost: float = 1.0
    accuracy: dict[str, float] = field(default_factory=dict, hash=False)
    onnx: str | None = None

    @property
    def mean_accuracy(self) -> float | None:
        """Over the quality families, or None where nobody measured."""
        return sum(self.accuracy.values()) / len(self.accuracy) if self.accuracy else None


@dataclass(frozen=True)
class Budget:
    """Choosing with `lam` costs `budget` on average (relative to 8 bits everywhere) and gives `accuracy`."""

    budget: float
    lam: float
    accuracy: float


@dataclass(frozen=True)
class FileInfo:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json; `shape` is the input's [H, W, 3], `pictures` how many a call takes.

    budget: mean cost that the run was reported with; None where none is known, or in a bundle older than the field.
    """

    name: str
    producer: dict[str, Any] = field(hash=False)
    target: TargetInfo
    shape: tuple[int, int, int]
    labels: tuple[str, ...]
    variants: tuple[Variant, ...]
    selector: dict[str, Any] | None = field(hash=False)
    budget: float | None
    budgets: tuple[Budget, ...]
    escalation: Escalation | None
    golden: str
    files: dict[str, FileInfo] = field(hash=False)
    pictures: int


def signed(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest's JSON object with its "sha256": of all its other members, whatever their order and spacing."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def parse(text: bytes) -> Manifest:
    """The manifest of its JSON text; raises BundleError, and nothing else, for any text that is not a valid one."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json: expected JSON, got text that is not ({error}); {REBUILD}") from error
    top = Fields(data, "manifest.json")
    version = top.whole("format", 0)
    if version != FORMAT:
        todo = "update bitgrade on this device" if version > FORMAT else REBUILD
        raise BundleError(f"manifest.json: expected format {FORMAT}, got format {version}; {todo}")
    files = {path: FileInfo(_hex(f), f.whole("bytes", 0)) for path, f in top.table("files")}
    for path in files:
        inside(path, "manifest.json: files")
    target = _target(top.object("target"))
    variants = tuple(_variant(v, target, files) for v in top.objects("variants", least=1))
    manifest = Manifest(
        name=top.text("name"),
        producer=top.get("producer", dict, "an object"),
        target=target,
        shape=_shape(top.object("input")),
        variants=variants,
        **decisions(top, len(variants)),
        golden=top.path("golden"),
        files=files,
        pictures=top.object("input").whole("pictures", 1, 1 << 16),
    )
    for path in (manifest.golden, "weights.bin", "tables.bin"):
        top.require(path in files, f"{path} among the files", sorted(files))
    side = min(manifest.shape[:2])
    top.require(
        manifest.selector is None or side >= SIDE,
        f"an input of {SIDE} pixels a side or more, as its selector needs",
        list(manifest.shape),
    )
    require_different(top, [v.name for v in variants])
    _require_unchanged(top)
    return manifest


def decisions(top: Fields, variants: int) -> dict[str, Any]:
    """What training decided: labels, selector (as JSON), own budget, budgets and escalation. Raises BundleError."""
    return {
        "labels": tuple(top.texts("labels", least=1)),
        "selector": top.get("selector", (dict, type(None)), "an object or null"),
        "budget": _own_budget(top),
        "budgets": tuple(_budget(b) for b in top.objects("budgets")),
        "escalation": _escalation(top, variants),
    }


def facts(f: Fields) -> dict[str, Any]:
    """What is known of a variant but for its code. Raises BundleError."""
    return {
        "name": f.text("name"),
        "bits": f.mapping("bits", _bits),
        "macs": f.whole("macs", 0, 1 << 60),
        "bitops": f.whole("bitops", 0, 1 << 60),
        "cost": f.real("cost", 0),
        "accuracy": f.mapping("accuracy", lambda members, k: members.real(k, 0, 1)),
    }


def require_different(top: Fields, names: list[str]) -> None:
    top.require(len(set(names)) == len(names), "variants of different names", names)


def _require_unchanged(top: Fields) -> None:
    """Of a changed label, or name of a field that may be left out, the fields say nothing."""
    told = _hex(top)
    try:
        came = signed(top.data)["sha256"]
    except RecursionError:  # in fields that nobody knows
        came = "nothing: it is nested too deep"
    if came != told:
        raise BundleError(
            f"manifest.json: its content changed, expected sha256 {told[:16]}..., got {came[:16]}...; {COPY}"
        )


def _hex(f: Fields) -> str:
    value = f.text("sha256")
    f.require(len(value) == 64 and set(value) <= set("0123456789abcdef"), "a sha256 of 64 hexadecimal digits", value)
    return value


def _target(f: Fields) -> TargetInfo:
    levels = tuple(Level(v.text("name"), tuple(v.texts("requires"))) for v in f.objects("levels", least=1))
    names = [v.name for v in levels]
    f.require(len(set(names)) == len(names), "levels of different names", names)
    return TargetInfo(f.text("name"), f.text("family"), f.text("machine"), levels)


def _shape(f: Fields) -> tuple[int, int, int]:
    shape = f.get("shape", list, "a list")
    f.require(len(shape) == 3 and all(type(n) is int and 1 <= n <= 1 << 14 for n in shape), "a shape [H, W, 3]", shape)
    f.require(shape[2] == 3, "3 channels (RGB)", shape)
    return tuple(shape)


def _budget(f: Fields) -> Budget:
    return Budget(f.real("budget", 0), f.real("lambda", 0), f.real("accuracy", 0, 1))


def _own_budget(top: Fields) -> float | None:
    if top.data.get("budget") is None:
        return None
    served = top.data["selector"] is None or bool(top.objects("budgets"))
    top.require(served, "a table of budgets beside a selector and a budget", "an empty one")
    return top.real("budget", 0)


def _escalation(top: Fields, variants: int) -> Escalation | None:
    if top.get("escalation", (dict, type(None)), "an object or null") is None:
        return None
    top.require(top.data["selector"] is not None, "a selector beside an escalation", None)
    return parse_escalation(top.object("escalation"), variants)


def _bits(f: Fields, layer: str) -> tuple[int, int]:
    pair = f.get(layer, list, "a pair of widths")
    f.require(len(pair) == 2 and all(type(b) is int and b in BITS for b in pair), "[w_bits, a_bits] in 2..8", pair)
    return tuple(pair)


def _variant(f: Fields, target: TargetInfo, files: dict[str, FileInfo]) -> Variant:
    variant = Variant(
        **facts(f),
        library=f.path("library"),
        builds=tuple(_build(b, files) for b in f.objects("builds")),
        logit_scale=f.real("logit_scale", 1e-30),
        bytes=f.whole("bytes", 0),
        onnx=f.path("onnx") if "onnx" in f.data else None,
    )
    levels, got = [v.name for v in target.levels], [b.level for b in variant.builds]
    f.require(got == levels, f"a build for each of {', '.join(levels)}", got)
    return variant


def _build(f: Fields, files: dict[str, FileInfo]) -> Build:
    weights, table = f.object("weights"), f.object("table")
    total, packed = weights.whole("bytes", 0), files["weights.bin"].bytes if "weights.bin" in files else 0
    build = Build(
        level=f.text("level"),
        function=f.text("function"),
        parallel=_parallel(f),
        segments=tuple(parse_segment(s, total, packed) for s in weights.objects("segments")),
        weights_bytes=total,
        table_offset=table.whole("offset", 0, step=64),
        table_bytes=table.whole("bytes", 0, step=4),
        workspace=f.whole("workspace", 0),
    )
    stored = files["tables.bin"].bytes if "tables.bin" in files else 0
    table.require(build.table_offset + build.table_bytes <= stored, f"a table within {stored} bytes", table.data)
    return build


def _parallel(f: Fields) -> Parallel | None:
    if f.get("parallel", (dict, type(None)), "an object or null") is None:
        return None
    names = f.object("parallel")
    return Parallel(names.text("share"), names.text("serve"))
