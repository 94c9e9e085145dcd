"""A bundle's manifest as frozen dataclasses; every field is checked, so that nothing later meets a surprise."""

import json
from dataclasses import dataclass, field
from typing import Any

from runtime.fields import REBUILD, BundleError, Fields, inside

FORMAT = 1
BITS = range(2, 9)


@dataclass(frozen=True)
class TargetInfo:
    """What the bundle was built for; `requires` are words of /proc/cpuinfo, or one "sm_NN" of an NVIDIA GPU."""

    name: str
    family: str
    machine: str
    requires: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """`count` codes of `bits` bits from byte `offset` of weights.bin, for byte `at` of the unpacked buffer."""

    offset: int
    count: int
    bits: int
    at: int

    @property
    def stored(self) -> int:
        """Bytes in the file."""
        return -(-self.count * self.bits // 8)


@dataclass(frozen=True)
class Variant:
    """One bit configuration, compiled. Sizes in bytes; cost of 8 bits everywhere is 1; accuracy by family in 0..1."""

    name: str
    library: str
    segments: tuple[Segment, ...]
    weights_bytes: int
    table_offset: int
    table_bytes: int
    workspace: int
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
    """The whole of manifest.json; `shape` is the input's [H, W, 3]."""

    name: str
    producer: dict[str, Any] = field(hash=False)
    target: TargetInfo
    shape: tuple[int, int, int]
    labels: tuple[str, ...]
    variants: tuple[Variant, ...]
    selector: dict[str, Any] | None = field(hash=False)
    budgets: tuple[Budget, ...]
    golden: str
    files: dict[str, FileInfo] = field(hash=False)


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
    manifest = Manifest(
        name=top.text("name"),
        producer=top.get("producer", dict, "an object"),
        target=_target(top.object("target")),
        shape=_shape(top.object("input")),
        labels=tuple(top.texts("labels", least=1)),
        variants=tuple(_variant(v, files) for v in top.objects("variants", least=1)),
        selector=top.get("selector", (dict, type(None)), "an object or null"),
        budgets=tuple(_budget(b) for b in top.objects("budgets")),
        golden=top.path("golden"),
        files=files,
    )
    for path in (manifest.golden, "weights.bin", "tables.bin"):
        top.require(path in files, f"{path} among the files", sorted(files))
    names = [v.name for v in manifest.variants]
    top.require(len(set(names)) == len(names), "variants of different names", names)
    return manifest


def _hex(f: Fields) -> str:
    value = f.text("sha256")
    f.require(len(value) == 64 and set(value) <= set("0123456789abcdef"), "a sha256 of 64 hexadecimal digits", value)
    return value


def _target(f: Fields) -> TargetInfo:
    return TargetInfo(f.text("name"), f.text("family"), f.text("machine"), tuple(f.texts("requires")))


def _shape(f: Fields) -> tuple[int, int, int]:
    shape = f.get("shape", list, "a list")
    f.require(len(shape) == 3 and all(type(n) is int and 1 <= n <= 1 << 14 for n in shape), "a shape [H, W, 3]", shape)
    f.require(shape[2] == 3, "3 channels (RGB)", shape)
    return tuple(shape)


def _budget(f: Fields) -> Budget:
    return Budget(f.real("budget", 0), f.real("lambda", 0), f.real("accuracy", 0, 1))


def _bits(f: Fields, layer: str) -> tuple[int, int]:
    pair = f.get(layer, list, "a pair of widths")
    f.require(len(pair) == 2 and all(type(b) is int and b in BITS for b in pair), "[w_bits, a_bits] in 2..8", pair)
    return tuple(pair)


def _variant(f: Fields, files: dict[str, FileInfo]) -> Variant:
    weights, table = f.object("weights"), f.object("table")
    total = weights.whole("bytes", 0)
    variant = Variant(
        name=f.text("name"),
        library=f.path("library"),
        segments=tuple(_segment(s, total, files) for s in weights.objects("segments")),
        weights_bytes=total,
        table_offset=table.whole("offset", 0, step=64),
        table_bytes=table.whole("bytes", 0, step=4),
        workspace=f.whole("workspace", 0),
        logit_scale=f.real("logit_scale", 1e-30),
        bits=f.mapping("bits", _bits),
        macs=f.whole("macs", 0, 1 << 60),
        bitops=f.whole("bitops", 0, 1 << 60),
        bytes=f.whole("bytes", 0),
        cost=f.real("cost", 0),
        accuracy=f.mapping("accuracy", lambda members, k: members.real(k, 0, 1)),
        onnx=f.path("onnx") if "onnx" in f.data else None,
    )
    stored = files["tables.bin"].bytes if "tables.bin" in files else 0
    table.require(variant.table_offset + variant.table_bytes <= stored, f"a table within {stored} bytes", table.data)
    return variant


def _segment(f: Fields, total: int, files: dict[str, FileInfo]) -> Segment:
    bits = f.whole("bits", BITS.start, BITS.stop - 1)
    s = Segment(f.whole("offset", 0, step=64), f.whole("count", 1), bits, f.whole("at", 0))
    stored = files["weights.bin"].bytes if "weights.bin" in files else 0
    f.require(s.offset + s.stored <= stored, f"a segment within {stored} bytes", f.data)
    f.require(s.at + s.count <= total, f"codes within {total} unpacked bytes", f.data)
    return s
