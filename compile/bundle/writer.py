"""Contract 2 on disk: libraries, packed weights, tables, golden data and the manifest, complete or not there at all."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from compile.bundle.packing import pack, packed_size
from compile.lowering.lower import Lowered, Segment
from compile.source.opened import Source, BuildVariant
from runtime.abi import ALIGN
from runtime.bundle.manifest import FORMAT, signed
from runtime.bundle.segments import Transform
from runtime.bundle.weights import transformed
from runtime.files import alone_in
from targets import Target


@dataclass(frozen=True, eq=False)
class Built:
    """A variant, lowered for each of `target.compiled_for`, with its library, relative to the bundle."""

    source: BuildVariant
    lowered: list[Lowered]
    library: str


class Blob:
    """One file of aligned pieces in which equal pieces are stored once."""

    def __init__(self):
        self.data = bytearray()
        self._known: dict[bytes, int] = {}

    def add(self, piece: bytes) -> int:
        """Offset of the piece."""
        key = hashlib.sha256(piece).digest()
        if key not in self._known:
            self.data += bytes(-len(self.data) % ALIGN)
            self._known[key] = len(self.data)
            self.data += piece
        return self._known[key]


def write_bundle(out: Path, fill: Callable[[Path], dict]) -> Path:
    """Makes the bundle `out` through a folder beside it: fill(folder) writes everything else and returns the manifest.

    An older bundle of that name is replaced only when the new one is complete; any other folder there is refused. A
    link stays one: the bundle is made where it leads.
    """
    real = Path(os.path.realpath(out))
    if real.exists() and not _only_a_bundle(real):
        raise FileExistsError(
            f"{out}: expected no such folder, or a bundle to replace and nothing else in it; choose another --out"
        )
    real.parent.mkdir(parents=True, exist_ok=True)
    partial = real.with_name(f".{real.name}.partial")
    partial.mkdir(exist_ok=True)
    try:
        with alone_in(partial):
            _fill(partial, fill)
            _replace(real, partial)
    except BlockingIOError as error:
        raise BlockingIOError(
            f"{out}: expected a place that nobody builds into, got one in which another build is at "
            "work; wait for it, or choose another --out"
        ) from error
    return out


def _fill(partial: Path, fill: Callable[[Path], dict]) -> None:
    """Makes a whole bundle of a folder that may hold parts of one that was never finished."""
    try:
        for left in partial.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        manifest = fill(partial)
        manifest["files"] = {
            str(p.relative_to(partial)): {"sha256": sha256(p), "bytes": p.stat().st_size}
            for p in sorted(partial.rglob("*"))
            if p.is_file()
        }
        text = re.sub(r"\[[-\d,\s]+\]", lambda m: " ".join(m[0].split()), json.dumps(signed(manifest), indent=1))
        (partial / "manifest.json").write_text(text + "\n")  # a list of numbers on one line
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace(out: Path, partial: Path) -> None:
    if not out.exists():
        os.rename(partial, out)
        return
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old)


def _only_a_bundle(folder: Path) -> bool:
    """Whether every file there is one that its manifest lists: what may be replaced without a loss."""
    try:
        listed = set(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]) | {"manifest.json"}
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return all(str(p.relative_to(folder)) in listed for p in folder.rglob("*") if not p.is_dir())


def require_place(folder: Path, option: str) -> None:
    """Raises NotADirectoryError unless a folder is there, or can be made; option: who asked for it."""
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        came = "cannot be written" if above.is_dir() else "is a file"
        raise NotADirectoryError(f"{option} {folder}: expected a folder, or a place to make one, but {above} {came}")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_contents(folder: Path, source: Source, target: Target, built: list[Built], producer: dict) -> dict:
    """Writes weights, tables, golden data and ONNX files into `folder`; the manifest without its list of files."""
    weights, tables, variants = Blob(), Blob(), []
    for b in built:
        variants.append(_variant(b, target, weights, tables))
        path = folder / "onnx" / f"{b.source.name}.onnx"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(b.source.onnx, path)
    (folder / "weights.bin").write_bytes(bytes(weights.data))
    (folder / "tables.bin").write_bytes(bytes(tables.data))
    np.savez_compressed(
        folder / "golden.npz",
        images=source.pictures,
        **{f"logits_{v.name}": v.logits.astype(np.int32) for v in source.variants},
    )
    return {
        "format": FORMAT,
        "name": source.name,
        "producer": producer,
        "target": {
            "name": target.name,
            "family": target.family,
            "machine": target.machine,
            "levels": [{"name": v.name, "requires": list(v.requires)} for v in target.compiled_for],
        },
        "input": {"shape": list(source.pictures.shape[1:]), "pictures": built[0].lowered[0].pictures},
        "labels": source.labels,
        "variants": variants,
        "selector": source.selector,
        "budget": source.budget,
        "budgets": source.budgets,
        "escalation": source.escalation,
        "golden": "golden.npz",
    }


def _variant(built: Built, target: Target, weights: Blob, tables: Blob) -> dict:
    source = built.source
    builds = [
        {"level": level.name, **_functions(lowered, target.suffix(level)), **_data(lowered, weights, tables)}
        for level, lowered in zip(target.compiled_for, built.lowered, strict=True)
    ]
    segments = {s["offset"]: packed_size(s["count"], s["bits"]) for b in builds for s in b["weights"]["segments"]}
    table_bytes = {b["table"]["offset"]: b["table"]["bytes"] for b in builds}
    return {
        "name": source.name,
        "library": built.library,
        "onnx": f"onnx/{source.name}.onnx",
        "builds": builds,
        "logit_scale": float(source.graph.tensors[source.graph.output].scale),
        "bytes": sum(segments.values()) + sum(table_bytes.values()),
        **source.facts.to_dict(),
    }


def _functions(lowered: Lowered, suffix: str) -> dict:
    """Names in the library: of the code for one thread, and of what several threads run, where there is that."""
    public = {v.name_hint for v, f in lowered.module.functions.items() if "global_symbol" in f.attrs}
    parallel = {name: name + suffix for name in ("share", "serve")} if public > {"main"} else None
    return {"function": "main" + suffix, "parallel": parallel}


def _data(lowered: Lowered, weights: Blob, tables: Blob) -> dict:
    """What one level's code reads, and how much memory it works in."""
    segments = [_segment(s, weights) for s in lowered.segments]
    return {
        "weights": {"bytes": lowered.sizes.weights, "segments": segments},
        "table": {"offset": tables.add(lowered.table.astype("<i4").tobytes()), "bytes": int(lowered.table.nbytes)},
        "workspace": lowered.sizes.workspace,
    }


def _segment(segment: Segment, weights: Blob) -> dict:
    origin = segment.origin
    codes = segment.codes if origin is None else origin.codes.reshape(-1)
    stored = {
        "offset": weights.add(pack(codes, segment.bits).tobytes()),
        "count": int(codes.size),
        "bits": segment.bits,
        "at": segment.at,
    }
    if origin is None:
        return stored
    forms = (tuple(map(tuple, form.tolist())) for form in (origin.down, origin.across))
    transform = Transform(origin.codes.shape, *forms, origin.block, origin.step, origin.group, origin.bytes)
    if not np.array_equal(transformed(codes, transform), segment.codes):
        raise ValueError("expected weights that their origin gives back, got others; the rule of this kernel is wrong")
    return {**stored, "transform": asdict(transform)}
