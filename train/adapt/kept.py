"""Keeps fitted variants on disk, so that a run killed while it judges them need not fit them again."""

import json
from hashlib import sha256
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from compile.qdq.metadata import ORIGIN, properties_of, with_metadata
from compile.qdq.values import OnnxError
from runtime.files import write_bytes
from runtime.version import VERSION
from train.adapt.family import AdaptedVariant, Family

INDEX = "variants.json"


def origin_of(family: Family, width: str) -> str:
    """Returns the sha256 of all that decides the variants of a width."""
    digest = sha256(f"{VERSION} {width} {family.settings.record('', '')} {family.normalization}".encode())
    for node in family.network.nodes:
        digest.update(node.SerializeToString(deterministic=True))
    for name, values in sorted(family.network.constants.items()):
        digest.update(name.encode() + values.tobytes())
    digest.update(family.clean.tobytes() + family.degraded.flat.tobytes())
    digest.update(json.dumps(family.kinds.to_dict()).encode())
    return digest.hexdigest()


def write_variants(folder: Path, width: str, origin: str, variants: list[AdaptedVariant]) -> None:
    """Writes the variants of a width, and last the list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for v in variants:
        model = with_metadata(v.model, {ORIGIN.partition(".")[2]: origin})
        write_bytes(folder / f"{v.name}.onnx", model.SerializeToString(deterministic=True))
    index = [{"name": v.name, "kinds": v.kinds, "base": v.base} for v in variants]
    write_bytes(folder / f"{width}-{INDEX}", json.dumps(index).encode())


def read_variants(folder: Path, width: str, origin: str) -> list[AdaptedVariant] | None:
    """Returns the variants of a width that were made of the same; None where there are none, or damaged ones."""
    try:
        index = json.loads((folder / f"{width}-{INDEX}").read_bytes())
        paths = [folder / f"{entry['name']}.onnx" for entry in index]
        if any(properties_of(path)[ORIGIN] != origin for path in paths):
            return None
        models = [onnx.load(path) for path in paths]
        for model in models:
            del model.metadata_props[:]  # as they were before they were kept
        return [
            AdaptedVariant.of_model(model, tuple(entry["kinds"]), entry["base"])
            for model, entry in zip(models, index, strict=True)
        ]
    except (OSError, DecodeError, OnnxError, KeyError, TypeError, ValueError):
        return None  # nothing of use: they are fitted again
