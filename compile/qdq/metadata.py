"""What a quantized file says of itself beside its network: how it was calibrated, and how its pictures are framed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from compile.qdq.values import OnnxError

PREPROCESSING = "bitgrade.preprocessing"  # JSON of compile.calibrate.preprocessing
CALIBRATION = "bitgrade.calibration"  # JSON of compile.calibrate.report
ORIGIN = "bitgrade.origin"  # sha256 of the float file, the pictures and the settings


def with_metadata(model: onnx.ModelProto, members: Mapping[str, Any]) -> onnx.ModelProto:
    """Returns a copy of a model with members, anything that JSON can hold, under "bitgrade.<name>"; texts as they are.

    What else its metadata holds stays.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {entry.key: entry.value for entry in model.metadata_props}
    texts = {f"bitgrade.{name}": v if isinstance(v, str) else json.dumps(v) for name, v in members.items()}
    del copy.metadata_props[:]
    helper.set_model_props(copy, {**known, **texts})
    return copy


def properties_of(path: Path) -> dict[str, str]:
    """Returns the metadata of an ONNX file by name; raises what onnx raises for a file that is none."""
    model = onnx.load(path, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def crop_of(path: Path) -> float | None:
    """Returns the part of a photo's short side that a centred crop keeps, None for the whole photo.

    Raises OnnxError where the file's preprocessing is damaged.
    """
    text = properties_of(path).get(PREPROCESSING)
    if text is None:
        return None
    try:
        crop = json.loads(text)["crop"]
        if crop is None or (type(crop) in (int, float) and 0 < crop <= 1):
            return None if crop is None else float(crop)
    except (KeyError, TypeError, ValueError):
        crop = text
    raise OnnxError(f"{path}: expected a crop in 0..1 in {PREPROCESSING}, got {crop!r}; calibrate the network again")
