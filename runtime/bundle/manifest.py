"""Reads a bundle's manifest into frozen dataclasses and checks every field, so that later code can rely on them."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from runtime.abi import SLACK, aligned
from runtime.bundle.decisions import OBJECT_OR_NULL, Decisions, Facts, parse_decisions, parse_facts, require_different
from runtime.bundle.look import Look, parse_look
from runtime.bundle.segments import Segment, parse_segment
from runtime.choice.quality import SIDE
from runtime.fields import COPY, LIMIT, REBUILD, BundleError, Fields, require_inside
from runtime.scores import KINDS, ScoreKind, count_logits

FORMAT = 5
FILE = "manifest.json"
WEIGHTS = "weights.bin"
TABLES = "tables.bin"
SOURCE_FAMILIES = ("cuda",)  # whose libraries may be compiled on the device, which then lists them
LARGEST_SIDE = 1 << 14
MOST_PICTURES = 1 << 16


@dataclass(frozen=True)
class Level:
    """One way of compiling variants, and what it requires: words of /proc/cpuinfo, or one "sm_NN" of an NVIDIA GPU."""

    name: str
    requires: tuple[str, ...]


@dataclass(frozen=True)
class TargetInfo:
    """The target that the bundle was built for; there is code for each of its levels, best first."""

    name: str
    family: str
    machine: str
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Parallel:
    """Names of a library's functions for several threads: what all run for a picture, and what helpers always run."""

    share: str
    serve: str


@dataclass(frozen=True)
class Build:
    """A variant's code for one level, a function of its library, and the data that it reads; sizes in bytes."""

    level: str
    function: str
    parallel: Parallel | None
    segments: tuple[Segment, ...]
    weights_bytes: int
    table_offset: int
    table_bytes: int
    workspace: int


@dataclass(frozen=True)
class Variant(Facts):
    """One bit configuration, compiled for each level of the target, in the order of the levels.

    logit_scale: what one unit of an integer logit is worth; bytes: of weights and tables; onnx: its file in the bundle.
    """

    library: str
    builds: tuple[Build, ...]
    logit_scale: float
    bytes: int
    onnx: str | None


@dataclass(frozen=True)
class FileInfo:
    """A file's sha256 in hexadecimal digits, and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest(Decisions):
    """All of manifest.json.

    shape: the input's [H, W, C], C = 3 for RGB and 1 for grey; pictures: how many a call takes; golden: a file's name;
    scores: how they follow from logits, softmax where the bundle is older than this field. crop: the part of a photo's
    short side that a centred crop keeps, None for the whole photo.
    """

    name: str
    producer: dict[str, Any] = field(hash=False)  # JSON as the build wrote it, for people
    target: TargetInfo
    shape: tuple[int, int, int]
    variants: tuple[Variant, ...]
    look: Look
    golden: str
    files: dict[str, FileInfo] = field(hash=False)
    pictures: int
    scores: ScoreKind
    crop: float | None = None

    @property
    def outputs(self) -> int:
        """How many logits a variant gives."""
        return count_logits(self.scores, len(self.labels))

    @property
    def used(self) -> frozenset[str]:
        """The files that an engine reads."""
        libraries = (variant.library for variant in self.variants)
        return frozenset({WEIGHTS, TABLES, self.golden, self.look.library, *libraries})


def signed(data: dict[str, Any]) -> dict[str, Any]:
    """Returns a manifest's JSON object with "sha256", that of all other members whatever their order and spacing."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def parse(text: bytes) -> Manifest:
    """Reads a manifest. Raises BundleError, and nothing else, for any text that is not a valid one."""
    try:
        return _parse_manifest(Fields(_load(text), FILE))
    except RecursionError as error:
        raise BundleError(f"{FILE}: expected a few levels of JSON, got more than can be read; {REBUILD}") from error


