"""What a bundle holds: libraries, packed weights, tables, golden data, the networks' files, and the manifest."""

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compile.bundle.look import CompiledLook
from compile.bundle.packing import pack, packed_size
from compile.lowering.lower import Lowered, WeightPiece
from compile.source.opened import BuildVariant, Source
from runtime.abi import ALIGN
from runtime.bundle.golden import MOST_BYTES
from runtime.bundle.manifest import FILE, FORMAT, TABLES, WEIGHTS, signed
from runtime.bundle.segments import Transform
from runtime.bundle.weights import transformed
from runtime.files import naming, replacing, write_bytes
from targets import Target


@dataclass(frozen=True, eq=False)
class CompiledVariant:
    """A variant, lowered for each of `target.compiled_for`, with its library, relative to the bundle."""

    source: BuildVariant
    lowered: list[Lowered]
    library: str


class Blob:
    """One file of aligned pieces in which equal pieces are stored once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._offsets: dict[bytes, int] = {}

    def add(self, piece: bytes) -> int:
        """Returns the offset of the piece, which is added unless it is there."""
        key = hashlib.sha256(piece).digest()
        if key not in self._offsets:
            self.data += bytes(-len(self.data) % ALIGN)
            self._offsets[key] = len(self.data)
            self.data += piece
        return self._offsets[key]


def write_contents(
    folder: Path, source: Source, variants: list[CompiledVariant], look: CompiledLook, producer: dict[str, Any]
) -> None:
    """Writes all but the libraries into the folder of a bundle: weights, tables, golden data, network files, manifest.

    producer: what the manifest says of the tools that made it. Raises ValueError for weights that are not what their
    origin gives back.
    """
    target = look.target
    weights, tables = Blob(), Blob()
    variants_json = [_variant_json(variant, target, weights, tables) for variant in variants]
    look_json = look.to_dict(tables.add(look.look.table.astype("<i4").tobytes()))
    write_bytes(folder / WEIGHTS, bytes(weights.data))
    write_bytes(folder / TABLES, bytes(tables.data))
    for variant in variants:
        path = folder / _file_path(variant)
        path.parent.mkdir(exist_ok=True)
        with naming(path):
            _copy_onnx(variant.source, path)
    logits = {f"logits_{v.name}": v.logits.astype(np.int32) for v in source.variants}
    _write_golden(folder / "golden.npz", {"images": source.pictures, **logits})
    write_manifest(
        folder,
        {
            "format": FORMAT,
            "name": source.name,
            "producer": producer,
            "target": {
                "name": target.name,
                "family": target.family,
                "machine": target.machine,
                "levels": [{"name": v.name, "requires": list(v.requires)} for v in target.compiled_for],
            },
            "input": _input_json(source, variants[0].lowered[0].pictures),
            "labels": source.labels,
            "scores": source.scores,
            "variants": variants_json,
            "look": look_json,
            "selector": source.selector,
            "budget": source.budget,
            "budgets": source.budgets,
            "escalation": source.escalation,
            "golden": "golden.npz",
        },
    )


def _input_json(source: Source, pictures: int) -> dict[str, Any]:
    """The shape, how many pictures a call takes, and the crop of a photo where it is not taken whole."""
    crop = {} if source.crop is None else {"crop": source.crop}
    return {"shape": list(source.pictures.shape[1:]), "pictures": pictures, **crop}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json last: its members, the size and sha256 of every other file, and the sha256 of all that."""
    files = {
        str(p.relative_to(folder)): {"sha256": _sha256(p), "bytes": p.stat().st_size}
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
    text = json.dumps(signed({**manifest, "files": files}), indent=1)
    one_line_lists = re.sub(r"\[[-\d,\s]+\]", lambda match: " ".join(match[0].split()), text)
    write_bytes(folder / FILE, one_line_lists.encode() + b"\n")


def _write_golden(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes golden data. Raises ValueError for more than a device takes."""
    total = sum(array.nbytes for array in arrays.values())
    if total > MOST_BYTES:
        raise ValueError(
            f"expected golden pictures and logits of {MOST_BYTES} bytes at most, got {total}; leave fewer golden "
            "pictures in the run"
        )
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]  # its stub


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _copy_onnx(variant: BuildVariant, path: Path) -> None:
    """The file as it is; one whose constants lie in files beside it becomes a whole one."""
    if variant.opened is None or variant.opened.is_whole:
        shutil.copyfile(variant.onnx, path)
        return
    path.write_bytes(variant.opened.form.file.SerializeToString())


def _file_path(variant: CompiledVariant) -> str:
    """Where the network's own file lies in the bundle: onnx/NAME.onnx or tflite/NAME.tflite."""
    suffix = variant.source.onnx.suffix
    return f"{suffix[1:]}/{variant.source.name}{suffix}"


def _variant_json(variant: CompiledVariant, target: Target, weights: Blob, tables: Blob) -> dict[str, Any]:
    """A variant as the manifest has it; what its code reads is added to the blobs."""
    source = variant.source
    builds = [
        {"level": level.name, **_functions_json(lowered, target.suffix(level)), **_data_json(lowered, weights, tables)}
        for level, lowered in zip(target.compiled_for, variant.lowered, strict=True)
    ]
    segments = {s["offset"]: packed_size(s["count"], s["bits"]) for b in builds for s in b["weights"]["segments"]}
    table_bytes = {b["table"]["offset"]: b["table"]["bytes"] for b in builds}
    onnx = {"onnx": _file_path(variant)} if source.onnx.suffix == ".onnx" else {}
    return {
        "name": source.name,
        "library": variant.library,
        **onnx,
        "builds": builds,
        "logit_scale": float(source.graph.tensors[source.graph.output].scale),
        "bytes": sum(segments.values()) + sum(table_bytes.values()),
        **source.facts.to_dict(),
    }


def _functions_json(lowered: Lowered, suffix: str) -> dict[str, Any]:
    """Names in the library: of the code for one thread, and of what several threads run, where there is that."""
    public = {v.name_hint for v, f in lowered.module.functions.items() if "global_symbol" in f.attrs}
    parallel = {name: name + suffix for name in ("share", "serve")} if public > {"main"} else None
    return {"function": "main" + suffix, "parallel": parallel}


def _data_json(lowered: Lowered, weights: Blob, tables: Blob) -> dict[str, Any]:
    """What one level's code reads, and how much memory it works in."""
    segments = [_segment_json(s, weights) for s in lowered.pieces]
    table_offset = tables.add(lowered.table.astype("<i4").tobytes())
    return {
        "weights": {"bytes": lowered.sizes.weights, "segments": segments},
        "table": {"offset": table_offset, "bytes": int(lowered.table.nbytes)},
        "workspace": lowered.sizes.workspace,
    }


def _segment_json(piece: WeightPiece, weights: Blob) -> dict[str, Any]:
    """One kernel's weights: the codes that it reads, or those that its transform makes them of."""
    origin = piece.origin
    codes = piece.codes if origin is None else origin.codes.reshape(-1)
    stored = {
        "offset": weights.add(pack(codes, piece.bits).tobytes()),
        "count": int(codes.size),
        "bits": piece.bits,
        "at": piece.at,
    }
    if origin is None:
        return stored
    outputs, taps, inputs = origin.codes.shape
    transform = Transform(
        shape=(outputs, taps, inputs),
        down=tuple(map(tuple, origin.down.tolist())),
        across=tuple(map(tuple, origin.across.tolist())),
        block=origin.block,
        step=origin.step,
        group=origin.group,
        bytes=origin.bytes,
    )
    if not np.array_equal(transformed(codes, transform), piece.codes):
        raise ValueError("expected weights that their origin gives back, got others; the rule of this kernel is wrong")
    return {**stored, "transform": asdict(transform)}