def _load(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BundleError(f"{FILE}: expected JSON, got text that is not ({error}); {REBUILD}") from error


def _parse_manifest(top: Fields) -> Manifest:
    version = top.whole("format", 0)
    if version != FORMAT:
        todo = "update bitgrade on this device" if version > FORMAT else REBUILD
        raise BundleError(f"{FILE}: expected format {FORMAT}, got format {version}; {todo}")
    files = _parse_files(top)
    for path in (WEIGHTS, TABLES):
        top.require(path in files, f"{path} among the files", sorted(files))
    target = _parse_target(top.object("target"))
    variants = tuple(_parse_variant(v, target, files) for v in top.objects("variants", least=1))
    shape = _parse_shape(top.object("input"))
    if top.data.get("selector") is not None:
        expected = f"an input of {SIDE} pixels a side or more in RGB, as its selector needs"
        top.require(min(shape[:2]) >= SIDE and shape[2] == 3, expected, list(shape))
    decisions = parse_decisions(top, len(variants))
    manifest = Manifest(
        name=top.text("name"),
        producer=top.get("producer", dict, "an object"),
        target=target,
        shape=shape,
        variants=variants,
        look=parse_look(top, [level.name for level in target.levels], _stored_bytes(files, "tables.bin"), shape[2]),
        golden=top.path("golden"),
        files=files,
        pictures=top.object("input").whole("pictures", 1, MOST_PICTURES),
        scores=_parse_scores(top),
        crop=_parse_crop(top.object("input")),
        **vars(decisions),
    )
    libraries = {manifest.look.library, *(variant.library for variant in variants)}
    for path in sorted(manifest.used):
        is_source = target.family in SOURCE_FAMILIES and path in libraries
        top.require(path in files or is_source, f"{path} among the files", sorted(files))
    memory = sum({build.segments: build.weights_bytes for v in variants for build in v.builds}.values())
    top.require(memory <= LIMIT, f"weights of {LIMIT} bytes at most in memory", memory)
    require_different(top, [v.name for v in variants])
    _require_unchanged(top)
    return manifest


def _require_unchanged(top: Fields) -> None:
    """Raises BundleError unless the content has its sha256: no field tells that a label changed, for one."""
    expected = _parse_sha256(top)
    sha256 = signed(top.data)["sha256"]
    if sha256 != expected:
        raise BundleError(
            f"{FILE}: its content changed, expected sha256 {expected[:16]}..., got {sha256[:16]}...; {COPY}"
        )


def _parse_sha256(fields: Fields) -> str:
    digits = fields.text("sha256")
    hexadecimal = len(digits) == 64 and set(digits) <= set("0123456789abcdef")
    fields.require(hexadecimal, "a sha256 of 64 hexadecimal digits", digits)
    return digits


def _parse_files(top: Fields) -> dict[str, FileInfo]:
    files = {}
    for path, fields in top.table("files"):
        require_inside(path, f"{FILE}: files")
        files[path] = FileInfo(_parse_sha256(fields), fields.whole("bytes", 0))
    return files


def _parse_target(fields: Fields) -> TargetInfo:
    levels = fields.objects("levels", least=1)
    target = TargetInfo(
        name=fields.text("name"),
        family=fields.text("family"),
        machine=fields.text("machine"),
        levels=tuple(Level(level.text("name"), tuple(level.texts("requires"))) for level in levels),
    )
    names = [level.name for level in target.levels]
    fields.require(len(set(names)) == len(names), "levels of different names", names)
    return target


def _parse_shape(fields: Fields) -> tuple[int, int, int]:
    shape = fields.get("shape", list, "a list")
    sides = all(type(n) is int and 1 <= n <= LARGEST_SIDE for n in shape)
    fields.require(len(shape) == 3 and sides, "a shape [H, W, C]", shape)
    height, width, channels = shape
    fields.require(channels in (1, 3), "3 channels (RGB) or 1 (grey)", shape)
    return height, width, channels


def _parse_scores(top: Fields) -> ScoreKind:
    if "scores" not in top.data:
        return "softmax"
    text = top.text("scores")
    kind = next((kind for kind in KINDS if kind == text), None)
    top.require(kind is not None, f"scores among {', '.join(KINDS)}", text)
    classes = len(top.texts("labels", least=1))
    top.require(text != "binary" or classes == 2, "two labels of one logit", classes)
    return kind or "softmax"


def _parse_crop(fields: Fields) -> float | None:
    """The crop; bundles of networks that saw whole pictures say nothing of one."""
    return None if fields.data.get("crop") is None else fields.real("crop", 1e-3, 1)


def _parse_variant(fields: Fields, target: TargetInfo, files: dict[str, FileInfo]) -> Variant:
    variant = Variant(
        **vars(parse_facts(fields)),
        library=fields.path("library"),
        builds=tuple(_parse_build(build, files) for build in fields.objects("builds")),
        logit_scale=fields.real("logit_scale", 1e-30),
        bytes=fields.whole("bytes", 0),
        onnx=fields.path("onnx") if "onnx" in fields.data else None,
    )
    levels = [level.name for level in target.levels]
    built_for = [build.level for build in variant.builds]
    fields.require(built_for == levels, f"a build for each of {', '.join(levels)}", built_for)
    return variant


def _parse_build(fields: Fields, files: dict[str, FileInfo]) -> Build:
    weights = fields.object("weights")
    table = fields.object("table")
    unpacked = weights.whole("bytes", 0)
    packed = _stored_bytes(files, WEIGHTS)
    build = Build(
        level=fields.text("level"),
        function=fields.text("function"),
        parallel=_parse_parallel(fields),
        segments=tuple(parse_segment(segment, unpacked, packed) for segment in weights.objects("segments")),
        weights_bytes=unpacked,
        table_offset=table.whole("offset", 0, step=64),
        table_bytes=table.whole("bytes", 0, step=4),
        workspace=fields.whole("workspace", 0),
    )
    _require_dense(weights, build)
    stored = _stored_bytes(files, TABLES)
    table.require(build.table_offset + build.table_bytes <= stored, f"a table within {stored} bytes", table.data)
    return build


def _require_dense(weights: Fields, build: Build) -> None:
    """Raises BundleError where weights overlap, or have memory behind them that no kernel reads."""
    end = 0
    for segment in build.segments:
        weights.require(segment.at >= end, f"segments one after another, the next from {end} on", segment.at)
        end = segment.at + segment.size
    most = aligned(end) + SLACK
    weights.require(
        build.weights_bytes <= most, f"at most the {most} bytes that its segments fill", build.weights_bytes
    )


def _stored_bytes(files: dict[str, FileInfo], name: str) -> int:
    return files[name].bytes if name in files else 0


def _parse_parallel(fields: Fields) -> Parallel | None:
    if fields.get("parallel", OBJECT_OR_NULL, "an object or null") is None:
        return None
    names = fields.object("parallel")
    return Parallel(names.text("share"), names.text("serve"))
